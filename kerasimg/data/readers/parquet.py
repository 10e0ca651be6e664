"""Reader of Parquet files with the bytes of images (extra `parquet`).

The image is a column of bytes, or a struct with the field `bytes` as Hugging Face writes it (if that is null, its
`path` is a file). The label is a column of integers, text, or lists of them. Class names are those that Hugging Face
stores in the file, else the labels themselves.

Parquet is compressed by row groups, so an image is read with its whole group; the last groups are cached, up to 256 MB.
Reading in the order of the file costs nothing extra; in another order it costs more with larger groups.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasimg.data.image_files import BadImage
from kerasimg.data.items import ImageInput, ManyFaults, Reading, fault
from kerasimg.data.readers.arrow_columns import Columns, choose_columns, labels_of, require_pyarrow
from kerasimg.data.readers.image_store import Shard, Sharded
from kerasimg.data.readers.reader import Reader
from kerasimg.data.readers.shards import Table, column, numbers_of, shards_reading, tables_of
from kerasimg.errors import Fault
from kerasimg.spec.document import Task

MOST_BYTES = 256 * 1024**2
"""Memory for cached row groups; the last one is always cached."""


class RowGroups(Sharded):
    """Images in the rows of Parquet files."""

    def __init__(self, shards: Sequence[Shard], tables: Sequence[Table], image: str):
        numbers = numbers_of([len(table.columns["rows"]) for table in tables])
        super().__init__(shards, numbers, column(tables, "rows"))
        self.groups = column(tables, "groups")
        self.firsts = column(tables, "firsts")
        self.image = image
        self.read_last: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self.lock = threading.Lock()
        self.locks: dict[tuple[int, int], threading.Lock] = {}

    def read(self, row: int) -> ImageInput:
        """The bytes of a file, or a path."""
        number = int(self.numbers[row])
        found = self._group(number, int(self.groups[row]))[int(self.offsets[row] - self.firsts[row])].as_py()
        content = found.get("bytes") if isinstance(found, dict) else found
        if content is not None:
            return content
        path = found.get("path") if isinstance(found, dict) else None
        if not path:
            raise BadImage("is empty (null)")
        return os.path.join(os.path.dirname(self.shards[number].path), path)

    def _group(self, number: int, group: int) -> Any:
        key = number, group
        with self.lock:
            own = self.locks.setdefault(key, threading.Lock())
        with own:  # one thread reads a group, and the others wait for it
            with self.lock:
                if key in self.read_last:
                    self.read_last.move_to_end(key)
                    return self.read_last[key]
            found = self._read_group(self.shards[number], group)
            with self.lock:
                self.read_last[key] = found
                while len(self.read_last) > 1 and sum(one.nbytes for one in self.read_last.values()) > MOST_BYTES:
                    self.locks.pop(self.read_last.popitem(last=False)[0], None)
        return found

    def _read_group(self, shard: Shard, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self.require_unchanged(shard, os.stat(shard.path))
            with pq.ParquetFile(shard.path) as file:
                return file.read_row_group(group, columns=[self.image], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise BadImage(f"cannot be read ({shard.path}, group {group} of rows: {reason})") from error

    def __getstate__(self) -> dict[str, Any]:
        # Locks and cached groups are not pickled.
        return {name: value for name, value in vars(self).items() if name not in ("read_last", "lock", "locks")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, read_last=OrderedDict(), lock=threading.Lock(), locks={})


class Parquet(Reader):
    """Parquet files, which have the same columns."""

    name = "Parquet"
    takes = "`.parquet`: a column with the bytes of images, one with labels"
    extra = "parquet"
    extensions = (".parquet",)
    several = True

    def read(self, data: Sequence[str], task: Task, classes: Sequence[str] = ()) -> Reading:
        """Reads the labelled images of the files."""
        require_pyarrow()
        shards = [Shard.at(path) for path in data]
        columns = _columns(data[0])
        tables = tables_of(data, f"parquet 2 {columns}", lambda path: _scan(path, columns))
        return shards_reading(data, tables, RowGroups(shards, tables, columns.image), task, classes=columns.classes)


def _columns(path: str) -> Columns:
    file = _open(path)
    try:
        metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"]
    except (ValueError, KeyError, TypeError):
        features = {}
    return choose_columns(path, file.schema_arrow, features)


def _scan(path: str, columns: Columns) -> Table:
    import pyarrow as pa

    file = _open(path)
    absent = [name for name in columns[:2] if name not in file.schema_arrow.names]
    if absent:
        names = ", ".join(file.schema_arrow.names)
        raise ManyFaults(
            Fault(path, "", f"has no column '{name}', as the first file has; found {names}") for name in absent
        )
    try:
        found = file.read(columns=[columns.label], use_threads=False).column(0)
    except (OSError, pa.ArrowException) as error:
        raise fault(path, "", f"cannot be read as a Parquet file ({str(error).splitlines()[0]})") from error
    labels, faults = labels_of(found, columns.classes)
    if faults:
        raise ManyFaults(Fault(path, f"row {row}, column {columns.label}", message) for row, message in faults)
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    firsts = np.cumsum([0, *counts[:-1]]) if counts else np.empty(0, np.int64)
    return Table(
        labels,
        {
            "rows": np.arange(sum(counts), dtype=np.int64),
            "groups": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            "firsts": np.repeat(firsts.astype(np.int64), counts),
        },
    )


def _open(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise fault(path, "", f"cannot be read as a Parquet file ({str(error).splitlines()[0]})") from error
