"""The expressions of a spec ("=round8(c * alpha)"): a small, closed part of Python's, checked before it is evaluated.

Numbers, strings, True, False, None, lists of them; + - * / // % **; comparisons; and, or, not; a if c else b; whether a
list has an item (`i in [1, 2]`); an item of a list, from the end too (`depths[i]`, `depths[-1]`, `rows[i][0]`), or
neighbouring ones (`depths[:i]`, `depths[1:]`); and the functions of `FUNCTIONS`. No attribute, no call of anything
else. Length, size and results are capped.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from kerasimg.errors import listed, nearest
from kerasimg.spec.reader import shown

MAX_LENGTH = 500
MAX_NODES = 200
MAX_NUMBER = 10**15
MAX_STRING = 1000
MAX_LIST = 100
MAX_EXPONENT = 100


class Unknown:
    """The value of what depends on a shape that only the built model knows; there is one, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated; the message says why."""


class Expression(NamedTuple):
    """An expression that was read and found to be within the language."""

    source: str
    tree: ast.expr
    names: frozenset[str]


def is_expression(value: object) -> bool:
    """Whether a value of a spec is an expression: a string that begins with `=`."""
    return isinstance(value, str) and value.startswith("=")


def round8(value: float) -> int:
    """Rounds to the nearest multiple of 8, at least 8, never below 90 % of `value` (Sandler et al. 2018)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def power(base: float, exponent: float) -> float:
    """Base ** exponent, of which the size is known before it is computed."""
    if abs(exponent) > MAX_EXPONENT:
        raise ExpressionError(f"** takes exponents up to {MAX_EXPONENT}, not {shown(exponent)}")
    if base < 0 and exponent != int(exponent):
        raise ExpressionError(f"** takes no root of {shown(base)}")
    return float(base**exponent) if isinstance(base, float) or exponent < 0 else base**exponent


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "ceil": math.ceil,
    "floor": math.floor,
    "round8": round8,
    "len": len,
    "sum": sum,
}

_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SYMBOLS: Mapping[str, str] = {
    **{
        "add": "+",
        "sub": "-",
        "neg": "-",
        "pos": "+",
        "mul": "*",
        "truediv": "/",
        "floordiv": "//",
        "mod": "%",
        "power": "**",
    },
    **{"lt": "<", "le": "<=", "gt": ">", "ge": ">="},
}
_LANGUAGE = (
    f"there are + - * / // % **, comparisons, and, or, not, a if c else b, a in list, list[i], {', '.join(FUNCTIONS)}"
)
_TAKES_LIST = (len, sum, min, max)
_WORKS_ON_ANYTHING = (ast.Not, ast.Eq, ast.NotEq)


@lru_cache(maxsize=4096)
def parse(source: str) -> Expression:
    """Read an expression ("=2 * n"); ExpressionError when it is not one of the language."""
    if len(source) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source[1:].strip(), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"not an expression: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError("not an expression") from None
    nodes = list(_walk(tree))
    if len(nodes) > MAX_NODES:
        raise ExpressionError(f"more than {MAX_NODES} terms")
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        _allow(node)
    names = frozenset(node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called)
    return Expression(source, tree, names)


def evaluate(expression: Expression, names: Mapping[str, Any]) -> Any:
    """The value of an expression, UNKNOWN when it depends on one; ExpressionError when it has none."""
    for name in sorted(expression.names - names.keys()):
        raise ExpressionError(
            f"unknown name '{name}'{nearest(name, names)} (known: {listed(sorted(names), 16) or 'none'})"
        )
    try:
        return _bounded(_evaluate(expression.tree, names))
    except ZeroDivisionError:
        raise ExpressionError("division by zero") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise error if isinstance(error, ExpressionError) else ExpressionError(str(error)) from None


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    # ast.walk is breadth first and not recursive, so a deep tree is counted before anything recurses into it.
    for count, node in enumerate(ast.walk(tree)):
        yield node
        if count > 2 * MAX_NODES:
            return


def _allow(node: ast.AST) -> None:
    match node:
        case ast.Constant(value=bool() | None):
            pass
        case ast.Constant(value=int() | float() | str() as value):
            _bounded(value)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
            pass
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            raise ExpressionError(f"{name} takes no named arguments")
        case ast.Call(func=ast.Name(id=name)):
            raise ExpressionError(f"no function '{name}'{nearest(name, FUNCTIONS)} (known: {', '.join(FUNCTIONS)})")
        case ast.BinOp(op=op) | ast.UnaryOp(op=op) if type(op) in _OPERATORS:
            pass
        case ast.Compare(ops=ops) if all(type(op) in _OPERATORS for op in ops):
            pass
        case ast.BoolOp() | ast.IfExp() | ast.Name() | ast.operator() | ast.unaryop() | ast.cmpop() | ast.boolop():
            pass
        case ast.expr_context() | ast.Subscript() | ast.Slice(step=None) | ast.List():
            pass
        case ast.Compare(ops=[ast.In() | ast.NotIn()]) | ast.In() | ast.NotIn():
            pass
        case _:
            what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise ExpressionError(f"{shown(what, 40)} is not allowed; {_LANGUAGE}")


def _evaluate(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names[name]
        case ast.BoolOp(op=op, values=values):
            return _logic(isinstance(op, ast.And), values, names)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition = _evaluate(test, names)
            return UNKNOWN if condition is UNKNOWN else _evaluate(body if condition else orelse, names)
        case ast.List(elts=items):
            values = [_evaluate(item, names) for item in items]
            if any(isinstance(value, list) for value in values):  # such lists could grow without end
                raise ExpressionError("a list in an expression holds numbers and strings, not lists")
            return values
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[right]):
            held = _is_in(_evaluate(left, names), _evaluate(right, names))
            return UNKNOWN if held is UNKNOWN else held is isinstance(op, ast.In)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _compare(_evaluate(left, names), ops, [_evaluate(item, names) for item in comparators])
        case ast.Subscript(value=value, slice=ast.Slice(lower=start, upper=stop)):
            ends = [None if end is None else _evaluate(end, names) for end in (start, stop)]
            return _neighbours(_evaluate(value, names), *ends)
        case ast.Subscript(value=value, slice=index):
            return _item(_evaluate(value, names), _evaluate(index, names))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _apply(FUNCTIONS[name], *(_evaluate(item, names) for item in arguments))
        case ast.UnaryOp(op=op, operand=operand):
            return _apply(_OPERATORS[type(op)], _evaluate(operand, names), anything=isinstance(op, ast.Not))
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(_OPERATORS[type(op)], _evaluate(left, names), _evaluate(right, names))
    raise ExpressionError(f"{type(node).__name__} is not allowed")


def _logic(every: bool, values: list[ast.expr], names: Mapping[str, Any]) -> Any:
    """`and` (every) or `or`, as Python has them; a value that decides it beats an unknown one."""
    unknown = False
    value: Any = None
    for item in values:
        value = _evaluate(item, names)
        if value is UNKNOWN:
            unknown = True
        elif bool(value) is not every:
            return value
    return UNKNOWN if unknown else value


def _compare(left: Any, ops: list[ast.cmpop], rights: list[Any]) -> Any:
    result: Any = True
    for op, right in zip(ops, rights, strict=True):
        held = _apply(_OPERATORS[type(op)], left, right, anything=isinstance(op, _WORKS_ON_ANYTHING))
        if held is False:
            return False
        result = UNKNOWN if held is UNKNOWN else result
        left = right
    return result


def _is_in(value: Any, values: Any) -> Any:
    if not isinstance(values, list):
        if values is UNKNOWN:
            return UNKNOWN
        raise ExpressionError(f"in takes a list, not {shown(values)}")
    return UNKNOWN if value is UNKNOWN or UNKNOWN in values else value in values


def _neighbours(values: Any, start: Any, stop: Any) -> Any:
    if UNKNOWN in (values, start, stop):
        return UNKNOWN
    whole = all(end is None or (isinstance(end, int) and not isinstance(end, bool)) for end in (start, stop))
    if not isinstance(values, list) or not whole:
        ends = ":".join("" if end is None else repr(end) for end in (start, stop))
        raise ExpressionError(f"takes neighbouring items of a list by their numbers, not [{ends}] of {values!r}")
    return values[start:stop]


def _item(values: Any, index: Any) -> Any:
    if values is UNKNOWN or index is UNKNOWN:
        return UNKNOWN
    if not isinstance(values, (list, str)) or isinstance(index, bool) or not isinstance(index, int):
        raise ExpressionError(f"takes an item of a list by its number, not {shown(index)} of {shown(values)}")
    if not -len(values) <= index < len(values):
        raise ExpressionError(f"has no item {index}; the list has {len(values)}, numbered from 0")
    return values[index]


def _apply(function: Callable[..., Any], *values: Any, anything: bool = False) -> Any:
    if len(values) == 1 and isinstance(values[0], list) and function in _TAKES_LIST:
        return UNKNOWN if UNKNOWN in values[0] and function is not len else _reduced(function, values[0])
    if any(value is UNKNOWN for value in values):
        return UNKNOWN
    if not anything:
        strings = [value for value in values if isinstance(value, str)]
        if strings and (len(strings) < len(values) or function not in (operator.add, operator.lt, operator.gt)):
            raise ExpressionError(f"{_named(function)} does not take {' and '.join(map(shown, values))}")
        for value in values:
            if not isinstance(value, (int, float, str)) or function in (len, sum):
                raise ExpressionError(f"{_named(function)} does not take {shown(value)}")
    return _bounded(function(*values))


def _reduced(function: Callable[..., Any], values: list[Any]) -> Any:
    if len(values) > MAX_LIST:
        raise ExpressionError(f"{_named(function)} does not take a list of more than {MAX_LIST}")
    if function is not len and not all(isinstance(value, (int, float)) for value in values):
        raise ExpressionError(f"{_named(function)} does not take {shown(values)}")
    return _bounded(function(values))


def _named(function: Callable[..., Any]) -> str:
    return _SYMBOLS.get(function.__name__.strip("_"), function.__name__)


def _bounded(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_STRING:
        raise ExpressionError(f"gives a text of more than {MAX_STRING} characters")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ExpressionError("gives a number that is not finite")
        if abs(value) > MAX_NUMBER:
            raise ExpressionError("gives a number beyond 10^15")
    return value
