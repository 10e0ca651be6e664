"""Features on disk: rows of numbers by the content key of their image, shared by runs and processes.

Each recipe (all that features depend on, except the image) has a folder, in which each file holds some rows. A file is
written completely or not at all (`kerasimg.data.array_files`), so a run may be killed at any moment. All files together
stay below a share of the cache's limit; the least recently used ones are deleted first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.cache_folder import cache_folder
from kerasimg.data import cache_files
from kerasimg.data.array_files import load_arrays, remove, save_arrays

KIND = "features"
SUFFIX = ".features"
ABOUT = "about.json"
KEY = "V24"
"""A row's key: 16 bytes of the image's content key, then an int64: -1, or the view and the position in the run
(view * 2**32 + position)."""
LEAST_SHARE = 0.25
"""Share of the cache limit that features may always take, however much decoded images take."""


class Found(NamedTuple):
    """The location of rows: row i is `arrays[files[i]]` at `rows[i]`; files[i] is -1 if it is not on disk."""

    arrays: list[Mapping[str, np.ndarray]]
    files: np.ndarray
    rows: np.ndarray


def folder() -> Path:
    """Returns the folder of the features of this user."""
    return cache_folder() / "features"


def row_keys(keys: np.ndarray, numbers: np.ndarray | None = None) -> np.ndarray:
    """Returns the keys (N,) of content keys (N,) 'S16' and, if given, of view and position (N,) int64."""
    result = np.empty((len(keys), 24), np.uint8)
    result[:, :16] = np.ascontiguousarray(keys, "S16").view(np.uint8).reshape(-1, 16)
    others = np.full(len(keys), -1, np.int64) if numbers is None else numbers.astype(np.int64)
    result[:, 16:] = others.view(np.uint8).reshape(-1, 8)
    return result.reshape(-1).view(KEY)


class Store:
    """The rows of one recipe."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.recipe = recipe
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:32]
        self.place = folder() / digest

    def find(self, keys: np.ndarray) -> Found:
        """Returns the location of the rows of these keys."""
        locations = Found([], np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64))
        wanted: dict[bytes, list[int]] = {}
        for index, key in enumerate(keys.tolist()):
            wanted.setdefault(key, []).append(index)
        for path in sorted(self.place.glob(f"*{SUFFIX}")):
            if not wanted or (arrays := load_arrays(path, KIND)) is None:
                continue
            with contextlib.suppress(OSError):
                os.utime(path)
            before = len(wanted)
            for row, key in enumerate(arrays["keys"].view(KEY).reshape(-1).tolist()):
                for index in wanted.pop(key, ()):
                    locations.files[index], locations.rows[index] = len(locations.arrays), row
            if len(wanted) < before:
                locations.arrays.append(arrays)
        return locations

    def add(self, keys: np.ndarray, arrays: Mapping[str, np.ndarray]) -> bool:
        """Stores rows in a new file; returns False if there is no room for them, or nothing can be written."""
        size = sum(array.nbytes for array in arrays.values()) + keys.nbytes
        if not _make_room(size):
            return False
        about = self.place / ABOUT
        with contextlib.suppress(OSError):
            self.place.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                about.write_text(json.dumps(self.recipe, indent=2, default=str) + "\n", encoding="utf-8")
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        plain = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, 24)
        return save_arrays(self.place / f"{name}{SUFFIX}", KIND, {"keys": plain, **arrays})


def room() -> int:
    """Returns the bytes that all features together may take on disk."""
    images = cache_files.folder()
    limit = cache_files.limit(images)
    return max(int(LEAST_SHARE * limit), limit - sum(file.bytes for file in cache_files.files(images)))


def files() -> list[cache_files.File]:
    """Returns the files of features, the least recently used first."""
    result = []
    for path in folder().glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            result.append(cache_files.File(path, status.st_size, status.st_mtime))
    return sorted(result, key=lambda file: (file.used, file.path))


def remove_older(age_s: float = 0) -> list[cache_files.File]:
    """Removes the files that were not used for `age_s` seconds; returns them."""
    removed = [file for file in files() if time.time() - file.used >= age_s]
    _remove(removed)
    for part in folder().glob(f"*/*{SUFFIX}.*.part"):
        remove(part)
    return [file for file in removed if not file.path.exists()]


def _make_room(needed: int) -> bool:
    """Removes the least recently used files until `needed` bytes fit; returns whether they do."""
    most, existing = room(), files()
    taken = sum(file.bytes for file in existing)
    for file in existing:
        if taken + needed <= most or time.time() - file.used < cache_files.USED_S:
            break
        _remove([file])
        taken -= file.bytes
    return taken + needed <= most


def _remove(removed: Sequence[cache_files.File]) -> None:
    for file in removed:
        remove(file.path)
    for place in {file.path.parent for file in removed}:
        if not list(place.glob(f"*{SUFFIX}")):
            remove(place / ABOUT)
            with contextlib.suppress(OSError):
                place.rmdir()
