"""Names and texts from outside, made harmless for what they are written to: one function for each medium."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from kerasimg.errors import printable


def one_line(text: object) -> str:
    """A name for the terminal or a log: what a terminal would obey is escaped, line breaks too."""
    return printable(str(text)).replace("\n", "\\n")


def lines(text: object) -> str:
    """A text of several lines for the terminal or a log."""
    return printable(str(text))


def command(*words: object) -> str:
    """A command of kerasimg as one types it into a shell: a path with spaces is quoted."""
    return shlex.join(["kerasimg", *map(str, words)])


def path_from_here(path: str | os.PathLike[str]) -> str:
    """A path for a command in the current folder: the relative path if it is shorter."""
    text = os.fspath(path)
    with contextlib.suppress(ValueError):  # another drive
        text = min(text, os.path.relpath(text), key=len)
    return text


def deep(value: Any) -> Any:
    """A document with every text in it, keys too, as `one_line` has it."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {deep(key): deep(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(deep, value))
    if isinstance(value, list | tuple):
        return type(value)(map(deep, value))
    return value


def json_text(text: str) -> str:
    """JSON for the terminal: what a terminal would obey is written as an escape of JSON, which reads back alike."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def markdown(text: object) -> str:
    """A text within a line of Markdown: no HTML, no link, no table, no heading, no line break."""
    return _MARKUP.sub(r"\\\g<0>", one_line(" ".join(str(text).split()))).replace("<", "&lt;").replace(">", "&gt;")


_MARKUP = re.compile(r"[\\`*_\[\]|#!~]")


def tracker_key(name: object) -> str:
    """A name as the key of a metric or a param that every experiment tracker takes.

    Other characters become underscores, and a name that is changed ends with four digits of its own hash, so that no
    two become the same.
    """
    text = str(name)
    if len(text) <= _KEY_CHARACTERS and _KEY.fullmatch(text) and posixpath.normpath(text) == text:
        return text
    plain = re.sub(r"[\W_]+", "_", text).strip("_")[: _KEY_CHARACTERS - 5]
    return f"{plain}_{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:4]}"


_KEY_CHARACTERS = 250
_KEY = re.compile(r"[^\W_][\w\-. :/]*")
"""MLflow takes these; names that begin with an underscore are Weights & Biases' own."""


def csv_cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula; `from_csv_cell` gives it back."""
    return f"'{text}" if _FORMULA.match(text) else text


def csv_row(cells: Iterable[Any]) -> list[Any]:
    """Cells with each text, except a number, as `csv_cell` has it."""
    return [csv_cell(cell) if isinstance(cell, str) and not _NUMBER.fullmatch(cell) else cell for cell in cells]


def from_csv_cell(cell: str) -> str:
    """The inverse of `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
