"""The ledger: for images that were read before, the hash of their bytes and whether they can be read.

Images are stored by content key (`Source.keys`), so a changed image is a new one. The ledger is a folder of small
files, each written once by one process. From time to time a process merges them, and removes a file only after its
lines are in
another: no process waits for another, and no line is lost.
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

from kerasimg.cache_folder import cache_folder
from kerasimg.data.array_files import load_arrays, remove, save_arrays

LIMIT = 4_000_000
"""Largest number of images, 52 bytes each; beyond it the oldest lines are dropped."""
FILES = 16
"""Number of files at which they are merged."""
KIND = "ledger"
SUFFIX = ".ledger"
DAY_S = 86_400


class Known(NamedTuple):
    """What the ledger knows about some images; only valid for those that are `known`."""

    known: np.ndarray
    """(N,) bool."""
    sha256: np.ndarray
    """(N,) 'S32': the raw digests of their bytes; see `hexadecimal`."""
    reasons: np.ndarray
    """(N,) str objects: why they cannot be read; "" if they can be."""


class Lines(NamedTuple):
    """The lines of one file, sorted by key."""

    keys: np.ndarray
    sha256: np.ndarray
    days: np.ndarray
    """When each line was written, in days since 1970."""
    reasons: dict[int, list[str]]
    """Line -> why the image cannot be read, and the version of Pillow."""


class Ledger:
    """The ledger in a folder, which any number of threads and processes may use."""

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
        """Looks up images by content key, (N,) 'S16'.

        An unreadable image counts as known only if the version of Pillow is the same.
        """
        keys = np.asarray(keys, "S16")
        result = Known(np.zeros(len(keys), bool), np.zeros(len(keys), "S32"), np.full(len(keys), "", object))
        for lines in list(self.files.values())[::-1]:
            if not len(lines.keys):
                continue
            asked = np.flatnonzero(~result.known)
            places = np.minimum(np.searchsorted(lines.keys, keys[asked]), len(lines.keys) - 1)
            match = lines.keys[places] == keys[asked]
            asked, places = asked[match], places[match]
            result.known[asked] = True
            result.sha256[asked] = lines.sha256[places]
            for index in np.flatnonzero(np.isin(places, list(lines.reasons))) if lines.reasons else ():
                reason, version = lines.reasons[int(places[index])]
                result.reasons[asked[index]] = reason
                result.known[asked[index]] = version == PIL.__version__
        result.reasons[~result.known] = ""
        return result

    def add(self, keys: np.ndarray, sha256: np.ndarray | Sequence[bytes], reasons: Sequence[str] | np.ndarray) -> None:
        """Adds images: content keys (N,), raw digests (N,), and why each cannot be read ("" if it can)."""
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
        # The time first, so that files sort by age.
        path = self.folder / f"{time.time_ns():020}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        texts = np.frombuffer(json.dumps(lines.reasons).encode(), np.uint8)
        save_arrays(path, KIND, {"keys": lines.keys, "sha256": lines.sha256, "days": lines.days, "reasons": texts})
        self.files[path] = lines
        return path

    def _join(self) -> None:
        """Merge all files, keeping the latest line of each image, at most LIMIT."""
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
    """Raw digests, (N,) of 'S16' or 'S32', as text; NumPy drops trailing zeros of a single one."""
    width = digests.dtype.itemsize
    whole = np.ascontiguousarray(digests).tobytes().hex()
    return [whole[start : start + 2 * width] for start in range(0, len(whole), 2 * width)]


def _read(path: Path) -> Lines | None:
    arrays: dict[str, Any] | None = load_arrays(path, KIND)
    if arrays is None:
        return None
    try:
        reasons = {int(line): list(why) for line, why in json.loads(arrays["reasons"].tobytes()).items()}
        return Lines(arrays["keys"], arrays["sha256"], arrays["days"], reasons)
    except (KeyError, ValueError, TypeError):
        remove(path)
        return None
