"""A space as KerasTuner's HyperParameters: one for each search value, named by its path, in conditional scopes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from keras_tuner import HyperParameters

from kerasimg.tuning.space import Dimension, Space


def declare(space: Space, hp: Any = None) -> Any:
    """Register every value of a space; what stands inside an option is conditional on it.

    hp: a `keras_tuner.HyperParameters`, whose values stay as they are; None: a new one.
    """
    hp = HyperParameters() if hp is None else hp
    for dimension in space.dimensions:
        with ExitStack() as scopes:
            for name, option in dimension.within:
                scopes.enter_context(hp.conditional_scope(name, [space[name].key(option)]))
            _register(hp, dimension)
    return hp


def _register(hp: Any, dimension: Dimension) -> None:
    default = dimension.key(dimension.default)
    if dimension.keys:
        hp.Choice(dimension.name, list(dimension.keys), default=default)
        return
    how = {"step": dimension.step, "sampling": "log" if dimension.log else "linear", "default": default}
    make = hp.Int if dimension.kind == "int" else hp.Float
    make(dimension.name, dimension.low, dimension.high, **how)
