"""Stores of images and their content keys: files, arrays, members of larger files.

A store has the three methods of `Images`. Its rows are the images in its own order. Images are read when `read` is
called and are not cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from kerasimg.data.image_files import BadImage
from kerasimg.data.items import ImageInput
from kerasimg.data.readers.packed_strings import Texts

KEY_BYTES = 16
KEYS_AT_ONCE = 2048
THREADS = 8
"""Threads that call `stat`: needed for network disks; for a local disk one would do."""


class Images(Protocol):
    """A store of images; thread-safe."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, row: int) -> ImageInput:
        """An image: a path, the bytes of a file, or pixels; BadImage if it cannot be read."""

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Content keys, (N,) 'S16': the same for the same image, different after a change."""


class Files:
    """Images in files of their own."""

    def __init__(self, paths: Texts, root: str = ""):
        """paths: below the root, with forward slashes, in the encoding of the file system."""
        self.paths = paths
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> str:
        """The path of its file."""
        path = os.fsdecode(self.paths.raw(row))
        return os.path.join(self.root, path if os.sep == "/" else path.replace("/", os.sep))

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """See `file_key`."""
        above = os.fsencode(os.path.join(os.path.abspath(self.root), ""))
        if self.root:
            return keys_of(rows, lambda chunk: [file_key(above + path) for path in self.paths.raws(chunk)])
        # Paths of a manifest may be absolute.
        return keys_of(rows, lambda chunk: [file_key(os.path.join(above, path)) for path in self.paths.raws(chunk)])


class Stacked:
    """Images in concatenated arrays, (N, ...) each."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, row: int) -> np.ndarray:
        """Its pixels."""
        number = int(np.searchsorted(self.ends, row, "right"))
        return self.arrays[number][row - int(self.ends[number])]  # negative: from the end of the array

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of the pixels."""
        return keys_of(rows, lambda chunk: [content_key(self.read(row)) for row in chunk.tolist()])


class Held:
    """Images of any kind in a list."""

    def __init__(self, held: Sequence[ImageInput | Callable[[], ImageInput]]):
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def read(self, row: int) -> ImageInput:
        """The image as it was passed."""
        held = self.held[row]
        return held() if callable(held) else held

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests as for files, or of the content."""

        def key(row: int) -> bytes:
            image = self.read(row)
            if isinstance(image, str):
                return file_key(os.fsencode(os.path.abspath(image)))
            return content_key(image)

        return keys_of(rows, lambda chunk: [key(row) for row in chunk.tolist()])


class Joined:
    """The images of several stores, concatenated."""

    def __init__(self, places: Sequence[Images]):
        self.places = places
        self.ends = np.cumsum([len(place) for place in places])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, row: int) -> ImageInput:
        """The image, from its store."""
        number = int(np.searchsorted(self.ends, row, "right"))
        return self.places[number].read(row - int(self.ends[number] - len(self.places[number])))

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """The keys, from the stores."""
        rows = np.asarray(rows, np.int64)
        numbers = np.searchsorted(self.ends, rows, "right")
        keys = np.empty(len(rows), f"S{KEY_BYTES}")
        for number, place in enumerate(self.places):
            ours = numbers == number
            keys[ours] = place.keys(rows[ours] - int(self.ends[number] - len(place)))
        return keys


def join_places(places: Sequence[Images]) -> Images:
    """Concatenate stores."""
    if len(places) == 1:
        return places[0]
    arrays = [place for place in places if isinstance(place, Stacked)]
    if len(arrays) == len(places):
        return Stacked([array for place in arrays for array in place.arrays])
    return Joined(places)


class Shard(NamedTuple):
    """A file with many images, and its state when it was indexed."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def at(cls, path: str) -> Shard:
        """The file in its current state."""
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Sharded:
    """Base class for images in larger files: the file of each image, and its offset there."""

    def __init__(self, shards: Sequence[Shard], numbers: np.ndarray, offsets: np.ndarray):
        """numbers, offsets: (N,) the shard of each image, and its offset in bytes or rows."""
        self.shards = shards
        self.numbers = numbers
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.numbers)

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of the shard's absolute path, size and times, as of a file, and the offset."""
        stamps = [
            os.fsencode(os.path.abspath(shard.path)) + f"\0{shard.size}\0{shard.mtime_ns}\0{shard.ctime_ns}\0".encode()
            for shard in self.shards
        ]

        def keys(chunk: np.ndarray) -> list[bytes]:
            places = zip(self.numbers[chunk].tolist(), self.offsets[chunk].tolist(), strict=True)
            return [digest(stamps[number] + str(offset).encode()) for number, offset in places]

        return keys_of(rows, keys)

    def require_unchanged(self, shard: Shard, status: os.stat_result) -> None:
        """Raises BadImage if the file has changed since it was indexed."""
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
            raise BadImage(f"cannot be read: {shard.path} has changed since it was opened; open it again")


class Members(Sharded):
    """Images whose bytes are in larger files, uncompressed."""

    def __init__(self, shards: Sequence[Shard], numbers: np.ndarray, offsets: np.ndarray, lengths: np.ndarray):
        """offsets, lengths: (N,) in bytes."""
        super().__init__(shards, numbers, offsets)
        self.lengths = lengths

    def read(self, row: int) -> bytes:
        """The bytes of the image."""
        return self.bytes_at(row, int(self.offsets[row]), int(self.lengths[row]))

    def bytes_at(self, row: int, offset: int, length: int) -> bytes:
        """Bytes of the image's shard."""
        shard = self.shards[int(self.numbers[row])]
        try:
            # Opened each time: no handle is shared by threads and forks, and none must be closed.
            with open(shard.path, "rb", buffering=0) as file:
                self.require_unchanged(shard, os.fstat(file.fileno()))
                file.seek(offset)
                content = file.read(length)
        except OSError as error:
            raise BadImage(f"cannot be read ({shard.path}: {error.strerror or error})") from error
        if len(content) != length:
            raise BadImage(f"is cut short: {shard.path} ends at byte {offset + len(content):,}")
        return content


def keys_of(rows: np.ndarray, keys: Callable[[np.ndarray], list[bytes]]) -> np.ndarray:
    """The keys of these rows, (N,) 'S16', computed in chunks by several threads."""
    rows = np.asarray(rows, np.int64)
    chunks = (rows[start : start + KEYS_AT_ONCE] for start in range(0, len(rows), KEYS_AT_ONCE))
    with ThreadPoolExecutor(THREADS) as pool:
        return np.frombuffer(b"".join(pool.map(lambda chunk: b"".join(keys(chunk)), chunks)), f"S{KEY_BYTES}")


def file_key(path: bytes) -> bytes:
    """The key of a file: a digest of its absolute path, its size, and when its content and its entry changed last.

    Another file that takes its place, by `mv` or `cp -p`, has another key even if its size and time are the same.
    """
    try:
        status = os.stat(path)
        return digest(path + f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}".encode())
    except (OSError, ValueError):
        return digest(path + b"\0missing")


def content_key(image: ImageInput) -> bytes:
    """The key of an image in memory: a digest of its bytes, or its pixels, shape and type."""
    if isinstance(image, np.ndarray):
        head = f"{image.dtype.str}{image.shape}\0".encode()
        return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=KEY_BYTES, key=head[:64]).digest()
    return digest(image if isinstance(image, bytes) else os.fsencode(image))


def digest(content: bytes) -> bytes:
    """A digest of 16 bytes."""
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
