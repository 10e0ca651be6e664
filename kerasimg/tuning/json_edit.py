"""A JSON text changed to mean something else, with all that stays the same left as its author wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kerasimg.spec.search import KINDS

_DECODER = json.JSONDecoder()


class _Part:
    """A value in a text: where it stands, what it is, and what stands in it."""

    def __init__(self, begin: int, end: int, value: Any, children: Mapping[Any, _Part]) -> None:
        self.begin, self.end, self.value, self.children = begin, end, value, children


def rewrite(text: str, target: Mapping[str, Any]) -> str:
    """The text of a JSON object, changed as little as it takes to be the text of `target`.

    What is equal keeps its layout, comments (keys that begin with `//`) stay where they stand unless `target` has lost
    them, keys that are new come after the others.
    """
    root = _parsed(text, _skipped(text, 0))
    return text[: root.begin] + _written(text, root, target) + text[root.end :]


def _written(text: str, part: _Part, target: Any) -> str:
    if _same(part.value, target):
        return text[part.begin : part.end]
    if isinstance(part.value, dict) and isinstance(target, dict) and not KINDS.keys() & part.value.keys():
        return _object(text, part, target)
    if isinstance(part.value, list) and isinstance(target, list) and len(part.value) == len(target):
        return _with_children(text, part, dict(enumerate(target)))
    if (chosen := _option(part, target)) is not None:
        return _written(text, chosen, target)
    return _text(target)


def _object(text: str, part: _Part, target: Mapping[str, Any]) -> str:
    """An object with some values changed, some keys gone, and new ones at its end."""
    kept = [key for key in part.children if key in target]
    if not kept:
        return _text(target)
    begins = _member_begins(text, part)
    gaps = {key: text[len(text[:begin].rstrip()) : begin] for key, begin in begins.items()}
    pieces = [
        gaps[key] + text[begins[key] : part.children[key].begin] + _written(text, part.children[key], target[key])
        for key in kept
    ]
    between = gaps[kept[-1]] or " "
    pieces += [f"{between}{_text(key)}: {_text(value)}" for key, value in target.items() if key not in part.children]
    last = max(child.end for child in part.children.values())
    return "{" + ",".join(pieces) + text[last : part.end]


def _member_begins(text: str, part: _Part) -> dict[Any, int]:
    """Where each key of an object begins."""
    begins, at = {}, part.begin + 1
    for key, child in part.children.items():
        begins[key] = text.index('"', at)
        at = child.end
    return begins


def _with_children(text: str, part: _Part, targets: Mapping[Any, Any]) -> str:
    made, at = "", part.begin
    for key, child in part.children.items():
        made += text[at : child.begin] + _written(text, child, targets[key])
        at = child.end
    return made + text[at : part.end]


def _option(part: _Part, target: Any) -> _Part | None:
    """The option of a $choice that the target was made from, where one has its shape."""
    if not isinstance(part.value, dict) or not isinstance(part.value.get("$choice"), dict):
        return None
    options = part.children["$choice"].children.values()
    alike = [one for one in options if _shape(one.value) == _shape(target) and isinstance(target, dict | list)]
    return next((one for one in alike if _same(one.value, target)), alike[0] if len(alike) == 1 else None)


def _shape(value: Any) -> Any:
    return sorted(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else None


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n\ufeff":
        at += 1
    return at


def _parsed(text: str, at: int) -> _Part:
    """The value that begins at a place of a sound JSON text."""
    if text[at] not in "{[":
        value, end = _DECODER.raw_decode(text, at)
        return _Part(at, end, value, {})
    closing = "}" if text[at] == "{" else "]"
    children: dict[Any, _Part] = {}
    place = _skipped(text, at + 1)
    while text[place] != closing:
        key: Any = len(children)
        if closing == "}":
            key, place = _DECODER.raw_decode(text, place)
            place = _skipped(text, _skipped(text, place) + 1)
        children[key] = child = _parsed(text, place)
        place = _skipped(text, child.end)
        if text[place] == ",":
            place = _skipped(text, place + 1)
    values = {key: child.value for key, child in children.items()}
    return _Part(at, place + 1, values if closing == "}" else list(values.values()), children)
