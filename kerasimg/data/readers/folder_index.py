"""The index of a tree of folders: listed by several threads, and cached for the next start.

The listings of a tree are stored in one file in the cache folder. The next start compares the modification time of
every folder and lists changed folders again. A folder that was modified within seconds before it was listed could
change again with the same time, so it is always listed again; so is a folder with links that are not named like images,
because their targets can change elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kerasimg.cache_folder import cache_folder
from kerasimg.data.array_files import load_arrays, remove_oldest, save_arrays
from kerasimg.data.image_files import EXTENSIONS
from kerasimg.data.items import fault
from kerasimg.data.readers.packed_strings import Growing, Texts
from kerasimg.errors import DataError

LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Files and folders of operating systems, in lower case; ignored like hidden files."""
THREADS = 16
"""Threads that list folders: they wait for the disk or the network."""
SETTLED_NS = 3_000_000_000
"""Age of a modification time from which a later change gets another time; file systems have up to 2 s resolution."""
TREES = 64
"""Number of trees whose listings are cached."""
KIND = "listings of {}"
SUFFIX = ".folders"
_SIGNED = (1 << 63) - 1


class Listing(NamedTuple):
    """The content of a folder, without subfolders."""

    images: bytes
    """Names of the images in order, separated by zero bytes."""
    number: int
    """Number of images."""
    folders: tuple[str, ...]
    """Names of the folders, in order."""
    others: int
    """Number of other files."""

    def names(self) -> list[str]:
        """Names of the images, in order."""
        return [os.fsdecode(name) for name in self.images.split(b"\0")] if self.number else []


class Tree(Protocol):
    """Folders that can be listed."""

    def identity(self, path: str) -> tuple[int, int]:
        """The identity of a folder, the same for every path to it."""

    def listing(self, path: str) -> Listing:
        """The content of a folder, without subfolders."""


class Stamp(NamedTuple):
    """The identity of a folder (device, inode) and its modification times."""

    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def at(cls, path: str) -> Stamp:
        """The current stamp of a folder."""
        status = os.stat(path)
        device, inode = status.st_dev & _SIGNED, status.st_ino & _SIGNED
        return cls(device, inode, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def folder(self) -> tuple[int, int]:
        """The identity of the folder."""
        return self[:2]


UNSETTLED = Stamp(0, 0, 0, 0)


class Folders:
    """The folders of a tree, each listed once."""

    def __init__(self, root: str):
        self.root = root
        self.path = cache_folder() / "index" / _name_of(root)
        self.stamps: dict[str, Stamp | DataError] = {}
        self.listings: dict[tuple[int, int], tuple[Stamp, Listing]] = {}
        self.known = _read(self.path, root)
        self.is_new = False

    def __enter__(self) -> Folders:
        """List the whole tree level by level, with several threads."""
        level = [self.root]
        seen: set[tuple[int, int]] = set()
        with ThreadPoolExecutor(THREADS) as pool:
            while level:
                following = []
                for path, stamp in zip(level, pool.map(self._visit, level), strict=True):
                    if isinstance(stamp, Stamp) and stamp.folder not in seen:  # links may form a cycle
                        seen.add(stamp.folder)
                        names = self.listings[stamp.folder][1].folders
                        following += [os.path.join(path, name) for name in names]
                level = following
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_new:
            _write(self.path, self.root, self.listings.values())

    def identity(self, path: str) -> tuple[int, int]:
        """The identity of a folder, the same for every path to it; DataError if it cannot be read."""
        stamp = self.stamps.get(path) or self._visit(path)
        if isinstance(stamp, DataError):
            raise stamp
        return stamp.folder

    def listing(self, path: str) -> Listing:
        """The content of a folder; DataError if it cannot be read."""
        return self.listings[self.identity(path)][1]

    def _visit(self, path: str) -> Stamp | DataError:
        try:
            stamp = Stamp.at(path)
            if stamp.folder not in self.listings:
                self._list(path, stamp)
            self.stamps[path] = stamp
        except OSError as error:
            self.stamps[path] = fault(path, "", f"cannot be read ({error.strerror or error})")
        return self.stamps[path]

    def _list(self, path: str, stamp: Stamp) -> None:
        if (listing := self.known.get(stamp)) is not None:
            self.listings[stamp.folder] = stamp, listing
            return
        began = time.time_ns()
        listing, has_links = list_folder(path)
        is_settled = began - max(stamp.mtime_ns, stamp.ctime_ns) > SETTLED_NS and not has_links
        self.listings[stamp.folder] = stamp if is_settled else UNSETTLED, listing
        self.is_new |= is_settled


def list_folder(path: str) -> tuple[Listing, bool]:
    """The content of a folder, and whether it has links that are not named like images."""
    images, folders, others, has_links = [], [], 0, False
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name.lower() in LEFT_BEHIND:
                continue
            is_image = os.path.splitext(name)[1].lower() in EXTENSIONS
            if _is_folder(entry):
                folders.append(name)
            elif is_image:
                images.append(name)
                continue
            else:
                others += 1
            has_links = has_links or entry.is_symlink()
    names = b"\0".join(os.fsencode(name) for name in sorted(images))
    return Listing(names, len(images), tuple(sorted(folders)), others), has_links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _name_of(root: str) -> str:
    return hashlib.blake2b(os.fsencode(os.path.abspath(root)), digest_size=16).hexdigest() + SUFFIX


def _kind(root: str) -> str:
    return KIND.format(os.fsencode(os.path.abspath(root)).hex())


def _read(path: Path, root: str) -> dict[Stamp, Listing]:
    arrays = load_arrays(path, _kind(root))
    if arrays is None:
        return {}
    images = Texts(arrays["images"], arrays["image_ends"])
    folders = Texts(arrays["folders"], arrays["folder_ends"])
    known = {}
    rows = zip(arrays["stamps"].tolist(), arrays["counts"].tolist(), arrays["others"].tolist(), strict=True)
    for row, (stamp, count, others) in enumerate(rows):
        names = tuple(os.fsdecode(name) for name in folders.raw(row).split(b"\0") if name)
        known[Stamp(*stamp)] = Listing(images.raw(row), count, names, others)
    return known


def _write(path: Path, root: str, listings: Iterable[tuple[Stamp, Listing]]) -> None:
    settled: Sequence[tuple[Stamp, Listing]] = [row for row in listings if row[0] != UNSETTLED]
    images, folders = Growing(), Growing()
    counts, others = array("q"), array("q")
    for _, listing in settled:
        images.add_raw(listing.images)
        folders.add_raw(b"\0".join(map(os.fsencode, listing.folders)))
        counts.append(listing.number)
        others.append(listing.others)
    save_arrays(
        path,
        _kind(root),
        {
            "stamps": np.array([stamp for stamp, _ in settled], np.int64).reshape(-1, 4),
            "counts": np.array(counts, np.int64),
            "others": np.array(others, np.int64),
            "images": np.frombuffer(images.blob, np.uint8),
            "image_ends": np.array(images.ends, np.int64),
            "folders": np.frombuffer(folders.blob, np.uint8),
            "folder_ends": np.array(folders.ends, np.int64),
        },
    )
    remove_oldest(path.parent, f"*{SUFFIX}", TREES)
