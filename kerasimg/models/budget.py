"""The dry run: a model's layers are made without allocating anything, counted, and only then given their weights.

Under a `keras.StatelessScope(initialize_variables=False)` Keras makes every variable without a value and
keeps it in a list, which the end of a plain scope works off. So the model that was counted is the model that is used;
nothing is built twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

# Private, and used nowhere else: there is no public way to forget variables that shall never be allocated.
from keras.src.backend.common import global_state

from kerasimg.errors import CallError, nearest

DEFAULT_LIMITS: Mapping[str, int] = {"params": 1_000_000_000, "tensor": 200_000_000, "layers": 5_000}
"""params: parameters of the model. tensor: values of the picture, or of the largest output of a layer for one picture.
layers: those of backbones counted."""

_PENDING = "uninitialized_variables"


class OverBudget(Exception):
    """A model is larger than allowed; the message says in what."""


@contextmanager
def deferred_variables() -> Iterator[None]:
    """Variables made inside get their values when the block ends, none if it ends by an exception."""
    before = list(global_state.get_global_attribute(_PENDING) or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    except BaseException:
        global_state.set_global_attribute(_PENDING, before)
        raise
    with keras.StatelessScope():
        pass  # its end gives every pending variable its value


@contextmanager
def no_variables() -> Iterator[None]:
    """Variables made inside never get values: for those who only look at shapes."""
    before = list(global_state.get_global_attribute(_PENDING) or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_PENDING, before)


class Budget:
    """Counts what the layers of a model would take, and refuses what is beyond the limits."""

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        for name in (limits or {}).keys() - DEFAULT_LIMITS.keys():
            raise CallError(f"no limit '{name}'{nearest(name, DEFAULT_LIMITS)} (limits: {', '.join(DEFAULT_LIMITS)})")
        self.limits = {**DEFAULT_LIMITS, **(limits or {})}
        self.params = 0
        self.layers = 0

    def count(self, layer: Any, outputs: Iterable[Any]) -> None:
        """Add one layer, or nothing for None; `outputs` are the shapes of what it gives, with the batch first."""
        if layer is not None:
            self.params += sum(math.prod(variable.shape) for variable in layer.weights)
            self.layers += len(getattr(layer, "layers", ())) or 1
        tensor = max((math.prod(size or 1 for size in shape[1:]) for shape in outputs), default=0)
        for name, found, what in (
            ("params", self.params, "parameters"),
            ("tensor", tensor, "values in one tensor"),
            ("layers", self.layers, "layers"),
        ):
            if found > self.limits[name]:
                raise OverBudget(
                    f"{found:,} {what}, and the limit is {self.limits[name]:,}; "
                    f'if that is meant, raise it: limits={{"{name}": {found}}}, or --limit {name}={found}'
                )
