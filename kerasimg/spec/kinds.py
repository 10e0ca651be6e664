"""Kinds: what an argument takes, written as a short string, checked without Keras.

    int   int>0   int>=2   int[0,255]        an integer, and its range
    float   float>0   float[0,1)   float(0,1]  a finite number, and its range; an integer will do
    bool   str   null                        themselves
    'valid'                                  this very string
    dtype                                    the name of a Keras dtype policy
    [int>0]   [2 float]                      a list, and how many items it has
    int>0|[2 int>0]                          either
    initializer                              one of the group `initializers`: a name or {"type": name, ...}

`parse` turns the string into a tree whose nodes know three things: `match` a value (giving it back as Keras
wants it, or `MISMATCH`), say it in `words`, and give its JSON `schema`.
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kerasimg.spec.expressions import UNKNOWN

GROUPS: Final = {
    "activation": "activations",
    "initializer": "initializers",
    "regularizer": "regularizers",
    "constraint": "constraints",
    "schedule": "schedules",
}
"""The kinds that are an object of a group, and the group."""

DTYPES: Final = ("float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")

FLOAT32_MAX: Final = 3.4028234e38
"""Numbers beyond overflow in every backend."""

INTEGER_MAX: Final = 2**53
"""Beyond it JSON's readers disagree, and backends overflow."""

MISMATCH: Final = object()
"""The result of `match` for a value that does not fit."""


class Kind(Protocol):
    """A node of a parsed kind."""

    def match(self, value: object) -> object:
        """Give the value as Keras wants it, or `MISMATCH`."""

    def words(self, many: bool = False) -> str:
        """Say what is expected: "an integer > 0", or, of many, "integers > 0"."""

    def schema(self) -> dict[str, Any]:
        """Give the JSON Schema of the value."""


@dataclass(frozen=True)
class Number:
    """A finite integer or float within bounds; `None` is no bound."""

    integral: bool
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def match(self, value: object) -> object:
        if value is UNKNOWN:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return MISMATCH
        # A comparison refuses infinity, NaN, and integers that no float can hold.
        if not -sys.float_info.max <= value <= sys.float_info.max:
            return MISMATCH
        if self.integral and (value != int(value) or abs(value) > INTEGER_MAX):
            return MISMATCH
        if not self.integral and abs(value) > FLOAT32_MAX:
            return MISMATCH
        if not self._above(value) or not self._below(value):
            return MISMATCH
        return int(value) if self.integral else float(value)

    def _above(self, value: float) -> bool:
        return self.low is None or value > self.low or (value == self.low and not self.low_open)

    def _below(self, value: float) -> bool:
        return self.high is None or value < self.high or (value == self.high and not self.high_open)

    def words(self, many: bool = False) -> str:
        if self.low is not None and self.low == self.high:
            return f"{self.low:g}"
        one, several = ("an integer", "integers") if self.integral else ("a number", "numbers")
        return f"{several if many else one}{self._range()}"

    def _range(self) -> str:
        if self.low is None:
            return ""
        if self.high is None:
            return f" {'>' if self.low_open else '>='} {self.low:g}"
        return f" in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"

    def schema(self) -> dict[str, Any]:
        bounds = {
            "exclusiveMinimum" if self.low_open else "minimum": self.low,
            "exclusiveMaximum" if self.high_open else "maximum": self.high,
        }
        found = {
            key: int(bound) if bound == int(bound) else bound for key, bound in bounds.items() if bound is not None
        }
        return {"type": "integer" if self.integral else "number", **found}


@dataclass(frozen=True)
class Plain:
    """A value known by its Python type alone: bool, str, null."""

    type: type
    name: str
    one: str
    several: str

    def match(self, value: object) -> object:
        return value if value is UNKNOWN or isinstance(value, self.type) else MISMATCH

    def words(self, many: bool = False) -> str:
        return self.several if many else self.one

    def schema(self) -> dict[str, Any]:
        return {"type": self.name}


@dataclass(frozen=True)
class Literal:
    """One certain string."""

    text: str

    def match(self, value: object) -> object:
        return value if value is UNKNOWN or value == self.text else MISMATCH

    def words(self, many: bool = False) -> str:
        return f"'{self.text}'"

    def schema(self) -> dict[str, Any]:
        return {"const": self.text}


@dataclass(frozen=True)
class ListOf:
    """A list whose items are of one kind; `length` items, or one and more."""

    item: Kind
    length: int | None = None

    def match(self, value: object) -> object:
        if value is UNKNOWN:
            return value
        if not isinstance(value, list | tuple) or not value or self.length not in (None, len(value)):
            return MISMATCH
        items = [self.item.match(item) for item in value]
        return MISMATCH if any(item is MISMATCH for item in items) else items

    def words(self, many: bool = False) -> str:
        lists = "lists" if many else "a list"
        if self.length == 1:
            return f"{lists} with {self.item.words()}"
        count = "" if self.length is None else f"{self.length} "
        return f"{lists} of {count}{self.item.words(many=True)}"

    def schema(self) -> dict[str, Any]:
        size = {"minItems": 1} if self.length is None else {"minItems": self.length, "maxItems": self.length}
        return {"type": "array", "items": self.item.schema(), **size}


@dataclass(frozen=True)
class Object:
    """An object of a group. Only its group knows whether it fits, so it matches nothing by itself."""

    group: str
    one: str

    def match(self, value: object) -> object:
        return value if value is UNKNOWN else MISMATCH

    def words(self, many: bool = False) -> str:
        return self.group if many else f"{'an' if self.one[0] in 'aeiou' else 'a'} {self.one}"

    def schema(self) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{self.group}"}


@dataclass(frozen=True)
class Either:
    """Any of several kinds; the first that matches wins."""

    options: tuple[Kind, ...]

    def match(self, value: object) -> object:
        for option in self.options:
            found = option.match(value)
            if found is not MISMATCH:
                return found
        return MISMATCH

    def words(self, many: bool = False) -> str:
        *others, last = (option.words(many) for option in self.options)
        return f"{', '.join(others)} or {last}"

    def schema(self) -> dict[str, Any]:
        texts = [option.text for option in self.options if isinstance(option, Literal)]
        others = [option.schema() for option in self.options if not isinstance(option, Literal)]
        if not others:
            return {"enum": texts}
        return {"anyOf": [{"enum": texts}, *others] if texts else others}


PLAIN: Final[dict[str, Kind]] = {
    "bool": Plain(bool, "boolean", "true or false", "true or false"),
    "str": Plain(str, "string", "a string", "strings"),
    "null": Plain(type(None), "null", "null", "null"),
    "dtype": Either(tuple(Literal(name) for name in DTYPES)),
    **{one: Object(group, one) for one, group in GROUPS.items()},
}

_NUMBER = re.compile(
    r"(?P<type>int|float)(?:(?P<above>>=?)(?P<least>-?[\d.]+)"
    r"|(?P<open>[\[(])(?P<low>-?[\d.]+),(?P<high>-?[\d.]+)(?P<close>[\])]))?"
)
_LIST = re.compile(r"\[(?:(?P<length>\d+) )?(?P<item>.+)\]")


@functools.cache
def parse(text: str) -> Kind:
    """Read a kind, e.g. "int>0|[2 int>0]"; a ValueError says what cannot be read."""
    parts = _split(text)
    if len(parts) > 1:
        return Either(tuple(option for part in parts for option in options(parse(part))))
    if text in PLAIN:
        return PLAIN[text]
    if text.startswith("'"):
        return Literal(text.strip("'"))
    if found := _NUMBER.fullmatch(text):
        return _number(found)
    if found := _LIST.fullmatch(text):
        return ListOf(parse(found["item"]), int(found["length"]) if found["length"] else None)
    raise ValueError(f"not a kind: {text!r}")


def options(kind: Kind) -> tuple[Kind, ...]:
    """Give the alternatives of a kind; of one that is no union, itself."""
    return kind.options if isinstance(kind, Either) else (kind,)


def _split(text: str) -> list[str]:
    """Split at each "|" outside brackets; a half-open range, "[0,1)", closes too."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _number(found: re.Match[str]) -> Number:
    integral = found["type"] == "int"
    if found["above"]:
        return Number(integral, low=float(found["least"]), low_open=found["above"] == ">")
    if found["open"]:
        low, high = float(found["low"]), float(found["high"])
        return Number(integral, low, high, found["open"] == "(", found["close"] == ")")
    return Number(integral)
