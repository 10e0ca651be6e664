"""Evaluates what a spec writes as expressions: the params first, then any value that uses them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kerasimg.errors import nearest
from kerasimg.spec.expressions import FUNCTIONS, UNKNOWN, ExpressionError, evaluate, is_expression, parse
from kerasimg.spec.nodes import ARGUMENT_NAME
from kerasimg.spec.places import Path, Report
from kerasimg.spec.reader import is_comment, kind_of

MAX_PARAMS = 500

# Names that expressions and the functions that take params already have a meaning for.
TAKEN = frozenset(
    {"i", "n", "in_channels", "in_height", "in_width", *FUNCTIONS}
    | {"ref", "spec", "weights", "limits", "data", "out", "set", "chosen"}
)


def evaluate_deep(value: Any, names: Mapping[str, Any], path: Path, report: Report) -> Any:
    """A value with each expression in it evaluated; one that fails is reported and UNKNOWN.

    A whole number that an expression gives as a float (`64 / 2`) is an integer.
    """
    if is_expression(value):
        try:
            result = evaluate(parse(value), names)
        except ExpressionError as error:
            report(path, f"{value}: {error}")
            return UNKNOWN
        return int(result) if isinstance(result, float) and result.is_integer() else result
    if isinstance(value, dict):
        return {
            key: evaluate_deep(item, names, (*path, key), report) for key, item in value.items() if not is_comment(key)
        }
    if isinstance(value, list):
        return [evaluate_deep(item, names, (*path, index), report) for index, item in enumerate(value)]
    return value


def evaluate_params(raw: Any, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Each param's value: the caller's, else the default; UNKNOWN for one that must be given and was not."""
    if not isinstance(raw, dict):
        report(("params",), f"expected an object of values by name, got {kind_of(raw)}")
        return {}
    defaults = {name: value for name, value in raw.items() if not is_comment(name)}
    if len(defaults) > MAX_PARAMS:
        report(("params",), f"more than {MAX_PARAMS} params")
        return {}
    for name in defaults:
        if not ARGUMENT_NAME.fullmatch(name) or keyword.iskeyword(name) or name in TAKEN:
            report(
                ("params", name), "not a name for a param: letters, digits and _, and no name with a meaning already"
            )
    for name in sorted(given.keys() - defaults.keys()):
        known = ", ".join(defaults) or "none"
        report((), f"no param '{name}'{nearest(name, defaults)} (params: {known})")
    written = {**defaults, **{name: value for name, value in given.items() if name in defaults}}
    values: dict[str, Any] = {}
    for name in _in_order(written, report):
        value = evaluate_deep(written[name], values, ("params", name), report)
        values[name] = UNKNOWN if value is None and name not in given else value
    return values


def unknown_paths(value: Any, path: Path = ()) -> frozenset[Path]:
    """Where in a value UNKNOWN stands."""
    if value is UNKNOWN:
        return frozenset({path})
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return frozenset().union(*(unknown_paths(item, (*path, key)) for key, item in children))


def names_in(value: Any) -> frozenset[str]:
    """The names that the expressions in a value use."""
    if is_expression(value):
        try:
            return parse(value).names
        except ExpressionError:
            return frozenset()
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset().union(*map(names_in, children))


def _in_order(written: Mapping[str, Any], report: Report) -> list[str]:
    """The params, each after those that its expression uses."""
    graph = {name: names_in(value) & written.keys() for name, value in written.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = error.args[1]
        report(("params", cycle[0]), f"depends on itself: {' -> '.join(reversed(cycle))}")
        return [name for name in written if name not in cycle and not graph[name] & set(cycle)]
