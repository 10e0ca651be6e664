"""Search values: `{"$choice" | "$int" | "$float": ..., "default": ...}`, found, checked, and replaced by one value.

A spec always builds: without a search, each search value has its default. `find` lists them
for a search, which hands back `{name: value}` for `replace`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kerasimg.errors import listed, nearest
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.locations import Path, Report
from kerasimg.spec.reader import is_comment, kind_of, shown

KINDS: Mapping[str, frozenset[str]] = {
    "$choice": frozenset({"default"}),
    "$int": frozenset({"default", "step", "log"}),
    "$float": frozenset({"default", "step", "log"}),
}


MAX_OPTIONS = 1000
MAX_SEARCH_VALUES = 500


class SearchValue(NamedTuple):
    """One value that a search may set."""

    name: str
    """Its path by node name, or the parameter's name."""
    path: Path
    kind: str
    """$choice, $int or $float."""
    given: dict[str, Any]
    """The object as written in the spec."""
    within: tuple[tuple[str, str], ...]
    """The (name, label) of each option that contains it; it counts only while all are chosen."""

    @property
    def options(self) -> list[Any]:
        """The options of a $choice: the values, or the labels."""
        return _options(self.given["$choice"])


def is_search(value: object) -> bool:
    """Whether a value of a spec is a search value."""
    return isinstance(value, dict) and any(key.startswith("$") for key in value)


def holds_search(value: Any) -> bool:
    """Whether a value contains a search value."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_search(value) or any(map(holds_search, children))


def find(document: dict[str, Any]) -> list[SearchValue]:
    """Every search value of a checked document, outer ones before those inside their options."""
    return list(_find(document, (), "", ()))


def is_sound(value: SearchValue) -> bool:
    """Whether a search value is valid; one inside an option may not have been checked yet."""
    return _check(value.given, lambda path, message: None)


class Replaced(NamedTuple):
    """A document without search values."""

    document: dict[str, Any]
    moved: dict[Path, Path]
    """Path of a chosen option's content here -> its path in the document as written."""
    faulty: set[Path]
    """Where UNKNOWN replaces an invalid search value."""


def replace(document: dict[str, Any], chosen: Mapping[str, Any], report: Report) -> Replaced:
    """The chosen value (a label where options have labels), else the default, for each search value.

    Every fault in a search value is reported; the value of a faulty one is UNKNOWN.
    """
    work = _Replacement(chosen, report)
    replaced = work.of(document, (), (), "")
    for name in sorted(chosen.keys() - work.used):
        names = [value.name for value in find(document)]
        report((), f"no search value '{name}'{nearest(name, names)} (there are: {listed(names) or 'none'})")
    return Replaced(replaced, work.moved, work.faulty)


def _options(choice: Any) -> list[Any]:
    """The values of a $choice, or its labels."""
    return [option for option in choice if not (isinstance(choice, dict) and is_comment(option))]


def _children(value: Any, name: str) -> Iterator[tuple[str | int, Any, str]]:
    """The direct items of an object or a list, each with its name in the search."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not is_comment(key) and key != "$schema":
                yield key, item, key if not name or name == "params" else f"{name}.{key}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            own = item.get("name") if isinstance(item, dict) else None
            yield index, item, f"{name}.{own if isinstance(own, str) else index}"


def _find(value: Any, path: Path, name: str, within: tuple[tuple[str, str], ...]) -> Iterator[SearchValue]:
    if path and is_search(value):
        kind = next(key for key in value if key.startswith("$"))
        yield SearchValue(name, path, kind, value, within)
        if isinstance(value[kind], dict):
            for label in _options(value[kind]):
                item = value[kind][label]
                yield from _find(item, (*path, kind, label), f"{name}.{label}", (*within, (name, label)))
        return
    for key, item, item_name in _children(value, name):
        yield from _find(item, (*path, key), item_name, within)


class _Replacement:
    def __init__(self, chosen: Mapping[str, Any], report: Report) -> None:
        self.chosen = chosen
        self.report = report
        self.used: set[str] = set()
        self.moved: dict[Path, Path] = {}
        self.faulty: set[Path] = set()

    def of(self, value: Any, path: Path, written: Path, name: str) -> Any:
        """The replacement of `value`, which is at `written` in the document and will be at `path`."""
        if path and is_search(value):
            return self._of_search(value, path, written, name)
        if not isinstance(value, (dict, list)):
            return value
        made = {
            key: self.of(item, (*path, key), (*written, key), item_name)
            for key, item, item_name in _children(value, name)
        }
        if isinstance(value, list):
            return list(made.values())
        return {key: made.get(key, item) for key, item in value.items()}

    def _of_search(self, value: dict[str, Any], path: Path, written: Path, name: str) -> Any:
        valid = _check(value, lambda rest, message: self.report(written + rest, message))
        kind = next(key for key in value if key.startswith("$"))
        self.used.add(name)
        picked = self.chosen.get(name, value.get("default"))
        if len(self.used) > MAX_SEARCH_VALUES:
            self.report((), f"more than {MAX_SEARCH_VALUES} search values")
            valid = False
        elif valid and not _fits(value, kind, picked):
            self.report(written, f"expected {_values(value, kind)}, got {shown(picked)}")
            valid = False
        if not valid:
            self.faulty.add(path)
            return UNKNOWN
        if not isinstance(options := value[kind], dict):
            return picked
        self.moved[path] = (*written, kind, picked)
        return self.of(options[picked], path, self.moved[path], f"{name}.{picked}")


def _check(value: dict[str, Any], report: Report) -> bool:
    """Report what is wrong with one search value; True when nothing is."""
    kinds = [key for key in value if key.startswith("$")]
    valid = True

    def fault(path: Path, message: str) -> None:
        nonlocal valid
        valid = False
        report(path, message)

    if len(kinds) > 1 or kinds[0] not in KINDS:
        hint = nearest(kinds[0], KINDS) if len(kinds) == 1 else ""
        fault((), f"a search value has exactly one of {', '.join(KINDS)}; found {' and '.join(kinds)}{hint}")
        return False
    kind = kinds[0]
    for key in value.keys() - KINDS[kind] - {kind}:
        if not is_comment(key):
            fault((key,), f"no such key in a {kind}{nearest(key, KINDS[kind])}")
    if kind == "$choice":
        _check_choice(value[kind], fault)
    else:
        _check_range(value, kind, fault)
    if "default" not in value:
        fault((), f"a {kind} needs a default, so that the spec builds without a search")
    elif valid and not _fits(value, kind, value["default"]):
        fault(("default",), f"expected {_values(value, kind)}, got {shown(value['default'])}")
    return valid


def _values(value: dict[str, Any], kind: str) -> str:
    """The possible values of a valid search value, as text."""
    if kind == "$choice":
        return f"one of {listed(map(shown, _options(value[kind])))}"
    low, high = map(shown, value[kind])
    return f"{'an integer' if kind == '$int' else 'a number'} from {low} to {high}"


def _check_choice(options: Any, report: Report) -> None:
    if not isinstance(options, (list, dict)) or not _options(options):
        empty = "an empty one" if isinstance(options, (list, dict)) else kind_of(options)
        report(("$choice",), f"expected a list of values, or an object of labelled options, got {empty}")
    elif len(options) > MAX_OPTIONS:
        report(("$choice",), f"more than {MAX_OPTIONS:,} options")
    elif isinstance(options, list):
        seen: set[tuple[bool, Any]] = set()
        for index, option in enumerate(options):
            if isinstance(option, (list, dict)):
                report(
                    ("$choice", index), f"expected a scalar, got {kind_of(option)}; give the options labels: {{...}}"
                )
            elif (mark := (isinstance(option, bool), option)) in seen:
                report(("$choice", index), f"{shown(option)} is listed twice")
            else:
                seen.add(mark)


def _check_range(value: dict[str, Any], kind: str, report: Report) -> None:
    bounds = value[kind]
    what = "integers" if kind == "$int" else "numbers"
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(bound, kind) for bound in bounds):
        report((kind,), f"expected [low, high], two {what}, got {shown(bounds)}")
        return
    if not bounds[0] < bounds[1]:
        report((kind,), f"expected low < high, got {shown(bounds)}")
    log = value.get("log", False)
    if not isinstance(log, bool):
        report(("log",), f"expected true or false, got {shown(log)}")
    elif log and bounds[0] <= 0:
        report((kind,), f"expected low > 0 on a logarithmic scale, got {shown(bounds)}")
    step = value.get("step")
    if step is not None and (not _is_number(step, kind) or step <= (1 if log is True else 0)):
        least = "> 1, the factor on a logarithmic scale" if log is True else "> 0"
        report(("step",), f"expected a number {least}, got {shown(step)}")


def _is_number(value: object, kind: str) -> bool:
    return isinstance(value, int if kind == "$int" else (int, float)) and not isinstance(value, bool)


def _fits(value: dict[str, Any], kind: str, picked: object) -> bool:
    if kind == "$choice":
        options = _options(value[kind])
        return any(_same(picked, option) for option in options)
    return _is_number(picked, kind) and value[kind][0] <= picked <= value[kind][1]


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
