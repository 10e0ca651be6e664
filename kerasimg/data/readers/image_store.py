"""Where the images of a source are, and what they are known by: files, arrays, members of larger files.

Whatever has these three methods (`Images`) can be the place of a source's images. Its rows are the images in the
order in which the place holds them; nothing is read before `read` is called, and nothing is kept after it.
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
"""Threads that ask for the state of files: on a disk of this machine one would do, on one of a network not."""


class Images(Protocol):
    """The images of a source, wherever they are. Any number of threads may call."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, row: int) -> ImageInput:
        """An image: the path of its file, the bytes of one, or its pixels; a BadImage says why there is none."""

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Content keys, (N,) 'S16': of the same image the same, of one that has changed another."""


class Files:
    """Images in files of their own."""

    def __init__(self, paths: Texts, root: str = ""):
        """paths: below the root, with forward slashes, in the bytes of the file system."""
        self.paths = paths
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> str:
        """The path of its file."""
        path = os.fsdecode(self.paths.raw(row))
        return os.path.join(self.root, path if os.sep == "/" else path.replace("/", os.sep))

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of absolute path, size and time of the last change."""
        above = os.fsencode(os.path.join(os.path.abspath(self.root), ""))
        if self.root:
            return keys_of(rows, lambda chunk: [file_key(above + path) for path in self.paths.raws(chunk)])
        # Those of a manifest may be absolute.
        return keys_of(rows, lambda chunk: [file_key(os.path.join(above, path)) for path in self.paths.raws(chunk)])


class Stacked:
    """Images in arrays, (N, ...) each, one array after the other."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, row: int) -> np.ndarray:
        """Its pixels."""
        number = int(np.searchsorted(self.ends, row, "right"))
        return self.arrays[number][row - int(self.ends[number])]  # counted from the array's end

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of the pixels."""
        return keys_of(rows, lambda chunk: [content_key(self.read(row)) for row in chunk.tolist()])


class Held:
    """Images of any kind, one by one."""

    def __init__(self, held: Sequence[ImageInput | Callable[[], ImageInput]]):
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def read(self, row: int) -> ImageInput:
        """As it is held."""
        held = self.held[row]
        return held() if callable(held) else held

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """As a file's, or of the content."""

        def key(row: int) -> bytes:
            image = self.read(row)
            if isinstance(image, str):
                return file_key(os.fsencode(os.path.abspath(image)))
            return content_key(image)

        return keys_of(rows, lambda chunk: [key(row) for row in chunk.tolist()])


class Joined:
    """The images of several places, those of the first, then those of the second, and so on."""

    def __init__(self, places: Sequence[Images]):
        self.places = places
        self.ends = np.cumsum([len(place) for place in places])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, row: int) -> ImageInput:
        """As its place holds it."""
        number = int(np.searchsorted(self.ends, row, "right"))
        return self.places[number].read(row - int(self.ends[number] - len(self.places[number])))

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """As its place has them."""
        rows = np.asarray(rows, np.int64)
        numbers = np.searchsorted(self.ends, rows, "right")
        keys = np.empty(len(rows), f"S{KEY_BYTES}")
        for number, place in enumerate(self.places):
            ours = numbers == number
            keys[ours] = place.keys(rows[ours] - int(self.ends[number] - len(place)))
        return keys


def join_places(places: Sequence[Images]) -> Images:
    """One place for the images of several."""
    if len(places) == 1:
        return places[0]
    arrays = [place for place in places if isinstance(place, Stacked)]
    if len(arrays) == len(places):
        return Stacked([array for place in arrays for array in place.arrays])
    return Joined(places)


class Shard(NamedTuple):
    """A file that holds many images, as it was when its index was made."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def at(cls, path: str) -> Shard:
        """The file as it is now."""
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns)


class Sharded:
    """What all places in larger files have in common: which file each image is in, and where."""

    def __init__(self, shards: Sequence[Shard], numbers: np.ndarray, offsets: np.ndarray):
        """numbers, offsets: (N,) which shard holds an image, and where in it, in bytes or rows."""
        self.shards = shards
        self.numbers = numbers
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.numbers)

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Digests of the shard's absolute path, size and time of its last change, and the place in it."""
        stamps = [
            os.fsencode(os.path.abspath(shard.path)) + f"\0{shard.size}\0{shard.mtime_ns}\0".encode()
            for shard in self.shards
        ]

        def keys(chunk: np.ndarray) -> list[bytes]:
            places = zip(self.numbers[chunk].tolist(), self.offsets[chunk].tolist(), strict=True)
            return [digest(stamps[number] + str(offset).encode()) for number, offset in places]

        return keys_of(rows, keys)

    def require_unchanged(self, shard: Shard, status: os.stat_result) -> None:
        """A BadImage, where the file is no longer what its index says."""
        if (status.st_size, status.st_mtime_ns) != shard[1:]:
            raise BadImage(f"cannot be read: {shard.path} has changed since it was opened; open it again")


class Members(Sharded):
    """Images that stand within larger files as they are."""

    def __init__(self, shards: Sequence[Shard], numbers: np.ndarray, offsets: np.ndarray, lengths: np.ndarray):
        """offsets, lengths: (N,) in bytes."""
        super().__init__(shards, numbers, offsets)
        self.lengths = lengths

    def read(self, row: int) -> bytes:
        """The bytes of its file."""
        return self.bytes_at(row, int(self.offsets[row]), int(self.lengths[row]))

    def bytes_at(self, row: int, offset: int, length: int) -> bytes:
        """Bytes of the shard that an image is in."""
        shard = self.shards[int(self.numbers[row])]
        try:
            # Opened each time: there is nothing then that threads and forks must share, or that must be closed.
            with open(shard.path, "rb", buffering=0) as file:
                self.require_unchanged(shard, os.fstat(file.fileno()))
                file.seek(offset)
                found = file.read(length)
        except OSError as error:
            raise BadImage(f"cannot be read ({shard.path}: {error.strerror or error})") from error
        if len(found) != length:
            raise BadImage(f"is cut short: {shard.path} ends at byte {offset + len(found):,}")
        return found


def keys_of(rows: np.ndarray, keys: Callable[[np.ndarray], list[bytes]]) -> np.ndarray:
    """The keys of these rows, (N,) 'S16', some thousand at a time by several threads, which wait for disks."""
    rows = np.asarray(rows, np.int64)
    chunks = (rows[start : start + KEYS_AT_ONCE] for start in range(0, len(rows), KEYS_AT_ONCE))
    with ThreadPoolExecutor(THREADS) as pool:
        return np.frombuffer(b"".join(pool.map(lambda chunk: b"".join(keys(chunk)), chunks)), f"S{KEY_BYTES}")


def file_key(path: bytes) -> bytes:
    """The key of a file: of its absolute path, its size and the time of its last change."""
    try:
        status = os.stat(path)
        return digest(path + f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
    except (OSError, ValueError):
        return digest(path + b"\0missing")


def content_key(image: ImageInput) -> bytes:
    """The key of an image in memory: of its bytes, or its pixels and their shape and type."""
    if isinstance(image, np.ndarray):
        head = f"{image.dtype.str}{image.shape}\0".encode()
        return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=KEY_BYTES, key=head[:64]).digest()
    return digest(image if isinstance(image, bytes) else os.fsencode(image))


def digest(content: bytes) -> bytes:
    """16 bytes that stand for the content."""
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
