"""The position and the source of every value of a document, so that an error can point at the user's own line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kerasimg.errors import Fault, SpecError

Path = tuple[str | int, ...]
Report = Callable[[Path, str], None]

NODE_KINDS = ("layer", "block", "backbone", "reuse")
MAX_FAULTS = 50
MAX_REPORTS = 1000
"""Faults met; those of a block are met again at each of its uses."""
MAX_SHOWN_KEY = 64


class Origins:
    """For each part of a merged document, the file or the call that it came from."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._root = _Origin()

    def set(self, path: Path, source: str) -> None:
        """Everything at `path` and below comes from `source`."""
        origin = self._root
        for step in path:
            origin = origin.below.setdefault(step, _Origin())
        origin.source, origin.below = source, {}

    def paths(self) -> list[Path]:
        """The paths at which a source begins."""
        return list(self._root.paths(()))

    def of(self, path: Path) -> str:
        """The source of the value at `path`."""
        origin, source = self._root, self._root.source or self.file
        for step in path:
            if step not in origin.below:
                break
            origin = origin.below[step]
            source = origin.source or source
        return source


class _Origin:
    """One place of a document, and those below it that have a source of their own."""

    def __init__(self) -> None:
        self.source = ""
        self.below: dict[str | int, _Origin] = {}

    def paths(self, path: Path) -> Iterator[Path]:
        if self.source:
            yield path
        for step, origin in self.below.items():
            yield from origin.paths((*path, step))


class Faults:
    """Collects every fault of a document, each once, with its path as the document's reader sees it."""

    def __init__(self, document: dict[str, Any], origins: Origins, file: str) -> None:
        self.document = document
        self.origins = origins
        self.file = file
        """The file that a user named, where a fault is of the document as a whole."""
        self.moved: dict[Path, Path] = {}
        """Path of a chosen option's content -> its path in the document as written."""
        self.faulty: set[Path] = set()
        """The invalid search values, about which nothing more is reported."""
        self._found: dict[Fault, None] = {}
        self._reports = 0

    def report(self, path: Path, message: str) -> None:
        """Add the fault `message` about the value at `path`; SpecError when there are too many to go on."""
        if any(path[:length] in self.faulty for length in range(1, len(path) + 1)):
            return
        for length in range(len(path), 0, -1):
            if path[:length] in self.moved:
                path = self.moved[path[:length]] + path[length:]
                break
        origin = self.origins.of(path) if path else self.file
        self._found[Fault(origin, show_path(self.document, path), message)] = None
        self._reports += 1
        if len(self._found) >= MAX_FAULTS or self._reports >= MAX_REPORTS:
            raise SpecError([*self, Fault(self.file, "", "and perhaps more: not all was checked")])

    def below(self, path: Path) -> Report:
        """A `report` whose paths begin at `path`."""
        return lambda rest, message: self.report(path + rest, message)

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def show_path(document: Any, path: Path) -> str:
    """A path as text, naming what a list item is: `model[3] (Conv2D).filters`."""
    text = ""
    for step in path:
        document = _step(document, step)
        if isinstance(step, int):
            text += f"[{step}]{_titled(document)}"
        else:
            key = step if len(step) <= MAX_SHOWN_KEY else f"{step[: MAX_SHOWN_KEY - 3]}..."
            text += ("." if text else "") + key.replace("\n", "\\n")
    return text


def _step(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _titled(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    kind = next((item[key] for key in NODE_KINDS if isinstance(item.get(key), str)), None)
    return f" ({kind[:40]})" if kind else ""
