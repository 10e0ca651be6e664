"""Reader of ZIP files with a folder per class; images are read from the file, nothing is unpacked.

Its folders are interpreted like folders on disk (`folders.py`). Members are stored or deflated; encrypted members,
archives within, and whatever exceeds the limits of `kerasimg.boundary` are refused.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kerasimg.boundary import limit
from kerasimg.data.image_files import EXTENSIONS, BadImage
from kerasimg.data.index import Items
from kerasimg.data.items import ManyFaults, Reading, fault
from kerasimg.data.readers.folder_index import LEFT_BEHIND, Listing
from kerasimg.data.readers.folders import read_tree
from kerasimg.data.readers.image_store import Shard, Sharded
from kerasimg.data.readers.reader import Reader
from kerasimg.errors import Fault, counted
from kerasimg.spec.document import Task

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
"""Extensions of archives, which are not read inside a ZIP file."""
ENCRYPTED = 0x1
LOCAL = struct.Struct("<4s22xHH")
"""The local header of a member: its signature, and the lengths of name and extra field."""


class ZipTree:
    """The folders in a ZIP file."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root = root
        files: dict[str, list[bytes]] = defaultdict(list)
        folders: dict[str, set[str]] = defaultdict(set)
        others: dict[str, int] = defaultdict(int)
        for name in names:
            *parents, file = name.split("/")
            if any(_is_hidden(part) for part in (*parents, file) if part):
                continue
            path = root
            for parent in parents:
                folders[path].add(parent)
                path = os.path.join(path, parent)
            if file and os.path.splitext(file)[1].lower() in EXTENSIONS:
                files[path].append(file.encode(errors="surrogateescape"))
            elif file:
                others[path] += 1
        self._listings = {
            path: Listing(b"\0".join(sorted(files[path])), len(files[path]), tuple(sorted(folders[path])), others[path])
            for path in {root, *files, *folders, *others}
        }
        self._numbers = {path: number for number, path in enumerate(self._listings)}

    def identity(self, path: str) -> tuple[int, int]:
        """The identity of a folder."""
        return 0, self._numbers.setdefault(path, len(self._numbers))

    def listing(self, path: str) -> Listing:
        """The content of a folder, without subfolders."""
        return self._listings.get(path, Listing(b"", 0, (), 0))


class ZipMembers(Sharded):
    """Images in a ZIP file."""

    def __init__(self, shard: Shard, members: Sequence[zipfile.ZipInfo]) -> None:
        offsets = np.array([member.header_offset for member in members], np.int64)
        super().__init__([shard], np.zeros(len(members), np.int64), offsets)
        self.lengths = np.array([member.compress_size for member in members], np.int64)
        self.sizes = np.array([member.file_size for member in members], np.int64)
        self.sums = np.array([member.CRC for member in members], np.uint32)
        self.deflated = np.array([member.compress_type == zipfile.ZIP_DEFLATED for member in members])

    def read(self, row: int) -> bytes:
        """The bytes of the image; BadImage if they differ from the directory of the archive."""
        shard, size = self.shards[0], int(self.sizes[row])
        try:
            # Opened each time: no handle is shared by threads and forks, and none must be closed.
            with open(shard.path, "rb", buffering=0) as file:
                self.require_unchanged(shard, os.fstat(file.fileno()))
                file.seek(int(self.offsets[row]))
                signature, name, extra = LOCAL.unpack(file.read(LOCAL.size))
                if signature != b"PK\x03\x04":
                    raise BadImage("is damaged: the ZIP file has no member where its directory says")
                file.seek(name + extra, os.SEEK_CUR)
                content = file.read(int(self.lengths[row]))
        except (OSError, struct.error) as error:
            raise BadImage(f"cannot be read ({shard.path}: {error})") from error
        if self.deflated[row]:
            try:
                content = zlib.decompressobj(-15).decompress(content, size + 1)
            except zlib.error as error:
                raise BadImage(f"is damaged within the ZIP file ({error})") from error
        if len(content) != size or zlib.crc32(content) != self.sums[row]:
            raise BadImage("is damaged within the ZIP file (its length or CRC-32 differs from the directory)")
        return content


class Zip(Reader):
    """A ZIP file that holds a folder per class."""

    name = "a ZIP file"
    takes = (
        "the same folders, read in place: stored or deflated members, not encrypted, no archives within; bounds in "
        "[Limits](limits.md)"
    )
    extensions = (".zip",)

    def read(self, data: str, task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images; a DataError also for a file that is damaged, encrypted, or beyond the limits."""
        shard = Shard.at(data)
        members = _members(data)
        reading = read_tree(data, ZipTree(data, list(members)), classes)
        items = Items.of(reading.items)
        ids = items.ids
        ordered = [members[ids[row]] for row in range(len(items.all_parts))]
        return reading._replace(items=replace(items, images=ZipMembers(shard, ordered)))


def _members(path: str) -> dict[str, zipfile.ZipInfo]:
    """The members by name; checks the limits and the size of the file."""
    try:
        size = os.path.getsize(path)
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise fault(path, "", f"cannot be read as a ZIP file ({error})") from error
    if len(infos) > limit("zip_members"):
        raise fault(path, "", f"has {counted(len(infos), 'member')}; at most {limit('zip_members'):,} are read")
    faults: list[Fault] = []
    members: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if reason := _fault(info, end, size):
            faults.append(Fault(path, info.filename, reason))
        elif info.filename in members:
            faults.append(Fault(path, info.filename, "occurs twice"))
        members[info.filename] = info
        end = info.header_offset + LOCAL.size + info.compress_size
    if faults:
        raise ManyFaults(faults)
    return members


def _fault(info: zipfile.ZipInfo, end: int, size: int) -> str | None:
    """What is wrong with a member; `end` is the end of those before it, `size` that of the file, in bytes."""
    if info.flag_bits & ENCRYPTED:
        return "is encrypted; unpack the file with its password, and pass the folder"
    if info.filename.startswith("/") or ".." in info.filename.split("/") or "\0" in info.filename:
        return "is a path outside of the archive"
    if info.is_dir():
        return None
    if info.filename.lower().endswith(ARCHIVES) and not _is_hidden(info.filename.split("/")[0]):
        return "is an archive itself; unpack it, and pass the folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"has compression {info.compress_type}, which is not read; use stored or deflated"
    if info.header_offset < end or info.header_offset + info.compress_size > size:
        return "overlaps another member, or the end of the file"
    if info.file_size > limit("zip_member_bytes"):
        return f"has {info.file_size:,} bytes; at most {limit('zip_member_bytes'):,} are read"
    if info.file_size > limit("zip_ratio") * max(info.compress_size, 64):
        return (
            f"declares {info.file_size:,} bytes in {info.compress_size:,}; at most {limit('zip_ratio'):,} to 1 are read"
        )
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND
