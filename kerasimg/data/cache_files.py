"""The files in which decoded images are kept on disk, and their upkeep.

In the folder of one kind of pixels (`image` section, decoder, versions: `about.json`) each file holds a set of
images: a head, their content keys, a check sum for each, and their pixels. The name is a digest of the keys, so that
processes that start on the same data meet in the same file; all of them write the same bytes to the same places.

An image counts when its check sum is there and its pixels agree with it, which is looked at once in each process. The
sum is written after the pixels, so a process may be killed, or the power fail, at any moment: what was not finished is
decoded again. Pixels are written to the file, not through the mapping, so that a full disk is an error, which ends
the keeping, and not the process. All files together stay below a limit; those that were used longest ago go first.
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

from kerasimg.data.array_files import remove
from kerasimg.data.cache_folder import cache_folder
from kerasimg.errors import CallError

MAGIC = "kerasimg images 1"
SUFFIX = ".images"
ABOUT = "about.json"
HEAD = 4096
"""Bytes of the head; pixels begin at a multiple of it."""
LIMIT = 20 * 1000**3
"""Bytes that all files together may take, and no more than `DISK_SHARE` of what would be free without them."""
DISK_SHARE = 0.1
VARIABLE = "KERASIMG_CACHE_GB"
"""The environment variable that sets another limit, in GB."""
USED_S = 60
"""Files that were opened within so many seconds are not removed to make room: their run has just begun."""


NOTES = ("index", "ledger")
"""Folders beside that of the images: what stands where in folders and shards, and which images were sound."""


class File(NamedTuple):
    """What is known of a file from outside."""

    path: Path
    bytes: int
    used: float
    """When a process last opened it, or wrote it if it is a note, in seconds since 1970."""


class OnDisk:
    """Images in a file that is mapped into memory."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        """ValueError or OSError where the file is not a sound one of images of this shape."""
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
        """Copy rows to `pixels`; (N,) bool says which were there, whole."""
        there = self.sums[rows] != 0
        length = int(np.prod(self.shape))
        for place in np.flatnonzero(there).tolist():
            row = int(rows[place])
            pixels[place] = self.pixels[row, :length].reshape(self.shape)
            if not self.checked[row]:
                there[place] = self.checked[row] = self.sums[row] == _sum(pixels[place], self.keys[row])
        return there

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Keep an image; where the disk is full nothing is kept from then on."""
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
        left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        with self.lock:
            self.file.seek(at)
            while left:
                left = left[self.file.write(left) :]

    def _count(self) -> int:
        head = json.loads(self.file.read(HEAD))
        if head.get("magic") != MAGIC or tuple(head.get("shape", ())) != self.shape:
            raise ValueError(f"{self.path} is of another kind")
        return int(head["count"])


def folder() -> Path:
    """Where images are kept, for this user."""
    return cache_folder() / "images"


def opened(place: Path, shape: tuple[int, ...], known: Iterable[Path | None] = ()) -> list[OnDisk]:
    """The files of a folder that are sound, but for the known ones; those that are damaged are removed."""
    found = []
    for path in sorted(set(place.glob(f"*{SUFFIX}")) - set(known)):
        try:
            found.append(OnDisk(path, shape))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, AttributeError):
            remove(path)
    return found


def create(
    place: Path, about: dict[str, Any], keys: np.ndarray, shape: tuple[int, ...], most: int | None = None
) -> OnDisk | None:
    """A file for these images, or for the first of them that fit, or the one that another process has just made.

    keys: (N, 2) uint64, sorted.  None where there is no room, or nothing can be written.
    """
    each = _stride(shape) + 24
    room = make_room(
        place.parent, min(len(keys) * each + 2 * HEAD, limit(place.parent) if most is None else most), most
    )
    keys = keys[: max(0, (room - 2 * HEAD) // each)]
    if not len(keys):
        return None
    path = place / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}{SUFFIX}"
    beside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    head = json.dumps({"magic": MAGIC, "count": len(keys), "shape": list(shape)}).encode()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / ABOUT).exists():
            (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        with open(beside, "wb") as file:
            file.write(head.ljust(HEAD))
            file.write(keys.tobytes())
            file.write(bytes(8 * len(keys)))
            file.truncate(_size(len(keys), _stride(shape)))
        _put(beside, path)
        return OnDisk(path, shape)
    except (OSError, ValueError):
        return None
    finally:
        remove(beside)


def files(root: Path) -> list[File]:
    """The files of images below `root`, the one used longest ago first."""
    found = []
    for path in root.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append(File(path, _on_disk(status), status.st_mtime))
    return sorted(found, key=lambda file: (file.used, file.path))


def notes() -> list[File]:
    """The files of `NOTES`, for this user, the oldest first."""
    found = []
    for path in (path for name in NOTES for path in (cache_folder() / name).glob("*")):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append(File(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: (file.used, file.path))


def remove_notes(age_s: float = 0) -> list[File]:
    """Remove the notes that were written so many seconds ago or more; what was removed."""
    removed = [file for file in notes() if time.time() - file.used >= age_s]
    for file in removed:
        remove(file.path)
    for name in NOTES:
        with contextlib.suppress(OSError):
            (cache_folder() / name).rmdir()
    return [file for file in removed if not file.path.exists()]


def limit(root: Path) -> int:
    """Bytes that all files below `root` may take."""
    if given := os.environ.get(VARIABLE):
        try:
            return int(float(given) * 1000**3)
        except ValueError:
            raise CallError(f"{VARIABLE}: expected a number of GB, got '{given}'") from None
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return min(LIMIT, int(DISK_SHARE * (free + sum(file.bytes for file in files(root)))))


def make_room(root: Path, needed: int, most: int | None = None) -> int:
    """Remove files that were used longest ago until `needed` bytes fit below the limit; how many do."""
    most = limit(root) if most is None else most
    there = files(root)
    taken = sum(path.stat().st_size for path, _, _ in there if path.exists())
    for path, _, used in there:
        if taken + needed <= most or time.time() - used < USED_S:
            break
        taken -= path.stat().st_size if path.exists() else 0
        remove(path)
    return max(0, min(needed, most - taken))


def remove_older(root: Path, age_s: float = 0) -> list[File]:
    """Remove the files that no process opened for so many seconds; what was removed."""
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
    """What the images of a folder are; empty where that cannot be read."""
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def images_in(path: Path) -> tuple[int, int]:
    """How many images a file holds, and for how many it has places; (0, 0) where it is damaged."""
    try:
        with open(path, "rb") as file:
            count = int(json.loads(file.read(HEAD))["count"])
            file.seek(HEAD + 16 * count)
            return int(np.count_nonzero(np.frombuffer(file.read(8 * count), np.uint64))), count
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _put(beside: Path, path: Path) -> None:
    """Move a new file to its place, unless another process was there first."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links; there a file may replace another that is still empty
        os.replace(beside, path)


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
