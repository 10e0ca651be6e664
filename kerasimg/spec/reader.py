"""Bytes -> a JSON object, with nothing let through that a spec cannot mean.

JSON as RFC 8259 has it, less what readers disagree on: a key given twice, NaN and Infinity, numbers too
large for a double, unlimited nesting and size. A key that begins with `//` is a comment.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from kerasimg.errors import Fault, SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 64

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class _Object(dict):
    """A JSON object that remembers which of its keys were given twice."""

    twice: tuple[str, ...] = ()


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; SpecError when there is none, or when it is not sound JSON."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Fault(file, "", f"cannot be read: {error.strerror or error}")]) from None
    return parse(content, file)


def parse(content: bytes, file: str) -> dict[str, Any]:
    """The JSON object that `content` is; `file` is what errors call it."""

    def refuse(message: str, path: str = "") -> NoReturn:
        raise SpecError([Fault(file, path, message)])

    if len(content) > MAX_BYTES:
        refuse(f"larger than {MAX_BYTES:,} bytes; that is no spec")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(f"not UTF-8 text (byte {error.start})")
    if _depth(text) > MAX_DEPTH:
        refuse(f"nested deeper than {MAX_DEPTH} levels")
    try:
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        refuse(f"not JSON: {error.msg[0].lower()}{error.msg[1:]}", f"line {error.lineno}, column {error.colno}")
    except ValueError as error:
        refuse(str(error))
    if not isinstance(document, dict):
        refuse(f"expected a JSON object, got {kind_of(document)}")
    faults = [Fault(file, path, "given twice in the same object") for path in _duplicates(document)]
    if faults:
        raise SpecError(faults)
    return document


def kind_of(value: object) -> str:
    """What JSON calls a value's type, with its article: "a list"."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "a number"


def shown(value: object, limit: int = 60) -> str:
    """A value as an error quotes it: JSON, cut when long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def is_comment(key: str) -> bool:
    """Whether a key of an object is a comment."""
    return key.startswith("//")


def without_comments(value: Any) -> Any:
    """The same value, without the comments in it."""
    if isinstance(value, dict):
        return {key: without_comments(item) for key, item in value.items() if not is_comment(key)}
    if isinstance(value, list):
        return [without_comments(item) for item in value]
    return value


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                deepest = max(deepest, depth)
            case "]" | "}":
                depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = _Object(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        made.twice = tuple(sorted({key for key in keys if keys.count(key) > 1 and not is_comment(key)}))
    return made if made.twice else dict(made)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _int(text: str) -> int:
    if len(text) > 18:
        raise ValueError(f"{text[:18]}... is too large for an integer")
    return int(text)


def _duplicates(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value, _Object):
            yield from (f"{path}.{key}" if path else key for key in value.twice)
        for key, item in value.items():
            yield from _duplicates(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _duplicates(item, f"{path}[{index}]")
