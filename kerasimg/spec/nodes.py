"""The one grammar of `model`, `augment` and block bodies: raw lists of nodes -> checked `Node`s.

Form only: which of the four kinds, which keys, well-formed inputs and tables. What the names mean and
the values are is found out by `expand.py`, except the name of a block and a table: as expressions they may use the
params, and are evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kerasimg.errors import counted, nearest
from kerasimg.spec.expressions import UNKNOWN, ExpressionError, Unknown, evaluate, is_expression, parse
from kerasimg.spec.locations import NODE_KINDS, Path, Report
from kerasimg.spec.reader import is_comment, kind_of, shown

CONTROL_KEYS = ("name", "inputs", "when", "repeat", "table")
OF_PARAMS = ("block", "table")
"""The keys of a node that an expression of the params may give."""
RESERVED_NAMES = ("in", "prev")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
NAME_WORDS = "a name that begins with a letter or _ and continues with letters, digits, _ and -, at most 64"
MAX_LISTED = 5000
MAX_ROWS = 1000
MAX_NAMES = 200
"""Arguments of a block, and names in its `let`."""
ARGUMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

Inputs = str | list[str] | dict[str, str] | Unknown | None


class Node(NamedTuple):
    """One node; with a table, `rows` holds one node per row and the rest is what they share."""

    kind: str
    """layer, block, backbone or reuse."""
    target: str
    """The target of the node: a layer class, a block, a backbone, an earlier layer node."""
    path: Path
    arguments: Mapping[str, Any] = {}
    """As written: expressions are not evaluated."""
    places: Mapping[str, Path] = {}
    """The path of each argument and of each control key."""
    columns: Mapping[str, Path] = {}
    """For each key that a table gives, the path of its column's name."""
    name: str | None = None
    inputs: Inputs = None
    when: Any = True
    repeat: Any = None
    rows: tuple[Node, ...] | None = None


class Block(NamedTuple):
    """A macro: its arguments with their defaults (None: must be given), its local names, its body."""

    name: str
    args: Mapping[str, Any]
    let: Mapping[str, Any]
    nodes: tuple[Node, ...]
    path: Path


def parse_nodes(raw: Any, path: Path, report: Report, names: Mapping[str, Any]) -> tuple[Node, ...]:
    """The nodes of a list; every fault of form is reported and the faulty node left out.  names: of the params."""
    if not isinstance(raw, list):
        report(path, f"expected a list of nodes, got {kind_of(raw)}")
        return ()
    if len(raw) > MAX_LISTED:
        report(path, f"more than {MAX_LISTED:,} nodes in one list")
        return ()
    nodes = [parse_node(item, (*path, index), report, names) for index, item in enumerate(raw)]
    return tuple(node for node in nodes if node is not None)


def parse_node(raw: Any, path: Path, report: Report, names: Mapping[str, Any]) -> Node | None:
    """One node, or None when it is none."""
    if not isinstance(raw, dict):
        report(path, f'expected a node such as {{"layer": ...}}, got {kind_of(raw)}')
        return None
    given = {key: value for key, value in raw.items() if not is_comment(key)}
    for key in OF_PARAMS:
        if is_expression(given.get(key)):
            try:
                given[key] = evaluate(parse(given[key]), names)
            except ExpressionError as error:
                report((*path, key), f"{given[key]}: {error}")
                return None
            if given[key] is UNKNOWN:  # of a param that is not given yet: how many nodes it is, nobody knows
                return Node("block", "", path, rows=())
    if "table" not in given:
        return _node(given, {key: (*path, key) for key in given}, path, report)
    shared = {key: value for key, value in given.items() if key != "table"}
    rows = []
    for row, row_places in _rows(given["table"], shared, (*path, "table"), report):
        node = _node({**shared, **row}, {**{key: (*path, key) for key in shared}, **row_places}, path, report)
        if node is None:
            return None
        columns = {column: (*path, "table", 0, place) for place, column in enumerate(row)}
        rows.append(node._replace(columns=columns))
    kind = next((key for key in NODE_KINDS if key in given), "layer")
    return Node(kind, str(given.get(kind)), path, rows=tuple(rows))


def parse_blocks(raw: Any, path: Path, report: Report, names: Mapping[str, Any]) -> dict[str, Block]:
    """The macros of a spec by name; every fault of form is reported.  names: of the params."""
    if not isinstance(raw, dict):
        report(path, f"expected an object of blocks by name, got {kind_of(raw)}")
        return {}
    blocks = {}
    for name, body in raw.items():
        if is_comment(name):
            continue
        here = (*path, name)
        if not NAME.fullmatch(name):
            report(here, f"a block needs {NAME_WORDS}")
        if not isinstance(body, dict):
            report(here, f'expected {{"args": ..., "let": ..., "nodes": [...]}}, got {kind_of(body)}')
            continue
        for key in body:
            if key not in ("args", "let", "nodes") and not is_comment(key):
                report((*here, key), f"no such key in a block{nearest(key, ('args', 'let', 'nodes'))}")
        if not body.get("nodes"):
            report(here, "a block needs nodes, a list of at least one")
            body = {**body, "nodes": []}
        blocks[name] = Block(
            name,
            _names(body.get("args", {}), (*here, "args"), report),
            _names(body.get("let", {}), (*here, "let"), report),
            parse_nodes(body["nodes"], (*here, "nodes"), report, names),
            here,
        )
    return blocks


def _names(raw: Any, path: Path, report: Report) -> dict[str, Any]:
    if not isinstance(raw, dict):
        report(path, f"expected an object of values by name, got {kind_of(raw)}")
        return {}
    named = {key: value for key, value in raw.items() if not is_comment(key)}
    if len(named) > MAX_NAMES:
        report(path, f"more than {MAX_NAMES} names")
        return {}
    for key in named:
        if not ARGUMENT_NAME.fullmatch(key) or key in (*NODE_KINDS, *CONTROL_KEYS):
            report((*path, key), "not a name that an expression can use: letters, digits and _, and no key of a node")
    return named


def _node(given: dict[str, Any], places: Mapping[str, Path], path: Path, report: Report) -> Node | None:
    kinds = [key for key in NODE_KINDS if key in given]
    if len(kinds) != 1:
        found = " and ".join(kinds) or f"none (keys: {', '.join(given) or 'none'})"
        hint = "".join(filter(None, (nearest(key, NODE_KINDS) for key in given))) if not kinds else ""
        report(path, f"a node has exactly one of {', '.join(NODE_KINDS)}; found {found}{hint}")
        return None
    kind = kinds[0]
    target = given[kind]
    if not isinstance(target, str) or not target or is_expression(target):
        hint = "; no expression can give it, a search value can" if is_expression(target) else ""
        report(places[kind], f"expected a name, got {shown(target)}{hint}")
        return None
    return Node(
        kind,
        target,
        path,
        arguments={key: value for key, value in given.items() if key not in (kind, *CONTROL_KEYS)},
        places=places,
        name=_name(given.get("name"), places.get("name", path), report),
        inputs=_inputs(given.get("inputs"), places.get("inputs", path), report),
        when=given.get("when", True),
        repeat=given.get("repeat"),
    )


def _name(name: Any, path: Path, report: Report) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED_NAMES:
        report(path, f"expected {NAME_WORDS}, other than 'in' and 'prev', got {shown(name)}")
        return None
    return name


def _inputs(inputs: Any, path: Path, report: Report) -> Inputs:
    if isinstance(inputs, dict):
        inputs = {key: item for key, item in inputs.items() if not is_comment(key)}
    match inputs:
        case None | str():
            return inputs
        case list() if inputs and all(isinstance(item, str) for item in inputs):
            return inputs
        case dict() if inputs and all(isinstance(item, str) for item in inputs.values()):
            return inputs
    report(path, f"expected a name, a list of names, or an object of names by argument, got {shown(inputs)}")
    return UNKNOWN


def _rows(
    table: Any, shared: dict[str, Any], path: Path, report: Report
) -> list[tuple[dict[str, Any], dict[str, Path]]]:
    """Each row as {column: value} and {column: its place}; a table that is none is reported and has no rows."""
    if isinstance(table, list) and len(table) > MAX_ROWS:
        report(path, f"more than {MAX_ROWS:,} rows")
        return []
    if not isinstance(table, list) or len(table) < 2 or not all(isinstance(row, list) for row in table):
        report(path, "expected a header row and at least one row, each a list")
        return []
    header = table[0]
    if not header or not all(isinstance(column, str) for column in header) or len(set(header)) < len(header):
        report((*path, 0), f"expected column names, each once, got {shown(header)}")
        return []
    for column in header:
        if column in shared or column == "table":
            report((*path, 0), f"column '{column}' is also a key of the node")
            return []
    rows = []
    for index, row in enumerate(table[1:], start=1):
        if len(row) != len(header):
            report((*path, index), f"expected {counted(len(header), 'value')} ({', '.join(header)}), got {len(row)}")
            continue
        rows.append(
            (
                dict(zip(header, row, strict=True)),
                {column: (*path, index, place) for place, column in enumerate(header)},
            )
        )
    return rows
