"""The cache of decoded images: an image is decoded once, not in every epoch.

It stores the uint8 pixels that the spec's `image` section makes of an image, before augmentation, under the image's
content key (`Source.keys`): a changed image has another key. Images are cached in memory if they fit into a share of
the free memory, else on disk in memory-mapped files (`cache_files.py`). Images that fit into neither are decoded each
time. Pixels are the same with and without the cache.
"""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import PIL

from kerasimg.data import cache_files, fast_decode
from kerasimg.data.memory import free_bytes
from kerasimg.errors import CallError, counted, sized
from kerasimg.spec.document import Image

CacheKind = Literal["off", "memory", "disk", "auto"]

FREE_MEMORY_SHARE = 0.4
"""Share of the free memory that all decoded images of a process may take."""

NOT_DECODING = {"scale"}
"""Keys of `image` that the pixels do not depend on."""

_in_memory: weakref.WeakSet[InMemory] = weakref.WeakSet()


class Store(Protocol):
    """Pixels of many images, one per row."""

    keys: np.ndarray
    """(N, 2) uint64: the image of each row."""

    def read(self, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Copy rows to `pixels`; returns (N,) bool: which were stored and intact."""

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Store an image."""

    def has(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the rows have been written."""


class InMemory:
    """Images in one array; memory is allocated as it is filled."""

    def __init__(self, keys: np.ndarray, shape: tuple[int, ...]):
        self.keys = keys
        self.pixels = np.empty((len(keys), *shape), np.uint8)
        self.present = np.zeros(len(keys), bool)
        _in_memory.add(self)

    def read(self, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Copy rows to `pixels`; returns (N,) bool: which were stored."""
        present = self.present[rows]
        if present.all():
            np.take(self.pixels, rows, axis=0, out=pixels, mode="clip")  # "raise" would copy twice
        else:
            pixels[present] = self.pixels[rows[present]]
        return present

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Store an image."""
        self.pixels[row] = pixels
        self.present[row] = True  # after the pixels, for other threads

    def has(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the rows have been written."""
        return self.present[rows]


class Rows:
    """The places of some images in the cache, stored already or not."""

    def __init__(self, stores: list[Store], numbers: np.ndarray, rows: np.ndarray):
        """numbers: (N,) int16, places in `stores`, -1: none.  rows: (N,) int64, rows of the store."""
        self.stores, self.numbers, self.rows = stores, numbers, rows

    def read(self, positions: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Copy the images at these positions to `pixels`; returns (N,) bool: which were stored."""
        numbers = self.numbers[positions]
        first = int(numbers[0])
        if (numbers == first).all():
            if first < 0:
                return np.zeros(len(positions), bool)
            return self.stores[first].read(self.rows[positions], pixels)
        present = np.zeros(len(positions), bool)
        for number in np.unique(numbers[numbers >= 0]).tolist():
            chosen = np.flatnonzero(numbers == number)
            part = np.empty((len(chosen), *pixels.shape[1:]), np.uint8)
            present[chosen] = self.stores[number].read(self.rows[positions[chosen]], part)
            pixels[chosen] = part
        return present

    def write(self, position: int, pixels: np.ndarray) -> None:
        """Store the image at this position, if it has a place."""
        number = int(self.numbers[position])
        if number >= 0:
            self.stores[number].write(int(self.rows[position]), pixels)

    def has(self, positions: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the images at these positions are stored."""
        numbers, rows = self.numbers[positions], self.rows[positions]
        present = np.zeros(len(positions), bool)
        for number in np.unique(numbers[numbers >= 0]).tolist():
            mine = numbers == number
            present[mine] = self.stores[number].has(rows[mine])
        return present

    def complete(self) -> bool:
        """Whether every image is stored."""
        return bool(self.has(np.arange(len(self.numbers))).all())


class Cache:
    """The decoded images of a run. Any number of threads, and for "disk" of processes, may use it.

    kind: memory: stored as long as this object exists.  disk: stored for later runs.  auto: in memory if all images
    fit, else on disk.  off: nothing is stored.
    """

    def __init__(self, kind: CacheKind = "auto", folder: Path | None = None, limit: int | None = None):
        """folder: for "disk"; None: `images` in the cache folder.

        limit: bytes on disk; None: what `cache_files.limit` says.
        """
        if kind not in ("off", "memory", "disk", "auto"):
            raise CallError(f"cache: expected off, memory, disk or auto, got {kind!r}")
        self.kind = kind
        self.folder = folder or cache_files.folder()
        self.limit = limit
        self._lock = threading.Lock()
        self._stores: dict[str, list[Store]] = {}
        self._without: dict[str, np.ndarray] = {}

    def rows(self, keys: np.ndarray, image: Image, exact: bool) -> Rows:
        """The places of images by their content keys, (N,) 'S16'; images without one get one if there is room."""
        words = as_words(keys)
        about = about_pixels(image, exact)
        group = group_name(about)
        with self._lock:
            stores = self._stores.setdefault(group, [])
            numbers = np.full(len(words), -1, np.int16)
            rows = np.zeros(len(words), np.int64)
            _find(stores, 0, words, numbers, rows)
            if self.kind != "off" and (numbers < 0).any():
                known = len(stores)
                self._add(stores, group, about, words[numbers < 0], (*image.size, image.channels))
                _find(stores, known, words, numbers, rows)
                missing = [self._without.get(group, words[:0]), words[numbers < 0]]
                self._without[group] = np.unique(np.concatenate(missing), axis=0)
            return Rows(stores, numbers, rows)

    def describe(self) -> str:
        """One line: how much is stored, and where."""
        stores = [store for some in self._stores.values() for store in some]
        memory = sum(store.pixels.nbytes for store in stores if isinstance(store, InMemory))
        disk = sum(len(store.keys) for store in stores if not isinstance(store, InMemory))
        parts = [f"{sized(memory)} in memory"] if memory else []
        parts += [f"{counted(disk, 'image')} in {self.folder}"] if disk else []
        return f"decoded images: {', '.join(parts) or 'not cached'}"

    def shortage(self) -> str:
        """One line if images do not fit into the cache; else an empty string."""
        missing = sum(map(len, self._without.values()))
        where = "in memory" if self.kind == "memory" else f"in {self.folder} (KERASIMG_CACHE_GB, kerasimg cache remove)"
        return (
            f"no room for {counted(missing, 'decoded image')} {where}: each epoch decodes them again" if missing else ""
        )

    def _add(self, stores: list[Store], group: str, about: dict[str, Any], words: np.ndarray, shape: Any) -> None:
        """Add stores for images without a place."""
        words = np.unique(words, axis=0)
        each = int(np.prod(shape))
        in_memory = min(len(words), memory_room() // each)
        if self.kind == "memory" or (self.kind == "auto" and in_memory == len(words)):
            if in_memory:
                stores.append(InMemory(words[:in_memory], shape))
            return
        place = self.folder / group
        for store in cache_files.open_files(place, shape, [getattr(one, "path", None) for one in stores]):
            words = words[find(store.keys, words) < 0]
            stores.append(store)
        if len(words):
            store_of_rest = cache_files.create(place, about, words, shape, self.limit)
            if store_of_rest is not None:
                stores.append(store_of_rest)


def open_cache(cache: CacheKind | Cache) -> Cache | None:
    """The cache of this kind, or the given cache; None for "off"."""
    made = cache if isinstance(cache, Cache) else Cache(cache)
    return None if made.kind == "off" else made


def memory_room() -> int:
    """Bytes of memory that are left for more images."""
    taken = sum(store.pixels.nbytes for store in _in_memory)
    filled = sum(int(store.present.sum()) * store.pixels[0].nbytes for store in _in_memory)
    return max(0, int(FREE_MEMORY_SHARE * (free_bytes() + filled)) - taken)


def about_pixels(image: Image, exact: bool) -> dict[str, Any]:
    """Everything that the pixels depend on besides the file."""
    decoder = "exact" if exact else f"fast {fast_decode.version()}"
    return {
        "image": image.model_dump(mode="json", exclude=NOT_DECODING),
        "decoder": decoder,
        "kerasimg": version("kerasimg"),
        "pillow": PIL.__version__,
    }


def group_name(about: dict[str, Any]) -> str:
    """The folder name for pixels of one kind."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def as_words(keys: np.ndarray) -> np.ndarray:
    """Content keys, (N,) 'S16', as (N, 2) uint64."""
    return np.frombuffer(np.ascontiguousarray(keys, "S16").tobytes(), np.uint64).reshape(-1, 2)


def find(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rows of `known`, sorted (N, 2), that the rows of `wanted` equal: (M,) int64, -1 where none does."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    # Search by the first half. Two of a million keys that share it: 1 in 40 million, and the image is then decoded.
    rows = np.minimum(np.searchsorted(known[:, 0], wanted[:, 0]), len(known) - 1)
    return np.where((known[rows] == wanted).all(axis=1), rows, -1)


def _find(stores: list[Store], first: int, words: np.ndarray, numbers: np.ndarray, rows: np.ndarray) -> None:
    """Fill in missing places from the stores numbered `first` and higher."""
    for number in range(first, len(stores)):
        open_ = np.flatnonzero(numbers < 0)
        matches = find(stores[number].keys, words[open_])
        hit = open_[matches >= 0]
        numbers[hit] = number
        rows[hit] = matches[matches >= 0]
