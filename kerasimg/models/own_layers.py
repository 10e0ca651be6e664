"""Layers of a program's own: what they compute may change while their names, arguments and weights stay the same.

Their code may be edited before the next process, and may read a value that this one sets. So what such a layer has
computed is stored for this layer object alone, and found by no other.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from kerasimg.keras_internals import layers_within

KNOWN = ("keras", "kerasimg")
"""Packages whose version says what their layers compute."""

_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def own_layer_names(layers: Iterable[Any]) -> list[str]:
    """Returns a name for each layer of another class than Keras' and kerasimg's, also within wrappers.

    No other layer ever has the same one.
    """
    every = [part for layer in layers for part in layers_within(layer)]
    own = [part for part in every if type(part).__module__.partition(".")[0] not in KNOWN]
    return [_names.setdefault(part, secrets.token_hex(16)) for part in own]
