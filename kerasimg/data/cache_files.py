"""Files of decoded images on disk: reading, writing and eviction.

There is one folder per kind of pixels (`image` section, decoder, versions: `about.json`). Each of its files holds a set
of
images: a header, content keys, a checksum per image, and pixels. The file is named by a digest of its keys, so that
processes with the same data share it; all of them write the same bytes to the same places.

An image is valid if its checksum is present and matches its pixels; each process checks that once. The checksum is
written after the pixels, so a process may be killed at any moment: an unfinished image is decoded again. Pixels are
written by `write`, not through the mapping, so that a full disk is an error that ends caching, not the process. The
total size is limited; the least recently used files are removed first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.cache_folder import cache_folder
from kerasimg.data.array_files import remove
from kerasimg.errors import CallError

MAGIC = "kerasimg images 1"
SUFFIX = ".images"
ABOUT = "about.json"
HEAD = 4096
"""Bytes of the header; pixels start at a multiple of it."""
LIMIT = 20 * 1000**3
"""Largest total size in bytes; at most `DISK_SHARE` of the disk space that is free without them."""
DISK_SHARE = 0.1
VARIABLE = "KERASIMG_CACHE_GB"
"""The environment variable that sets another limit, in GB."""
USED_S = 60
"""Files opened within this time are not evicted: their run has just started."""


NOTES = ("index", "ledger")
"""Other cache folders: indices of folders and shards, and the ledger of readable images."""


class File(NamedTuple):
    """A cache file, its size and its age."""

    path: Path
    bytes: int
    used: float
    """When it was last opened (or written, for `NOTES`), in seconds since 1970."""


class OnDisk:
    """Images in a memory-mapped file."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        """ValueError or OSError if it is not a valid file of images of this shape."""
        self.path = path
        self.shape = shape
        self.file = open(path, "r+b", buffering=0)  # noqa: SIM115 - as long as this object
        weakref.finalize(self, self.file.close)
        try:
            count = self._count()
            keys_end = HEAD + 16 * count
            self.stride = _stride(shape)
            if os.fstat(self.file.fileno()).st_size != _size(count, self.stride):
                raise ValueError(f"{path} is cut short")
            self.keys = np.array(np.memmap(self.file, np.uint64, "r", HEAD, (count, 2)))
            self.sums = np.memmap(self.file, np.uint64, "r", keys_end, (count,))
            self.pixels_at = _pixels_at(count)
            self.pixels = np.memmap(self.file, np.uint8, "r", self.pixels_at, (count, self.stride))
        except BaseException:
            self.file.close()
            raise
        self.checked = np.zeros(count, bool)
        self.full = False
        self.lock = threading.Lock()
        with contextlib.suppress(OSError):
            os.utime(path)

    def read(self, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Copy rows to `pixels`; returns (N,) bool: which were stored and intact."""
        present = self.sums[rows] != 0
        length = int(np.prod(self.shape))
        for place in np.flatnonzero(present).tolist():
            row = int(rows[place])
            pixels[place] = self.pixels[row, :length].reshape(self.shape)
            if not self.checked[row]:
                present[place] = self.checked[row] = self.sums[row] == _sum(pixels[place], self.keys[row])
        return present

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Store an image; after the disk was full, nothing is stored any more."""
        if self.full:
            return
        try:
            self._write(self.pixels_at + row * self.stride, pixels)
            self._write(HEAD + 16 * len(self.keys) + 8 * row, np.array([_sum(pixels, self.keys[row])], np.uint64))
        except OSError:
            self.full = True

    def has(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the rows have been written."""
        return np.asarray(self.sums[rows] != 0)

    def _write(self, at: int, values: np.ndarray) -> None:
        rest = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        with self.lock:
            self.file.seek(at)
            while rest:
                rest = rest[self.file.write(rest) :]

    def _count(self) -> int:
        head = json.loads(self.file.read(HEAD))
        if head.get("magic") != MAGIC or tuple(head.get("shape", ())) != self.shape:
            raise ValueError(f"{self.path} is of another kind")
        return int(head["count"])


def folder() -> Path:
    """The folder of this user's decoded images."""
    return cache_folder() / "images"


def open_files(place: Path, shape: tuple[int, ...], known: Iterable[Path | None] = ()) -> list[OnDisk]:
    """Open the valid files of a folder, except the known ones; damaged ones are removed."""
    entries = []
    for path in sorted(set(place.glob(f"*{SUFFIX}")) - set(known)):
        try:
            entries.append(OnDisk(path, shape))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, AttributeError):
            remove(path)
    return entries


def create(
    place: Path, about: dict[str, Any], keys: np.ndarray, shape: tuple[int, ...], most: int | None = None
) -> OnDisk | None:
    """A file for these images, or for as many as fit; perhaps one that another process has just created.

    keys: (N, 2) uint64, sorted. Returns None if there is no room, or nothing can be written.
    """
    each = _stride(shape) + 24
    room = make_room(
        place.parent, min(len(keys) * each + 2 * HEAD, limit(place.parent) if most is None else most), most
    )
    keys = keys[: max(0, (room - 2 * HEAD) // each)]
    if not len(keys):
        return None
    path = place / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}{SUFFIX}"
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    head = json.dumps({"magic": MAGIC, "count": len(keys), "shape": list(shape)}).encode()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / ABOUT).exists():
            (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        with open(temporary, "wb") as file:
            file.write(head.ljust(HEAD))
            file.write(keys.tobytes())
            file.write(bytes(8 * len(keys)))
            file.truncate(_size(len(keys), _stride(shape)))
        _put(temporary, path)
        return OnDisk(path, shape)
    except (OSError, ValueError):
        return None
    finally:
        remove(temporary)


def files(root: Path) -> list[File]:
    """The files of images below `root`, least recently used first."""
    entries = []
    for path in root.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append(File(path, _on_disk(status), status.st_mtime))
    return sorted(entries, key=lambda file: (file.used, file.path))


def notes() -> list[File]:
    """The files in `NOTES` of this user, oldest first."""
    entries = []
    for path in (path for name in NOTES for path in (cache_folder() / name).glob("*")):
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append(File(path, status.st_size, status.st_mtime))
    return sorted(entries, key=lambda file: (file.used, file.path))


def remove_notes(age_s: float = 0) -> list[File]:
    """Remove the files in `NOTES` that are at least this old; returns the removed ones."""
    removed = [file for file in notes() if time.time() - file.used >= age_s]
    for file in removed:
        remove(file.path)
    for name in NOTES:
        with contextlib.suppress(OSError):
            (cache_folder() / name).rmdir()
    return [file for file in removed if not file.path.exists()]


def limit(root: Path) -> int:
    """Largest total size of the files below `root`, in bytes."""
    if value := os.environ.get(VARIABLE):
        try:
            return int(float(value) * 1000**3)
        except ValueError:
            raise CallError(f"{VARIABLE}: expected a number of GB, got '{value}'") from None
    present = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(present).free
    return min(LIMIT, int(DISK_SHARE * (free + sum(file.bytes for file in files(root)))))


def make_room(root: Path, needed: int, most: int | None = None) -> int:
    """Remove least recently used files until `needed` bytes fit below the limit; returns how many bytes fit."""
    most = limit(root) if most is None else most
    present = files(root)
    taken = sum(path.stat().st_size for path, _, _ in present if path.exists())
    for path, _, used in present:
        if taken + needed <= most or time.time() - used < USED_S:
            break
        taken -= path.stat().st_size if path.exists() else 0
        remove(path)
    return max(0, min(needed, most - taken))


def remove_older(root: Path, age_s: float = 0) -> list[File]:
    """Remove the files not opened for this long; returns the removed ones."""
    removed = [file for file in files(root) if time.time() - file.used >= age_s]
    for file in removed:
        remove(file.path)
    for part in root.glob(f"*/*{SUFFIX}.*.part"):
        remove(part)
    for place in root.glob("*"):
        if not list(place.glob(f"*{SUFFIX}")):
            remove(place / ABOUT)
            with contextlib.suppress(OSError):
                place.rmdir()
    return [file for file in removed if not file.path.exists()]


def about_of(place: Path) -> dict[str, Any]:
    """A folder's `about.json`; empty if it cannot be read."""
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def images_in(path: Path) -> tuple[int, int]:
    """Images stored in a file, and its capacity; (0, 0) if it is damaged."""
    try:
        with open(path, "rb") as file:
            count = int(json.loads(file.read(HEAD))["count"])
            file.seek(HEAD + 16 * count)
            return int(np.count_nonzero(np.frombuffer(file.read(8 * count), np.uint64))), count
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _put(temporary: Path, path: Path) -> None:
    """Move a new file to its place, unless another process was there first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links; there a file may replace another that is still empty
        os.replace(temporary, path)


def _sum(pixels: np.ndarray, key: np.ndarray) -> int:
    """A check sum of one image, never 0: the sum of its 64-bit words, mixed with its key."""
    flat = np.ascontiguousarray(pixels).reshape(-1)
    words = flat[: len(flat) // 8 * 8].view(np.uint64)
    rest = int.from_bytes(flat[len(words) * 8 :].tobytes(), "little")
    total = (int(words.sum(dtype=np.uint64)) + rest) * 0x9E3779B97F4A7C15 + int(key[0])
    return total % 2**64 or 1


def _stride(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // 8) * 8


def _pixels_at(count: int) -> int:
    return -(-(HEAD + 24 * count) // HEAD) * HEAD


def _size(count: int, stride: int) -> int:
    return _pixels_at(count) + count * stride


def _on_disk(status: os.stat_result) -> int:
    """Bytes that a file takes: places that were never filled take none, where the file system can leave them out."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512
