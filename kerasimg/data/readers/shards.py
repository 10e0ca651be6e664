"""Files with many images each: their names, their parts, and a cached index of each file.

A format needs one function that reads a file and returns its `Table`: where the images are, and their labels. Files are
read in parallel, and each table is cached under the file's size and modification time, so that the next start reads
none of them.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasimg.cache_folder import cache_folder
from kerasimg.data.array_files import load_arrays, remove_oldest, save_arrays
from kerasimg.data.index import Ids, Items, Labels, Numbered, join_labels
from kerasimg.data.items import PART_NAMES, PARTS, ManyFaults, Part, Reading, fault
from kerasimg.data.parallel import cores
from kerasimg.data.readers.folder_index import SETTLED_NS
from kerasimg.data.readers.image_store import Images, Shard
from kerasimg.data.readers.label_lists import resolve_lists
from kerasimg.data.readers.packed_strings import Texts
from kerasimg.errors import CallError, Fault, listed
from kerasimg.spec.document import Task

SUFFIX = ".shard"
TABLES = 20_000
"""Number of files whose tables are cached."""
MOST = 100_000
"""Largest number of files of a pattern."""
PATTERN = re.compile(r"[*?\[{]")
PART = re.compile(rf"(?<![a-z0-9])({'|'.join(PARTS)})(?![a-z])", re.IGNORECASE)
"""The part in the name of a file: "train-0001.tar", "pets-val.tfrecord-00000-of-00002"."""


class Table(NamedTuple):
    """The images of one file: labels, further columns of the format, and names."""

    labels: Labels
    columns: dict[str, np.ndarray]
    """(number of images,) each."""
    names: Texts | None = None
    """None: they have only numbers."""


Read = Callable[[str], Table]
"""Reads the file at a path; a DataError lists its errors."""


def named_files(pattern: str) -> list[str]:
    """The files of a pattern, sorted by name: "shard-{000..009}.tar", "{train,test}-*.parquet".

    Files named by braces must all exist; *, ? and [] match existing files.
    """
    names = list(itertools.islice(_expand(pattern), MOST + 1))
    if len(names) > MOST:
        raise CallError(f"{pattern}: matches more than {MOST:,} files")
    found: list[str] = []
    missing = []
    for name in names:
        existing = sorted(glob.glob(name)) if glob.has_magic(name) else [name] * os.path.exists(name)
        if not existing:
            missing.append(Fault(pattern, "" if name == pattern else name, "no such file"))
        found += existing
    if missing:
        raise ManyFaults(missing)
    return list(dict.fromkeys(found))


def part_of(path: str) -> Part | None:
    """The part in the name of a file, if any."""
    found = PART.search(os.path.basename(path))
    return PARTS[found[1].lower()] if found else None


def tables_of(paths: Sequence[str], kind: str, read: Read) -> list[Table]:
    """The table of each file, from the cache if the file is unchanged; errors of all files at once.

    kind: identifies the reader and its settings in the cache.
    """
    faults: list[Fault] = []
    tables = []

    def read_table(path: str) -> Table | ManyFaults:
        try:
            return _table(path, kind, read)
        except ManyFaults as error:
            return error
        except OSError as error:
            return fault(path, "", f"cannot be read ({error.strerror or error})")

    with ThreadPoolExecutor(cores()) as pool:
        for found in pool.map(read_table, paths):
            if isinstance(found, ManyFaults):
                faults += found.faults
            else:
                tables.append(found)
    if faults:
        raise ManyFaults(faults)
    remove_oldest(cache_folder() / "index", f"*{SUFFIX}", TABLES)
    return tables


def shards_reading(
    paths: Sequence[str],
    tables: Sequence[Table],
    images: Images,
    task: Task,
    parts: Sequence[Part | None] | None = None,
    classes: Iterable[str] = (),
) -> Reading:
    """The images of several files as one `Reading`.  parts: of each file; None: from their names."""
    counts = [_count(table.labels) for table in tables]
    where = listed(paths, 3)
    if not sum(counts):
        raise fault(where, "", "holds no images")
    labels = require_labels(join_labels([table.labels for table in tables]), task, paths, counts)
    of_files = [part_of(path) for path in paths] if parts is None else parts
    codes = np.array([-1 if part is None else PART_NAMES.index(part) for part in of_files], np.int8)
    items = Items(_ids(paths, tables, counts), images, labels, np.repeat(codes, counts))
    return Reading(items, {*classes, *labels.names})


def require_labels(labels: Labels, task: Task, paths: Sequence[str], counts: Sequence[int]) -> Labels:
    """Resolves lists of labels; an error for every image without exactly one label, unless the task is multilabel."""
    try:
        labels = resolve_lists(labels, task)
    except ValueError as error:
        raise fault(listed(paths, 3), "", str(error)) from error
    if labels.starts is None or task == "multilabel":
        return labels
    numbers = np.diff(labels.starts)
    ends = np.cumsum(counts)
    faults = []
    for row in np.flatnonzero(numbers != 1).tolist():
        file = int(np.searchsorted(ends, row, "right"))
        place = f"image {row - int(ends[file]) + counts[file]}"
        many = "; several per image: --task multilabel"
        faults.append(Fault(paths[file], place, f"expected one label, got {numbers[row]}{many}"))
    if faults:
        raise ManyFaults(faults)
    return labels


def short_names(paths: Sequence[str]) -> list[str]:
    """The names of the files, with folders if that is needed to distinguish them."""
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(os.path.abspath(path), above).replace(os.sep, "/") for path in paths]


def numbers_of(counts: Sequence[int]) -> np.ndarray:
    """(sum of the counts,) int32: the file number of each image."""
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def column(tables: Sequence[Table], name: str) -> np.ndarray:
    """A column, concatenated over all files."""
    return np.concatenate([table.columns[name] for table in tables])


def _count(labels: Labels) -> int:
    return len(labels.codes) if labels.starts is None else len(labels.starts) - 1


def _ids(paths: Sequence[str], tables: Sequence[Table], counts: Sequence[int]) -> Ids:
    heads = short_names(paths)
    if any(table.names is None for table in tables):
        return Numbered(heads, np.cumsum(counts))
    blobs, ends, start = [], [], 0
    for head, table in zip(heads, tables, strict=True):
        names = table.names
        if names is None or not len(names):
            continue
        before = f"{head}/".encode()
        blobs.append(before + bytes(names.blob[: int(names.ends[-1])]).replace(b"\0", b"\0" + before))
        ends.append(names.ends + len(before) * np.arange(1, len(names) + 1) + start)
        start += len(blobs[-1]) + 1
    return Texts(b"\0".join(blobs), np.concatenate(ends))


def _expand(pattern: str) -> Iterator[str]:
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        yield pattern
        return
    first, last, names = found.groups()
    if names is None:
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices: Iterable[str] = (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
    else:
        choices = names.split(",")
    for choice in choices:
        yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])


def _table(path: str, kind: str, read: Read) -> Table:
    shard = Shard.at(path)
    place = os.path.abspath(path)
    whole_kind = f"{kind}; {shard.size} bytes, {shard.mtime_ns}, {shard.ctime_ns}, {os.fsencode(place).hex()}"
    name = hashlib.blake2b(f"{kind}\0".encode() + os.fsencode(place), digest_size=16).hexdigest()
    file = cache_folder() / "index" / f"{name}{SUFFIX}"
    if (table := _load_table(file, whole_kind)) is not None:
        return table
    began = time.time_ns()
    table = read(path)
    if began - shard.mtime_ns > SETTLED_NS:
        _save_table(file, whole_kind, table)
    return table


def _save_table(file: Path, kind: str, table: Table) -> None:
    labels, classes = table.labels, Texts.of(table.labels.names)
    arrays = {f"column {name}": array for name, array in table.columns.items()}
    arrays |= {"codes": labels.codes, "classes": np.frombuffer(classes.blob, np.uint8), "class_ends": classes.ends}
    if labels.starts is not None:
        arrays["starts"] = labels.starts
    if table.names is not None:
        arrays |= {"names": np.frombuffer(table.names.blob, np.uint8), "name_ends": table.names.ends}
    save_arrays(file, kind, arrays)


def _load_table(file: Path, kind: str) -> Table | None:
    arrays = load_arrays(file, kind)
    if arrays is None:
        return None
    labels = Labels(tuple(Texts(arrays["classes"], arrays["class_ends"])), arrays["codes"], arrays.get("starts"))
    names = Texts(arrays["names"], arrays["name_ends"]) if "names" in arrays else None
    columns = {name.removeprefix("column "): array for name, array in arrays.items() if name.startswith("column ")}
    return Table(labels, columns, names)
