"""Reader of WebDataset shards: tar files in which the files of an image share their name before the dot.

An image is `key.jpg` (or any image extension). Its label is in `key.cls` (a name or a number), `key.json` (label,
labels, cls or class) or `key.txt` (the class name), whichever exists first. The convention:
github.com/webdataset/webdataset. Nothing is unpacked: images are read from the tar file.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.image_files import EXTENSIONS
from kerasimg.data.index import Gathering
from kerasimg.data.items import ManyFaults, Reading, class_name, fault
from kerasimg.data.readers.image_store import Held, Members, Shard
from kerasimg.data.readers.packed_strings import Texts
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.shards import Table, column, numbers_of, shards_reading, tables_of
from kerasimg.errors import Fault, listed
from kerasimg.spec.document import Task

JSON_KEYS = ("label", "labels", "cls", "class")
LARGEST_LABEL = 1 << 20
"""Largest size of a label file, in bytes."""


class Member(NamedTuple):
    """A file in a tar file."""

    name: str
    offset: int
    length: int


class WebDataset(Reader):
    """WebDataset shards."""

    name = "WebDataset"
    takes = "`.tar`: `key.jpg` with its label beside it in `key.cls`, `key.json` or `key.txt`; not compressed"
    extensions = (".tar",)
    several = True

    def read(self, data: Sequence[str], task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images of the files."""
        shards = [Shard.at(path) for path in data]
        tables = tables_of(data, "tar 2", _scan)
        numbers = numbers_of([len(table.columns["offsets"]) for table in tables])
        images = Members(shards, numbers, column(tables, "offsets"), column(tables, "lengths"))
        return shards_reading(data, tables, images, task)


def of_cls(content: bytes) -> list[Any]:
    """The label in a .cls file."""
    return [content.decode()]


def of_json(content: bytes) -> list[Any]:
    """The labels in a .json file."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object with one of {listed(JSON_KEYS)}")
    name = next((name for name in JSON_KEYS if name in found), None)
    if name is None:
        raise ValueError(f"expected one of {listed(JSON_KEYS)}, found {listed(found) or 'nothing'}")
    return found[name] if isinstance(found[name], list) else [found[name]]


LABELS: dict[str, Callable[[bytes], list[Any]]] = {".cls": of_cls, ".json": of_json, ".txt": of_cls}
"""Extension -> function that reads the label; the first that exists is used."""


def _scan(path: str) -> Table:
    gathered = Gathering()
    offsets, lengths = array("q"), array("q")
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    with open(path, "rb") as file:
        for key, members in _samples(_members(path)):
            images = [member for extension, member in members.items() if _is_image(extension)]
            if not images:
                continue
            name = images[0].name
            try:
                if len(images) > 1:
                    raise ValueError(f"expected one image, found {listed(member.name for member in images)}")
                if key in seen:
                    raise ValueError("its files are not adjacent, or its name occurs twice")
                labels = _labels(file, members)
            except (ValueError, RecursionError) as error:
                faults.append(Fault(path, name, str(error)))
                continue
            seen[key] = len(seen)
            gathered.add(name, labels)
            offsets.append(images[0].offset)
            lengths.append(images[0].length)
    if faults:
        raise ManyFaults(faults)
    items = gathered.items(Held([]))
    columns = {"offsets": np.array(offsets, np.int64), "lengths": np.array(lengths, np.int64)}
    return Table(items.all_labels, columns, Texts.of(items.ids[row] for row in range(len(items))))


def _members(path: str) -> Iterator[Member]:
    """The files in a tar file, in order, except hidden ones."""
    size = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as archive:
            while (found := archive.next()) is not None:
                vars(archive)["members"] = []  # or it would store all of them
                if found.offset_data + found.size > size:
                    raise fault(path, found.name, f"is cut short: the file ends within it, at byte {size:,}")
                if found.isreg() and not found.issparse() and not posixpath.basename(found.name).startswith("."):
                    yield Member(found.name.replace("\0", ""), found.offset_data, found.size)
    except tarfile.TarError as error:
        raise fault(path, "", f"cannot be read as an uncompressed tar file ({error})") from error


def _samples(members: Iterator[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """The files of each image, by extension: adjacent files with the same name up to the first dot."""
    now = ""
    group: dict[str, Member] = {}
    for member in members:
        folder, name = posixpath.split(member.name)
        stem, dot, extension = name.partition(".")
        key = posixpath.join(folder, stem)
        if key != now:
            if group:
                yield now, group
            now, group = key, {}
        group[(dot + extension).lower()] = member
    if group:
        yield now, group


def _is_image(extension: str) -> bool:
    return posixpath.splitext(f"x{extension}")[1] in EXTENSIONS


def _labels(file: Any, members: dict[str, Member]) -> list[str]:
    extension = next((extension for extension in LABELS if extension in members), None)
    if extension is None:
        extensions = listed(sorted(members))
        raise ValueError(f"expected its label in a file {listed(LABELS)} beside it, found {extensions}")
    member = members[extension]
    if member.length > LARGEST_LABEL:
        raise ValueError(f"expected a label in {member.name}, found {member.length:,} bytes")
    file.seek(member.offset)
    try:
        values = LABELS[extension](file.read(member.length))
    except ValueError as error:
        raise ValueError(f"{member.name}: {error}") from error
    labels = []
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool) or not class_name(str(value)):
            raise ValueError(f"{member.name}: expected a label, got {value!r}")
        labels.append(class_name(str(value)))
    return labels  # with repeats: see `resolve_lists`
