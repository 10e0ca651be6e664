"""Bytes -> a JSON object, with nothing let through that a spec cannot mean.

JSON as RFC 8259 has it, less what readers disagree on: a key given twice, NaN and Infinity, numbers too
large for a double, unlimited nesting and size. A key that begins with `//` is a comment.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from kerasimg.errors import Fault, SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 64

# It matches at any quote, closed or not: one that failed at the end of the text would be tried again at the next quote.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_SHOWN_DUPLICATES = 20


class _Object(dict):
    """A JSON object that remembers which of its keys were given twice."""

    twice: tuple[str, ...] = ()


def read(path: Path, file: str = "") -> dict[str, Any]:
    """The JSON object in a file; SpecError, which calls it `file`, when it holds none or no sound JSON."""
    file = file or str(path)
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
    if "\\u" in text and (found := _LONE_SURROGATE.search(json.dumps(document, ensure_ascii=False))):
        refuse(f"{json.dumps(found[0])} is half of a character")
    twice = islice(_duplicates(document), _MAX_SHOWN_DUPLICATES)
    if faults := [Fault(file, path, "given twice in the same object") for path in twice]:
        raise SpecError(faults)
    return document


def as_read(document: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A dict as if it had been read from a file: plain JSON, within the same limits."""
    try:
        text = json.dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise SpecError([Fault(label, "", f"not JSON: {reason}")]) from None
    return parse(text.encode(), label)


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
        text = "".join(islice(_SHOWN.iterencode(value), limit))  # each piece has at least a character
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


_SHOWN = json.JSONEncoder(ensure_ascii=False)


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
        counts = Counter(key for key, _ in pairs)
        made.twice = tuple(sorted(key for key, count in counts.items() if count > 1 and not is_comment(key)))
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
