"""A spec file -> a JSON object, read by `kerasimg.boundary`; how errors quote values. A key that begins with `//` is a
comment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kerasimg.boundary import JsonError, check_size, limit, parse_json
from kerasimg.errors import Fault, SpecError

MAX_BYTES = limit("json_bytes")
MAX_DEPTH = limit("json_depth")


def read(path: Path, file: str = "") -> dict[str, Any]:
    """The JSON object in a file; SpecError, which calls it `file`, if it holds none or invalid JSON."""
    file = file or str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Fault(file, "", f"cannot be read: {error.strerror or error}")]) from None
    return parse(content, file)


def parse(content: bytes, file: str) -> dict[str, Any]:
    """The JSON object that `content` is; `file` is what errors call it."""
    try:
        document = parse_json(content)
    except JsonError as error:
        raise SpecError([Fault(file, place, message) for place, message in error.faults]) from None
    if not isinstance(document, dict):
        raise SpecError([Fault(file, "", f"expected a JSON object, got {kind_of(document)}")])
    return document


def as_read(document: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A dict as if it had been read from a file: plain JSON, within the same limits."""
    try:
        check_size(document)
        text = json.dumps(document)
    except JsonError as error:
        raise SpecError([Fault(label, "", str(error))]) from None
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise SpecError([Fault(label, "", f"not JSON: {reason}")]) from None
    return parse(text.encode(), label)


def kind_of(value: object) -> str:
    """The name of a value's JSON type, with its article: "a list"."""
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
