"""Evaluates what a spec writes as expressions: the params first, then any value that uses them."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kerasimg.errors import listed, nearest
from kerasimg.spec.expressions import FUNCTIONS, UNKNOWN, ExpressionError, evaluate, is_expression, parse
from kerasimg.spec.locations import Path, Report
from kerasimg.spec.nodes import ARGUMENT_NAME
from kerasimg.spec.reader import MAX_DEPTH, is_comment, kind_of, shown

MAX_PARAMS = 500
MAX_QUOTED = 80
MAX_VALUES = 10_000
"""Values in one param or section, those in its lists and objects counted."""

# Names that expressions and the functions that take params already have a meaning for.
TAKEN = frozenset(
    {"i", "n", *FUNCTIONS}
    | {f"{place}_{side}" for place in ("in", "prev") for side in ("channels", "height", "width")}
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
            report(path, f"{value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + '...'}: {error}")
            return UNKNOWN
        return int(result) if isinstance(result, float) and result.is_integer() else result
    if isinstance(value, dict):
        return {
            key: evaluate_deep(item, names, (*path, key), report) for key, item in value.items() if not is_comment(key)
        }
    if isinstance(value, list):
        return [evaluate_deep(item, names, (*path, index), report) for index, item in enumerate(value)]
    return value


def value_at(value: Any, path: Path) -> Any:
    """Returns the item at a path below a value; None if there is none."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def with_expression(written: Any, message: str) -> str:
    """Returns a message with the expression that gave the faulty value: `"=c // 8" gave 0; expected ...`.

    Args:
        written: the value as the spec has it.
        message: what is wrong with what it gave: `expected an integer > 0, got 0`.
    """
    expected, _, found = message.partition(", got ")
    if not is_expression(written) or not found:
        return message
    quoted = json.dumps(written if len(written) <= MAX_QUOTED else f"{written[:MAX_QUOTED]}...", ensure_ascii=False)
    return f"{quoted} gave {found}; {expected}"


def evaluate_params(raw: Any, given: Mapping[str, Any], report: Report, variants: Any = None) -> dict[str, Any]:
    """Each param's value: the caller's, else the default, else that of the chosen variant, else UNKNOWN."""
    if not isinstance(raw, dict):
        report(("params",), f"expected an object of values by name, got {kind_of(raw)}")
        return {}
    defaults = {name: value for name, value in raw.items() if not is_comment(name)}
    if len(defaults) > MAX_PARAMS:
        report(("params",), f"more than {MAX_PARAMS} params")
        return {}
    for name in defaults:
        if not ARGUMENT_NAME.fullmatch(name):
            report(("params", name), "expected a name that begins with a letter or _, of letters, digits and _")
        elif keyword.iskeyword(name) or name in TAKEN:
            report(("params", name), f"'{name}' has a meaning already, in expressions or in calls; choose another name")
    written = {**defaults, **{name: value for name, value in given.items() if name in defaults}}
    if isinstance(variants, dict) and str(written.get("variant")) in variants:
        written["variant"] = str(written["variant"])  # 18 is the variant "18": a command line cannot say which it means
    for name, value in _of_variant(written.get("variant"), variants, defaults, report).items():
        written[name] = value if written.get(name) is None else written[name]
    values: dict[str, Any] = {}
    for name in _in_order(written, report):
        value = evaluate_deep(written[name], values, ("params", name), report)
        if size_of(value, MAX_VALUES) > MAX_VALUES:
            report(("params", name), f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH} levels")
            value = UNKNOWN
        values[name] = UNKNOWN if value is None and name not in given else value
    return values


def _of_variant(chosen: Any, variants: Any, params: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """The params that the chosen variant gives; every fault in any variant is reported."""
    if variants is None:
        return {}
    if isinstance(variants, dict):
        variants = {name: values for name, values in variants.items() if not is_comment(name)}
    if not isinstance(variants, dict) or not all(isinstance(values, dict) for values in variants.values()):
        report(("variants",), "expected an object of variants by name, each an object of params and their values")
        return {}
    for variant, values in variants.items():
        for name in values:
            if not is_comment(name) and (name not in params or name == "variant"):
                known = listed(params) or "none"
                report(("variants", variant, name), f"no such param{nearest(name, params)} (params: {known})")
    if not isinstance(chosen, str) or chosen not in variants:
        names = listed(variants) or "none"
        report(("params", "variant"), f"expected one of the variants ({names}), got {shown(chosen)}")
        return {}
    return {name: value for name, value in variants[chosen].items() if name in params}


def unknown_paths(value: Any, path: Path = ()) -> frozenset[Path]:
    """The paths of UNKNOWN in a value."""
    if value is UNKNOWN:
        return frozenset({path})
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return frozenset().union(*(unknown_paths(item, (*path, key)) for key, item in children))


def size_of(value: Any, limit: int) -> int:
    """How many values a value is, itself and those in it, an expression for as many as it has terms, about.

    Beyond `limit` it is not counted to the end, and what is nested too deep counts as beyond: params within params
    can make of a small file what no machine can walk through.
    """
    count, rest = 0, [(value, 0)]
    while rest and count <= limit:
        item, depth = rest.pop()
        count += 1 + (len(item) // 8 if is_expression(item) else 0)
        if depth > MAX_DEPTH:
            return limit + 1
        if isinstance(item, (dict, list, tuple)):
            rest.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
    return count


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
