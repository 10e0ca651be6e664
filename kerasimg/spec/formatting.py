"""A spec as text, laid out as a person would: a node a line, a table row by row, what is short in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from kerasimg.spec.document import KEYS
from kerasimg.spec.locations import NODE_KINDS
from kerasimg.spec.reader import is_comment

WIDTH = 120
INDENT = "  "


def dumps(document: Mapping[str, Any]) -> str:
    """The JSON text of a spec, its sections in the order in which one is read best; a comment stays before its key."""
    lines = [
        f"{INDENT}{_text(key)}: {_laid_out(document[key], 1, len(_text(key)) + 2)}" for key in _reading_order(document)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _reading_order(document: Mapping[str, Any]) -> list[str]:
    places = {key: place for place, key in enumerate(KEYS)}
    place_of: dict[str, int] = {}
    place = len(places)
    for key in reversed(list(document)):
        place = place if is_comment(key) else places.get(key, len(places))
        place_of[key] = place
    return sorted(document, key=place_of.__getitem__)


def _laid_out(value: Any, depth: int, before: int) -> str:
    """A value at a depth, `before` characters into its line."""
    line = _text(value)
    is_node = isinstance(value, dict) and any(key in value for key in NODE_KINDS)
    if is_node and isinstance(value.get("table"), list):
        return _with_table(value, depth)
    if is_node or not isinstance(value, dict | list) or not value:
        return line
    if not _is_tall(value) and len(line) + before + len(INDENT) * depth <= WIDTH:
        return line
    inner, closing = INDENT * (depth + 1), INDENT * depth
    if isinstance(value, list):
        if not any(isinstance(item, dict | list) for item in value):
            return line
        return "[\n" + ",\n".join(inner + _laid_out(item, depth + 1, 0) for item in value) + f"\n{closing}]"
    items = (f"{inner}{_text(key)}: {_laid_out(item, depth + 1, len(_text(key)) + 2)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{closing}}}"


def _is_tall(value: Any) -> bool:
    """Whether a value takes a line for each of its parts even where one would do: several nodes, and what holds any."""
    if isinstance(value, list):
        nodes = [item for item in value if isinstance(item, dict) and any(key in item for key in NODE_KINDS)]
        return len(nodes) > 1 or any("table" in node for node in nodes)
    return "nodes" in value or any(isinstance(item, dict) and "nodes" in item for item in value.values())


def _with_table(node: Mapping[str, Any], depth: int) -> str:
    """A node with its keys in one line and the rows of its table below, in columns."""
    head = ", ".join(f"{_text(key)}: {_text(value)}" for key, value in node.items() if key != "table")
    rows = [list(map(_text, row)) for row in node["table"]]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = (_row(row, widths) for row in rows)
    inner = INDENT * (depth + 1)
    return f'{{{head}, "table": [\n' + ",\n".join(inner + line for line in lines) + f"\n{INDENT * depth}]}}"


def _row(cells: list[str], widths: list[int]) -> str:
    padded = [f"{cell}, ".ljust(width + 2) for cell, width in zip(cells[:-1], widths, strict=False)]
    return f"[{''.join(padded)}{cells[-1] if cells else ''}]"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
