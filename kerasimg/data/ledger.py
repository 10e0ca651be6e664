"""What is known of images that were read before: the hash of their bytes, and whether they can be read.

An image stands under its content key (`Source.keys`), so that one that has changed is an image never seen. The
ledger is a folder of small files, each written once by one process; now and then one of them joins them all, and a
file is removed only when another holds what it held: no process waits for another, and none loses a line.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from kerasimg.data.array_files import keep, kept, remove
from kerasimg.data.cache_folder import cache_folder

LIMIT = 4_000_000
"""Images that are remembered, at 52 bytes each; beyond that the oldest day's lines are forgotten."""
FILES = 16
"""So many files are joined to one."""
KIND = "ledger"
SUFFIX = ".ledger"
DAY_S = 86_400


class Known(NamedTuple):
    """What the ledger says of some images; it says nothing of those that are not `known`."""

    known: np.ndarray
    """(N,) bool."""
    sha256: np.ndarray
    """(N,) 'S32': the raw digests of their bytes; see `hexadecimal`."""
    reasons: np.ndarray
    """(N,) str objects: why they cannot be read; "" where they can be."""


class Lines(NamedTuple):
    """The lines of one file, sorted by key."""

    keys: np.ndarray
    sha256: np.ndarray
    days: np.ndarray
    """When they were written, in days since 1970."""
    reasons: dict[int, list[str]]
    """Line -> why the image cannot be read, and the version of Pillow that says so."""


class Ledger:
    """What is known of images that were read before. Any number of threads and processes may use one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[Path, Lines] = {}
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if (lines := _read(path)) is not None:
                self.files[path] = lines

    @classmethod
    def open(cls) -> Ledger:
        """The ledger of this user, in the cache folder."""
        return cls(cache_folder() / "ledger")

    def __len__(self) -> int:
        return sum(len(lines.keys) for lines in self.files.values())

    def find(self, keys: np.ndarray) -> Known:
        """What is known of the images of these content keys, (N,) 'S16'.

        That one cannot be read counts only where the same version of Pillow said so.
        """
        keys = np.asarray(keys, "S16")
        found = Known(np.zeros(len(keys), bool), np.zeros(len(keys), "S32"), np.full(len(keys), "", object))
        for lines in list(self.files.values())[::-1]:
            if not len(lines.keys):
                continue
            asked = np.flatnonzero(~found.known)
            places = np.minimum(np.searchsorted(lines.keys, keys[asked]), len(lines.keys) - 1)
            there = lines.keys[places] == keys[asked]
            asked, places = asked[there], places[there]
            found.known[asked] = True
            found.sha256[asked] = lines.sha256[places]
            for index in np.flatnonzero(np.isin(places, list(lines.reasons))) if lines.reasons else ():
                reason, version = lines.reasons[int(places[index])]
                found.reasons[asked[index]] = reason
                found.known[asked[index]] = version == PIL.__version__
        found.reasons[~found.known] = ""
        return found

    def add(self, keys: np.ndarray, sha256: np.ndarray | Sequence[bytes], reasons: Sequence[str] | np.ndarray) -> None:
        """Remember images: content keys (N,), raw digests (N,), and why each cannot be read ("" where it can)."""
        keys = np.asarray(keys, "S16")
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        reasons = np.asarray(reasons, object)[order]
        bad = {int(line): [str(reasons[line]), PIL.__version__] for line in np.flatnonzero(reasons != "")}
        today = np.full(len(keys), time.time() // DAY_S, np.int32)
        self._write(Lines(keys[order], np.asarray(sha256, "S32")[order], today, bad))
        if len(self.files) >= FILES or len(self) > 2 * LIMIT:
            self._join()

    def _write(self, lines: Lines) -> Path:
        # The time first, so that files stand in the order in which they were written.
        path = self.folder / f"{time.time_ns():020}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        texts = np.frombuffer(json.dumps(lines.reasons).encode(), np.uint8)
        keep(path, KIND, {"keys": lines.keys, "sha256": lines.sha256, "days": lines.days, "reasons": texts})
        self.files[path] = lines
        return path

    def _join(self) -> None:
        """All files as one, the latest line of each image, and of too many the latest."""
        files = dict(self.files)
        keys = np.concatenate([lines.keys for lines in files.values()])[::-1]
        days = np.concatenate([lines.days for lines in files.values()])[::-1]
        digests = np.concatenate([lines.sha256 for lines in files.values()])[::-1]
        starts = np.cumsum([0, *(len(lines.keys) for lines in files.values())])
        reasons = {
            len(keys) - 1 - int(start) - line: why
            for start, lines in zip(starts[:-1], files.values(), strict=True)
            for line, why in lines.reasons.items()
        }
        _, rows = np.unique(keys, return_index=True)
        if len(rows) > LIMIT:
            rows = np.sort(rows[np.argsort(-days[rows], kind="stable")[:LIMIT]])
            rows = rows[np.argsort(keys[rows], kind="stable")]
        bad = {line: reasons[row] for line, row in enumerate(rows.tolist()) if row in reasons} if reasons else {}
        joined = self._write(Lines(keys[rows], digests[rows], days[rows], bad))
        if joined.exists():
            for path in files:
                remove(path)
        self.files = {joined: self.files[joined]}


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Raw digests, (N,) of 'S16' or 'S32', as text; NumPy drops the zeros at the end of a single one."""
    width = digests.dtype.itemsize
    whole = np.ascontiguousarray(digests).tobytes().hex()
    return [whole[start : start + 2 * width] for start in range(0, len(whole), 2 * width)]


def _read(path: Path) -> Lines | None:
    arrays: dict[str, Any] | None = kept(path, KIND)
    if arrays is None:
        return None
    try:
        reasons = {int(line): list(why) for line, why in json.loads(arrays["reasons"].tobytes()).items()}
        return Lines(arrays["keys"], arrays["sha256"], arrays["days"], reasons)
    except (KeyError, ValueError, TypeError):
        remove(path)
        return None
