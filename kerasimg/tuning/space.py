"""The search space of a spec: its search values by name, their conditions, and the number of points.

Only `declare` imports KerasTuner, so that a space can be printed quickly.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.locations import show_path
from kerasimg.spec.search import SearchValue

Kind = Literal["choice", "int", "float"]
Key = str | int | float
"""A value that KerasTuner chooses: a scalar, of the same type as all others of its Choice."""

DIGITS = 6
"""Significant digits of a float that is drawn from a range; more would not matter and are hard to read."""
NOT_SEARCHED = ("tune", "expect", "pretrained", "card", "name", "about", "task")
"""Sections that cannot have search values."""


@dataclass(frozen=True)
class Dimension:
    """One search value."""

    name: str
    kind: Kind
    default: Any
    options: tuple[Any, ...] = ()
    """The values of a choice, or its labels."""
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    within: tuple[tuple[str, Any], ...] = ()
    """(name, option) of each choice on which this value is conditional, outermost first."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The values that KerasTuner chooses from; empty for a range.

        Options that are not all of one scalar type are given as JSON text. A float with a step lists every value,
        because KerasTuner's own steps miss the last one.
        """
        if self.kind != "choice":
            return self._steps()
        plain = any(all(type(option) is scalar for option in self.options) for scalar in (str, int, float))
        return self.options if plain else tuple(json.dumps(option) for option in self.options)

    def _steps(self) -> tuple[float, ...]:
        """Returns every value of a float with a step, and the default, which need not be one of them."""
        if self.kind != "float" or self.step is None:
            return ()
        count = _steps_between(self.low, self.high, self.step, self.log)
        exact = (self.low * self.step**i if self.log else self.low + i * self.step for i in range(count))
        return tuple(sorted({self._tidy(value) for value in exact} | {self.default}))

    def _tidy(self, value: float) -> float:
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def key(self, value: Any) -> Key:
        """Returns KerasTuner's value for a value of the spec."""
        if self.kind == "float":
            return float(value)
        if self.kind == "int":
            return int(value)
        return self.keys[[json.dumps(option) for option in self.options].index(json.dumps(value))]

    def value(self, key: Key) -> Any:
        """Returns the value of the spec for KerasTuner's value; CallError if it is not an option."""
        if self.kind == "choice":
            for known, option in zip(self.keys, self.options, strict=True):
                if known == key:
                    return option
            raise CallError(f"{self.name}: {key!r} is none of {', '.join(map(str, self.keys))}")
        if self.kind == "int":
            return int(key)
        return key if key == self.default else self._tidy(float(key))

    def allows(self, value: Any) -> bool:
        """Whether the value of another search may be tried here."""
        if self.kind == "choice":
            return json.dumps(value) in [json.dumps(option) for option in self.options]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (self.kind == "int" and value != int(value))
        ):
            return False
        return self.low <= value <= self.high and (not self._steps() or value in self._steps())

    @property
    def count(self) -> int | None:
        """Number of values; None: any number between two bounds."""
        if self.kind == "choice":
            return len(self.options)
        if self.kind == "float":
            return len(self.keys) or None
        return _steps_between(self.low, self.high, self.step or 1, self.log and self.step is not None)

    def __str__(self) -> str:
        if self.kind == "choice":
            return "one of " + ", ".join(json.dumps(option, ensure_ascii=False) for option in self.options)
        words = f"{'an integer' if self.kind == 'int' else 'a number'} from {self.low:g} to {self.high:g}"
        if self.step is not None:
            words += f", each {self.step:g} times the one before" if self.log else f", in steps of {self.step:g}"
        return words + (", on a logarithmic scale" if self.log and self.step is None else "")


@dataclass(frozen=True)
class Space:
    """All search values of a spec, each after those on which it depends."""

    dimensions: tuple[Dimension, ...]

    def __getitem__(self, name: str) -> Dimension:
        return next(dimension for dimension in self.dimensions if dimension.name == name)

    def active(self, values: Mapping[str, Any]) -> Iterator[Dimension]:
        """Yields the active dimensions: those whose conditions hold for these values of the spec, or the defaults."""
        known: dict[str, Any] = {}
        for dimension in self.dimensions:
            if all(name in known and known[name] == option for name, option in dimension.within):
                known[dimension.name] = values.get(dimension.name, dimension.default)
                yield dimension

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of the active dimensions, with defaults for those that are missing."""
        return {dimension.name: values.get(dimension.name, dimension.default) for dimension in self.active(values)}

    @property
    def defaults(self) -> dict[str, Any]:
        """The values that the spec has without a search."""
        return self.complete({})

    def values(self, keys: Mapping[str, Key]) -> dict[str, Any]:
        """Returns the values of the spec for KerasTuner's values, of the active dimensions."""
        values = {item.name: item.value(keys[item.name]) for item in self.dimensions if item.name in keys}
        return self.complete(values)

    @property
    def size(self) -> int | None:
        """Number of different trials; None: infinite, because a value is any number of a range."""
        return None if any(dimension.count is None for dimension in self.dimensions) else self.points

    @property
    def points(self) -> int:
        """Number of different trials if each range without steps counts as one value."""
        return math.prod(self._points_of(dimension) for dimension in self.dimensions if not dimension.within)

    def _points_of(self, dimension: Dimension) -> int:
        inside = [inner for inner in self.dimensions if inner.within and inner.within[-1][0] == dimension.name]
        if not inside:
            return 1 if dimension.count is None else dimension.count
        return sum(
            math.prod(self._points_of(inner) for inner in inside if inner.within[-1][1] == option)
            for option in dimension.options
        )

    def describe(self) -> dict[str, Any]:
        """Returns the space as plain values for JSON."""
        return {
            "size": self.size,
            "points": self.points,
            "values": [
                {"name": item.name, "kind": item.kind, "default": item.default}
                | ({"options": list(item.options)} if item.kind == "choice" else {"low": item.low, "high": item.high})
                | ({"step": item.step, "log": item.log} if item.kind != "choice" else {})
                | ({"when": dict(item.within)} if item.within else {})
                for item in self.dimensions
            ],
        }


def space_of(spec: Spec) -> Space:
    """Returns the search space of a spec; SpecError if a search value has no effect or a name occurs twice."""
    faults = []
    dimensions = []
    counted = Counter(value.name for value in spec.search)
    for value in spec.search:
        place = show_path(spec.document, value.path)
        if value.path[0] in NOT_SEARCHED:
            message = f"a search value cannot stand in '{value.path[0]}': no trial would differ by it"
            faults.append(Fault(spec.file, place, message))
        elif counted[value.name] > 1:
            faults.append(Fault(spec.file, place, f"a second search value named '{value.name}'; rename one"))
        elif (within := _within(spec, value)) is not None:
            dimensions.append(_dimension(value, within))
    if faults:
        raise SpecError(faults)
    return Space(tuple(sorted(dimensions, key=lambda item: item.name != "variant")))  # others may depend on the variant


def resolve(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """Returns the spec with these values of its space, as a trial trains it.

    values: by name; a missing one has its default. SpecError if the result is wrong, although each value is allowed.
    """
    return load_again(spec, chosen=values, other_options=False)


def declare(space: Space, hp: Any = None) -> Any:
    """Register every value of a space as a KerasTuner hyperparameter; values inside an option are conditional on it.

    hp: a `keras_tuner.HyperParameters`, whose values stay as they are; None: a new one.
    """
    from keras_tuner import HyperParameters

    hp = HyperParameters() if hp is None else hp
    for dimension in space.dimensions:
        with ExitStack() as scopes:
            for name, option in dimension.within:
                scopes.enter_context(hp.conditional_scope(name, [space[name].key(option)]))
            _register(hp, dimension)
    return hp


def _steps_between(low: float, high: float, step: float, log: bool) -> int:
    return int((math.log(high / low, step) if log else (high - low) / step) + 1e-8) + 1


def _within(spec: Spec, value: SearchValue) -> tuple[tuple[str, Any], ...] | None:
    """Returns the conditions of a search value; None if its param was given or its variant is not chosen."""
    if value.path[0] == "params" and value.path[1] in spec.given:
        return None
    outer: tuple[tuple[str, Any], ...] = ()
    if value.path[0] == "variants":
        variant = value.path[1]
        searched = {other.name: other for other in spec.search if other.path == ("params", "variant")}
        if "variant" in searched and "variant" not in spec.given:
            outer = (("variant", variant),)
        elif spec.params.get("variant") != variant:
            return None
    return outer + value.within


def _dimension(value: SearchValue, within: tuple[tuple[str, Any], ...]) -> Dimension:
    settings, kind = value.given, value.kind.removeprefix("$")
    if kind == "choice":
        return Dimension(value.name, "choice", settings["default"], options=tuple(value.options), within=within)
    low, high = settings[value.kind]
    number: Any = int if kind == "int" else float
    step = settings.get("step")
    return Dimension(
        value.name,
        "int" if kind == "int" else "float",
        number(settings["default"]),
        low=number(low),
        high=number(high),
        step=None if step is None else number(step),
        log=bool(settings.get("log", False)),
        within=within,
    )


def _register(hp: Any, dimension: Dimension) -> None:
    default = dimension.key(dimension.default)
    if dimension.keys:
        hp.Choice(dimension.name, list(dimension.keys), default=default)
        return
    options = {"step": dimension.step, "sampling": "log" if dimension.log else "linear", "default": default}
    make = hp.Int if dimension.kind == "int" else hp.Float
    make(dimension.name, dimension.low, dimension.high, **options)
