"""Reader of TFRecord files of tf.train.Example.

The image is the bytes of a file in the feature image/encoded, image, encoded_image, jpeg or png, the label names or
integers in image/class/text, image/class/label, label, labels, class or class_name: in each case the first of these
that the first record has. The format: tensorflow.org/tutorials/load_data/tfrecord (each record is its length, the
masked CRC-32C of that, the record, its masked CRC-32C).

Opening a file reads the lengths and labels and skips the images. A record's CRC is checked when its image is read
for the first time. TensorFlow is not loaded, and nothing is run that a file holds. Messages are walked here, not parsed
by protobuf, which would read every image too: opening a file of 150 KB images from disk took two to four times as long.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np

from kerasimg.data.image_files import BadImage
from kerasimg.data.index import Labels
from kerasimg.data.items import ManyFaults, Part, Reading, class_name, fault
from kerasimg.data.readers.image_store import Members, Shard
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.shards import Table, column, numbers_of, shards_reading, tables_of
from kerasimg.errors import Fault, listed
from kerasimg.spec.document import Task

NAMED = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$", re.IGNORECASE)
"""File names, numbered or not."""
IMAGE = ("image/encoded", "image", "encoded_image", "jpeg", "png")
LABEL = ("image/class/text", "image/class/label", "label", "labels", "class", "class_name")
HEAD = struct.Struct("<QI")
"""The header of a record: its length, and the masked CRC of these eight bytes."""
FOOT = 4
"""Bytes of the masked CRC after a record."""
BYTES, FLOATS, INTEGERS = 1, 2, 3
"""Field numbers of the kinds of features."""


class Names(NamedTuple):
    """The features of the image and the label, and the class names."""

    image: Sequence[str] = IMAGE
    label: Sequence[str] = LABEL
    classes: tuple[str, ...] = ()
    """Empty: the numbers are the names."""


class Records(Members):
    """Images in records; a record's CRC is checked when it is first read."""

    def __init__(self, shards: Sequence[Shard], tables: Sequence[Table]):
        numbers = numbers_of([len(table.columns["offsets"]) for table in tables])
        super().__init__(shards, numbers, column(tables, "offsets"), column(tables, "lengths"))
        self.records = column(tables, "records")
        self.record_lengths = column(tables, "record_lengths")
        self.checked = np.zeros(len(numbers), bool)

    def read(self, row: int) -> bytes:
        """The bytes of the image; BadImage if the record is damaged."""
        if self.checked[row]:
            return super().read(row)
        start, length = int(self.records[row]), int(self.record_lengths[row])
        record = self.bytes_at(row, start, length + FOOT)
        if masked_crc(record[:length]) != int.from_bytes(record[length:], "little"):
            path = self.shards[int(self.numbers[row])].path
            raise BadImage(f"is damaged (the CRC of its record at byte {start:,} of {path} does not match)")
        self.checked[row] = True
        first = int(self.offsets[row]) - start
        return record[first : first + int(self.lengths[row])]


def read_tfrecords(
    paths: Sequence[str], task: Task, names: Names | None = None, parts: Sequence[Part | None] | None = None
) -> Reading:
    """The labelled images of TFRecord files."""
    names = names or Names()
    shards = [Shard.at(path) for path in paths]
    tables = tables_of(paths, f"tfrecord 2 {names}", lambda path: _scan(path, names))
    records = Records(shards, tables)
    return shards_reading(paths, tables, records, task, parts, names.classes)


class TFRecord(Reader):
    """TFRecord files of `tf.train.Example`."""

    name = "TFRecord"
    takes = "`.tfrecord`, `.tfrecord-00000-of-00010`: records of `tf.train.Example`, not compressed"
    extensions = (".tfrecord",)
    several = True

    def recognises_file(self, path: str) -> bool:
        """Whether its name ends in .tfrecord, .tfrecords, or such an ending with the number of the file."""
        return bool(NAMED.search(path))

    def read(self, data: Sequence[str], task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images of the files."""
        return read_tfrecords(data, task)


def _scan(path: str, names: Names) -> Table:
    if not os.path.getsize(path):
        raise fault(path, "", "is empty; expected records")
    columns = {name: array("q") for name in ("offsets", "lengths", "records", "record_lengths")}
    labels, codes, starts = {name: code for code, name in enumerate(names.classes)}, array("i"), array("q", [0])
    faults: list[Fault] = []
    image = label = ""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, (start, length) in enumerate(_records(path, content)):
            try:
                features = _features(content, start, start + length)
                if not image:
                    image, label = _choose(features, names)
                places = list(_values(content, features.get(image), BYTES))
                if len(places) != 1:
                    raise ValueError(f"expected one image in the feature '{image}', found {len(places)}")
                values = _labels(content, features.get(label), names.classes)
            except (ValueError, IndexError, UnicodeDecodeError) as error:
                faults.append(Fault(path, f"record {number}", f"{error}"))
                if not image:  # nor will the other records
                    break
                continue
            codes.extend(labels.setdefault(name, len(labels)) for name in values)
            starts.append(len(codes))
            begin, end = places[0]
            for name, value in zip(columns, (begin, end - begin, start, length), strict=True):
                columns[name].append(value)
    if faults:
        raise ManyFaults(faults)
    begins = np.array(starts, np.int64)
    single = bool((np.diff(begins) == 1).all())
    all_labels = Labels(tuple(labels), np.array(codes, np.int32), None if single else begins)
    return Table(all_labels, {name: np.array(values, np.int64) for name, values in columns.items()})


def _records(path: str, content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Start and length of each record."""
    at, number = 0, 0
    if content[:2] in (b"\x1f\x8b", b"x\x9c", b"x\x01"):
        raise fault(path, "", "is compressed, so single records cannot be read; write it without compression")
    while at < len(content):
        head = content[at : at + HEAD.size]
        length, check = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0)
        if len(head) < HEAD.size or masked_crc(head[:8]) != check:
            what = "is not a TFRecord file" if not number else f"is damaged or cut short at byte {at:,}"
            raise fault(path, f"record {number}", f"{what} (the CRC of the record's length does not match)")
        if at + HEAD.size + length + FOOT > len(content):
            raise fault(path, f"record {number}", f"is cut short: the file ends within it, at byte {len(content):,}")
        yield at + HEAD.size, length
        at += HEAD.size + length + FOOT
        number += 1


def masked_crc(data: bytes) -> int:
    """The CRC-32C of some bytes as TFRecord files store it: rotated by 15 bits, and a constant added."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


Span = tuple[int, int]


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message: number, wire type, start and end of the value, which is not read."""
    while at < end:
        tag, at = _varint(content, at)
        wire = tag & 7
        if wire == 2:
            length, at = _varint(content, at)
        elif wire == 0:
            length = _varint(content, at)[1] - at
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("is not a tf.train.Example")
        if at + length > end:
            raise ValueError("is not a tf.train.Example")
        yield tag >> 3, wire, at, at + length
        at += length


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("is not a tf.train.Example")


def _features(content: mmap.mmap, start: int, end: int) -> dict[str, Span]:
    """Name -> span of the feature. Example: features = 1; Features: feature = 1, a map of key = 1, value = 2."""
    values: dict[str, Span] = {}
    for number, wire, begin, stop in _fields(content, start, end):
        if (number, wire) != (1, 2):
            continue
        for _, _, entry, entry_end in _fields(content, begin, stop):
            key, value = "", (entry_end, entry_end)
            for part, _, first, last in _fields(content, entry, entry_end):
                if part == 1:
                    key = content[first:last].decode()
                elif part == 2:
                    value = first, last
            values[key] = value
    return values


def _values(content: mmap.mmap, feature: Span | None, kind: int) -> Iterator[Span]:
    """The spans of the values of a feature of this kind; lists are field 1 in each."""
    for number, _, start, end in _fields(content, *feature) if feature else ():
        if number == kind:
            yield from ((begin, stop) for _, _, begin, stop in _fields(content, start, end))


def _labels(content: mmap.mmap, feature: Span | None, classes: Sequence[str]) -> list[str]:
    values = [class_name(content[start:end].decode()) for start, end in _values(content, feature, BYTES)]
    for start, end in _values(content, feature, INTEGERS):
        at = start
        while at < end:  # packed or not
            value, at = _varint(content, at)
            value -= (value >> 63) << 64
            if classes and not 0 <= value < len(classes):
                raise ValueError(f"expected a label of 0 to {len(classes) - 1}, found {value}")
            values.append(classes[value] if classes else str(value))
    if "" in values:
        raise ValueError("expected a label, found ''")
    # Repeats stay, since they may be multi-hot: see `resolve_lists`.
    return list(dict.fromkeys(values)) if classes else values


def _choose(features: dict[str, Span], names: Names) -> tuple[str, str]:
    """The features of the image and of the label."""
    chosen = []
    for what, known in (("the image", names.image), ("the label", names.label)):
        name = next((name for name in known if name in features), None)
        if name is None:
            names_found = listed(sorted(features)) or "none"
            raise ValueError(f"expected {what} in a feature {listed(known)}; found the features {names_found}")
        chosen.append(name)
    return chosen[0], chosen[1]
