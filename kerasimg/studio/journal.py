"""The journal of a folder of images: every decision is one line of a file, which is only appended to.

A line is on the disk (fsync) before the page hears of it. Undo and redo are lines, too, so nothing that was decided is
ever overwritten. Moves of files are two lines: what will be moved, and what was moved. After a kill, `Journal` drops a
last line that was cut short, and `Library` completes moves that have no second line.

    {"edit": [["cat/1.jpg", "label", "cat", "dog"]]}
    {"undo": 1}
    {"move": [["cat/1.jpg", "dog/1.jpg"]]}
    {"moved": [["cat/1.jpg", "dog/1.jpg"]]}
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kerasimg.errors import CallError

LABEL = "label"
"""The key of an image's label."""

Moves = list[tuple[str, str]]
"""Paths of files before and after, relative to the folder."""


class Change(NamedTuple):
    """One value of one subject, before and after."""

    subject: str
    """The path of an image, relative to the folder; "" for the folder as a whole."""
    key: str
    before: Any
    after: Any


class Journal:
    """The decisions of a folder, from their file.

    Args:
        path: the file; it is made with the first line.

    Raises:
        CallError: if a line other than the last one is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        """The number of lines."""
        self.values: dict[str, dict[str, Any]] = {}
        """Subject -> key -> value."""
        self.open_moves: Moves = []
        """Moves that were begun, and perhaps not completed."""
        self._edits: dict[int, list[Change]] = {}
        self._done: list[int] = []
        self._undone: list[int] = []
        self._read()

    @property
    def undoable(self) -> int:
        """The number of edits that can be undone."""
        return len(self._done)

    @property
    def redoable(self) -> int:
        """The number of edits that can be done again."""
        return len(self._undone)

    def edit(self, changes: Iterable[Change]) -> list[Change]:
        """Write changes as one line, which undo takes back as a whole.

        Returns:
            The changes that change something.
        """
        effective = [change for change in changes if change.before != change.after]
        if effective:
            self._append({"edit": [list(change) for change in effective]})
        return effective

    def undo(self) -> list[Change]:
        """Undo the last edit; returns its changes, reversed, or nothing if there is none."""
        if not self._done:
            return []
        number = self._done[-1]
        changes = [Change(subject, key, after, before) for subject, key, before, after in self._edits[number]]
        self._append({"undo": number})
        return changes

    def redo(self) -> list[Change]:
        """Do the last undone edit again; returns its changes."""
        if not self._undone:
            return []
        number = self._undone[-1]
        self._append({"redo": number})
        return list(self._edits[number])

    def begin_moves(self, moves: Moves) -> None:
        """Write which files will be moved, before the first one is."""
        self._append({"move": moves})

    def end_moves(self, moved: Moves) -> None:
        """Write which files were moved: their decisions are under the new paths from now on."""
        self._append({"moved": moved})

    def value(self, subject: str, key: str, default: Any = None) -> Any:
        """The decided value, or the default."""
        return self.values.get(subject, {}).get(key, default)

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except BaseException:  # the disk is full: a part of a line must not stay before the next one
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise
        self._apply(entry)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        self.version += 1
        match entry:
            case {"edit": changes}:
                self._edits[self.version] = [Change(*change) for change in changes]
                self._set((subject, key, after) for subject, key, _, after in self._edits[self.version])
                self._done.append(self.version)
                self._undone.clear()
            case {"undo": number}:
                self._set((subject, key, before) for subject, key, before, _ in self._edits[number])
                self._undone.append(self._done.pop())
            case {"redo": number}:
                self._set((subject, key, after) for subject, key, _, after in self._edits[number])
                self._done.append(self._undone.pop())
            case {"move": moves}:
                self.open_moves = [(before, after) for before, after in moves]
            case {"moved": moved}:
                self.open_moves = []
                self._rename(dict(moved))
            case _:
                raise ValueError(f"no entry: {next(iter(entry), 'empty')}")

    def _set(self, values: Iterable[tuple[str, str, Any]]) -> None:
        for subject, key, value in values:
            self.values.setdefault(subject, {})[key] = value

    def _rename(self, names: Mapping[str, str]) -> None:
        for before, after in names.items():
            if before in self.values:
                self.values[after] = self.values.pop(before)
        for number, changes in self._edits.items():
            self._edits[number] = [
                change._replace(subject=names.get(change.subject, change.subject)) for change in changes
            ]

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        whole, newline, cut = content.rpartition(b"\n")
        if cut:  # the process was killed while it wrote; nobody has heard of that decision
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
                os.fsync(file.fileno())
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                self._apply(json.loads(line))
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                raise CallError(
                    f"'{self.path}', line {number}: is not as the studio wrote it ({error}); restore the file from a "
                    f"copy, or move it away to begin with the labels of the folders"
                ) from None
