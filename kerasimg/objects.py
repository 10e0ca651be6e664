"""From what a checked spec names to the Keras object: a name, or {"type": name, argument: value}."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from kerasimg.errors import CallError
from kerasimg.spec import arguments, kinds


def make(group: str, value: Any) -> Any:
    """Make the object of a group that a checked value names; of an activation, the function.

    A number, for `schedules`, is itself; so is null.
    """
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        value = {"type": value}
    name, given = value["type"], {key: item for key, item in value.items() if key != "type"}
    named = find(group, name)
    return named if group == "activations" and not isinstance(named, type) else named(**convert(group, name, given))


def make_layer(name: str, given: Mapping[str, Any], layer_name: str | None = None) -> Any:
    """Make a layer of keras.layers, kerasimg.layers or a registered one.

    name: the class.  given: checked arguments.  layer_name: None lets Keras choose.
    """
    return find("layers", name)(name=layer_name, **convert("layers", name, given))


def find(group: str, name: str) -> Any:
    """Find the class or function with a name in a group, registered or of Keras."""
    entry = arguments.entry(group, name)
    if entry is None:
        raise CallError(arguments.unknown_name(group, name))
    if "object" in entry:
        return entry["object"]
    module = importlib.import_module(entry.get("module", arguments.MODULES[group]))
    return getattr(module, arguments.canonical(group, name))


def convert(group: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the arguments that name an object by the object, so that Keras never sees a dict."""
    takes = (arguments.entry(group, name) or {"args": {}})["args"]
    return {key: _value(takes[key]["kind"], value) for key, value in given.items()}


def _value(kind: str, value: Any) -> Any:
    groups = [option.group for option in kinds.options(kinds.parse(kind)) if isinstance(option, kinds.Object)]
    return make(groups[0], value) if groups else value
