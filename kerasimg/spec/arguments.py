"""The names from Keras that a spec may use, and the check of their arguments, without Keras.

The table is `keras_table.json`, made by `kerasimg.models.keras_table`; what an argument takes is a kind (see
`kerasimg.spec.kinds`). Nothing is raised: each fault is reported, with its path below the object checked.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

from kerasimg.errors import counted, listed, nearest
from kerasimg.spec import kinds
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.reader import shown

Report = Callable[[tuple[str | int, ...], str], None]
"""Takes a fault: its path below the object being checked, and the message."""

TABLE_FILE: Final = pathlib.Path(__file__).with_name("keras_table.json")

MODULES: Final = {
    "layers": "keras.layers",
    "activations": "keras.activations",
    "initializers": "keras.initializers",
    "regularizers": "keras.regularizers",
    "constraints": "keras.constraints",
    "optimizers": "keras.optimizers",
    "schedules": "keras.optimizers.schedules",
    "losses": "keras.losses",
    "metrics": "keras.metrics",
    "callbacks": "keras.callbacks",
    "backbones": "keras.applications",
}
"""The groups, and where their objects stand unless an entry says otherwise in "module"."""

SINGULAR: Final = {group: group.removesuffix("s") for group in MODULES} | {"losses": "loss"}

FOREIGN_KEYS: Final = ("module", "class_name", "config", "registered_name")
"""The keys by which Keras would import and call anything."""

_registered: Final[dict[str, dict[str, Mapping[str, Any]]]] = defaultdict(dict)


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE_FILE.read_text(encoding="utf-8"))


def entry(group: str, name: str) -> Mapping[str, Any] | None:
    """Find the entry of a name or of a synonym of it; None where there is none."""
    name = canonical(group, name)
    return _registered[group].get(name) or _table()[group].get(name)


def canonical(group: str, name: str) -> str:
    """Replace an accepted synonym ("he_normal") by its name ("HeNormal")."""
    return name if name in _registered[group] else _table()["synonyms"].get(group, {}).get(name, name)


def known(group: str) -> list[str]:
    """List the names of a group, without synonyms."""
    return sorted({*_table()[group], *_registered[group]})


def augmentations() -> list[str]:
    """List the layers that may stand in `augment`."""
    return [name for name in known("layers") if (entry("layers", name) or {}).get("augment")]


def synonyms(group: str) -> list[str]:
    """List the further spellings of a group's names."""
    return sorted(_table()["synonyms"].get(group, {}))


def register_entry(group: str, name: str, entry: Mapping[str, Any]) -> None:
    """Add a name that the program brings, and that goes before one of Keras.

    entry: as in the table, and "object", the class or function with that name.
    """
    _registered[group][name] = entry


def unknown_name(group: str, name: object) -> str:
    """The message that a group has no such name: why, and which one was probably meant."""
    what, table = SINGULAR[group], _table()
    if not isinstance(name, str):
        return f"expected the name of {_a(what)}, got {shown(name)}"
    if other := table["renamed"].get(group, {}).get(name):
        return f"no {what} '{name}'; write '{other}', of which it is another name"
    names = [*known(group), *table["synonyms"].get(group, {})]
    refused = table["refused"].get(group, {})
    written = name.rsplit(".", 1)[-1]
    spelled = {_spelling(other): other for other in [*names, *refused]}.get(_spelling(written), written)
    if spelled in refused:
        return f"{what} '{spelled}' cannot stand in a spec: {refused[spelled]} (a class of your own: kerasimg.register)"
    hint = nearest(spelled, names) or (f" (there are: {listed(known(group))})" if group != "layers" else "")
    number = "expected a number or a schedule; " if group == "schedules" else ""
    return f"{number}no {what} '{name}'{hint}"


def check_arguments(group: str, name: str, arguments: Mapping[str, object], report: Report) -> dict[str, object]:
    """Check the arguments of a known name; give those that fit, as Keras wants them.

    name: a name or synonym that `entry` finds.  arguments: as written, without `name`, `type` and node keys;
    a key that begins with "//" is a comment.
    """
    name = canonical(group, name)
    found = entry(group, name)
    if found is None:
        report((), unknown_name(group, name))
        return {}
    takes, checked = found["args"], {}
    for key, value in arguments.items():
        if key in takes:
            checked[key] = check_value(takes[key]["kind"], value, _below(report, key))
            _check_range(key, checked[key], _below(report, key))
        elif not key.startswith("//"):
            there = listed(takes) or "no arguments"
            report((key,), f"no such argument{nearest(key, takes) or f'; {name} takes {there}'}")
    for key, argument in takes.items():
        if argument.get("required") and key not in arguments:
            report((key,), f"missing; {name} needs '{key}', {kinds.parse(argument['kind']).words()}")
    _check_together(takes, checked, report)
    return checked


MOST: Final = {"strides": 10**6, "dilation_rate": 10**6, "pool_size": 10**6, "seed": 2**32 - 1}
"""Argument of any class -> its greatest value: beyond, a backend fails at the first image."""


def _check_range(key: str, value: object, report: Report) -> None:
    """Report a number, or one in a list, that no backend computes with."""
    for number in value if isinstance(value, list) else [value]:
        if key in MOST and isinstance(number, int) and number > MOST[key]:
            report((), f"expected at most {MOST[key]:,}, got {shown(number)}")
        elif key == "seed" and isinstance(number, int) and number < 0:
            report((), f"expected 0 or more, got {shown(number)}")


ORDERED: Final = (("minval", "maxval"), ("min_value", "max_value"))
"""Arguments of any class of which the first must not be greater than the second."""


AXES: Final = {"axis", "axes", "attention_axes", "shared_axes", "input_axes", "output_axes"}


def _check_together(takes: Mapping[str, Any], given: Mapping[str, object], report: Report) -> None:
    """Report arguments that fit one by one, but not together or not in their order."""
    values = {key: given.get(key, argument.get("default")) for key, argument in takes.items()}
    for low, high in ORDERED:
        bounds = values.get(low), values.get(high)
        if all(_is_number(bound) for bound in bounds) and bounds[0] > bounds[1]:  # type: ignore[operator]
            key = high if high in given else low
            report((key,), f"'{low}' is {shown(bounds[0])}, and '{high}' {shown(bounds[1])}, which is smaller")
    for key in ("value_range", "boundaries"):
        numbers = _numbers(given.get(key))
        if any(low >= high for low, high in pairwise(numbers)):
            report((key,), f"expected rising numbers, got {shown(numbers)}")
    cell = _numbers(given.get("cell"))
    if cell != sorted(cell):
        report(("cell",), f"expected the least and the most, got {shown(cell)}")
    size = given.get("kernel_size")
    sides = _numbers(size if isinstance(size, list) else [size])
    if "sigma" in takes and any(side % 2 == 0 for side in sides):  # RandomGaussianBlur
        report(("kernel_size",), f"expected odd numbers, got {shown(size)}")
    for key in AXES & given.keys():
        axes = _numbers(given[key])
        if len(set(axes)) < len(axes):
            report((key,), f"expected different axes, got {shown(axes)}")
    steps, rates = given.get("boundaries"), given.get("values")
    if isinstance(steps, list) and isinstance(rates, list) and len(rates) != len(steps) + 1:
        report(("values",), f"expected {counted(len(steps) + 1, 'value')}, one more than boundaries, got {len(rates)}")
    if "input_axes" in takes and (values["input_axes"] is None) != (values["output_axes"] is None):
        missing = "input_axes" if values["input_axes"] is None else "output_axes"
        report((missing,), "missing; 'input_axes' and 'output_axes' go together")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: object) -> list[float]:
    """The numbers that a list has; none if it has, or is, anything else."""
    return value if isinstance(value, list) and all(map(_is_number, value)) else []


def check_value(kind: str, value: object, report: Report) -> object:
    """Check one value against a kind; give it as Keras wants it."""
    parsed = kinds.parse(kind)
    matched = parsed.match(value)
    if matched is not kinds.MISMATCH:
        return matched
    group = next((option.group for option in kinds.options(parsed) if isinstance(option, kinds.Object)), None)
    if group and (isinstance(value, Mapping) or (isinstance(value, str) and not _numeral(value))):
        return check_named(group, value, report)
    report((), f"expected {parsed.words()}, got {shown(value)}{_hint(parsed, value)}")
    return value


def check_named(group: str, value: object, report: Report, also: tuple[str, ...] = ()) -> object:
    """Check a name, or {"type": name, argument: value}; give it with the name that Keras uses.

    also: further strings that may stand there, given back as they are.
    """
    if value is UNKNOWN or value in also:
        return value
    if isinstance(value, Mapping):
        return _check_object(group, value, report)
    if isinstance(value, str) and entry(group, value):
        check_arguments(group, value, {}, report)
        return canonical(group, value)
    if group == "schedules" and not isinstance(value, str):
        return check_value("float>0|schedule", value, report)
    if isinstance(value, str):
        meant = nearest(next((option for option in also if len(value) > 2 and option.startswith(value)), value), also)
        report((), f"no {SINGULAR[group]} '{value}'{meant}" if meant else unknown_name(group, value))
    else:
        report((), f'expected the name of {_a(SINGULAR[group])} or {{"type": name, ...}}, got {shown(value)}')
    return value


def _check_object(group: str, value: Mapping[str, object], report: Report) -> object:
    """Check {"type": name, argument: value}."""
    foreign = [key for key in FOREIGN_KEYS if key in value]
    if foreign or "type" not in value:
        got = f"got the key '{foreign[0]}' of a Keras config" if foreign else "'type' is missing"
        report((), f'expected {{"type": name, argument: value}}: {got}')
        return value
    name = value["type"]
    if not isinstance(name, str) or entry(group, name) is None:
        report(("type",), unknown_name(group, name))
        return value
    arguments = {key: item for key, item in value.items() if key != "type"}
    return {"type": canonical(group, name), **check_arguments(group, name, arguments, report)}


def schema(kind: str) -> dict[str, Any]:
    """Give the JSON Schema (2020-12) of a kind; a group is a reference to "#/$defs/<group>"."""
    return kinds.parse(kind).schema()


def _spelling(name: str) -> str:
    """Give what stays of a name when capitals and underscores are taken for slips."""
    return name.replace("_", "").lower()


def _below(report: Report, key: str) -> Report:
    return lambda path, message: report((key, *path), message)


def _numeral(text: str) -> bool:
    """Whether a string is a number in quotes, which is not meant as a name."""
    return text.replace(".", "").replace("e-", "").isdecimal()


def _hint(kind: kinds.Kind, value: object) -> str:
    if isinstance(value, int | float) and abs(value) > kinds.FLOAT32_MAX:
        return ", which is out of range for float32"
    texts = [option.text for option in kinds.options(kind) if isinstance(option, kinds.Literal)]
    return nearest(value, texts) if isinstance(value, str) else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
