"""Where images and labels come from: folders, manifests, arrays, larger files, libraries, the data set that ships."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from kerasimg.data.images import require_local
from kerasimg.data.index import Items
from kerasimg.data.items import PART_NAMES, Bad, Item, ManyFaults, Reading, fault, in_order
from kerasimg.data.readers import huggingface, parquet, tars, tfds, tfrecords
from kerasimg.data.readers.arrays import parts_in, read_npz, read_parts
from kerasimg.data.readers.folders import read_folder
from kerasimg.data.readers.manifests import read_manifest
from kerasimg.data.readers.shards import PATTERN, named_files
from kerasimg.data.readers.zips import read_zip
from kerasimg.errors import CallError, DataError, Fault, listed, nearest
from kerasimg.spec.document import Task

SAMPLE = Path(__file__).parent / "sample"
"""The data set that ships: 2,500 images of Fashion-MNIST, 28 x 28, grey, ten classes."""

FILES = {
    ".csv": read_manifest,
    ".tsv": read_manifest,
    ".jsonl": read_manifest,
    ".ndjson": read_manifest,
    ".npz": read_npz,
}
"""Extension -> what reads such a file."""

SHARDS: dict[re.Pattern[str], Callable[[Sequence[str], Task], Reading]] = {
    tfrecords.NAMED: tfrecords.read_tfrecords,
    tars.NAMED: tars.read_tars,
    parquet.NAMED: parquet.read_parquet,
}
"""How files with many images are named -> what reads any number of such."""

FOLDERS: dict[Callable[[str], bool], Callable[[str, Task], Reading]] = {
    huggingface.is_saved: huggingface.read_saved,
    tfds.is_prepared: tfds.read_prepared,
}
"""What tells the folder of a library -> what reads it."""

IN_MEMORY = ("arrays", "dataset")
"""`where` of sources that cannot be opened again by it."""

Data = str | os.PathLike[str] | tuple[Any, Any] | Any
"""A path, a pattern of paths, "sample", "tfds:NAME", (images, labels), ((x, y), (x_test, y_test)), a dictionary of
parts, a `tf.data.Dataset`, or a Hugging Face dataset."""

EXPECTED = (
    "a path, 'sample', (images, labels), ((x, y), (x_test, y_test)), {'train': ..., 'test': ...}, a "
    "tf.data.Dataset or a Hugging Face dataset"
)


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images and the list of classes that their labels are numbered by."""

    items: Sequence[Item]
    """The images; what is said of image i elsewhere is said of items[i]. Kept in columns, see `columns`."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs."""
    task: Task
    where: str
    """The folder or file, as the user named it."""
    ignored: int = 0
    """Files that are no images, by their extension."""
    skipped: tuple[Bad, ...] = ()
    """Images that were left out because they cannot be read."""
    soft: bool = False
    """Whether images have shares of classes to learn from, see `soft_labels.py`."""
    empty: tuple[str, ...] = ()
    """Folders that would be classes or parts, and hold no images; they are left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", Items.of(self.items))

    @property
    def columns(self) -> Items:
        """The items, as what they are: columns, for what is asked of all of them at once."""
        return cast(Items, self.items)

    @property
    def parts(self) -> np.ndarray:
        """The part that the data puts each image in: (N,) int8, places in PART_NAMES, -1 where in none."""
        return self.columns.parts

    def __len__(self) -> int:
        return len(self.items)

    def keys(self, indices: Iterable[int] | np.ndarray | None = None) -> np.ndarray:
        """Content keys of the given images or all, (N,) 'S16': 16 raw bytes each.

        Of a file's absolute path, size and time of last change; of a member of a larger file, these and its offset;
        of pixels, themselves. A single key loses the zeros at its end in NumPy; see `ledger.hexadecimal`.
        """
        return self.columns.keys(None if indices is None else _indices(indices))

    def label_ids(self, indices: Iterable[int] | np.ndarray | None = None) -> np.ndarray:
        """Labels as numbers of classes, for the given images or all.

        (N,) int64; where the task is multilabel (N, number of classes) float32 of zeros and ones.
        """
        labels = (self.columns if indices is None else self.columns.take(_indices(indices))).labels
        if self.task != "multilabel":
            numbers = labels.renamed(self.classes)
            return numbers if labels.starts is None else numbers[labels.starts[:-1]]
        count = len(labels.codes) if labels.starts is None else len(labels.starts) - 1
        hot = np.zeros((count, len(self.classes)), dtype=np.float32)
        hot[labels.owners(), labels.renamed(self.classes)] = 1
        return hot

    @property
    def has_several(self) -> bool:
        """Whether an image has several labels, or none."""
        starts = self.columns.labels.starts
        return starts is not None and bool((np.diff(starts) != 1).any())

    @property
    def suggested_task(self) -> Task:
        """The task that the labels are for, whatever they are read as."""
        return "multilabel" if self.has_several else "binary" if len(self.classes) == 2 else "multiclass"

    @property
    def positive(self) -> str | None:
        """The positive class, where the task is binary: the one that the model's output is the probability of."""
        return self.classes[1] if self.task == "binary" else None

    def label_counts(self) -> dict[str, int]:
        """How many images have each label; labels that none has are absent."""
        labels = self.columns.labels
        counts = labels.counts()
        return {labels.names[code]: int(counts[code]) for code in np.flatnonzero(counts)}

    def match(self, classes: Sequence[str]) -> Source:
        """The same images with labels numbered by the classes of a model, which must know them all."""
        known = set(classes)
        unknown = {name: count for name, count in self.label_counts().items() if name not in known}
        if unknown:
            raise ManyFaults(
                Fault(
                    self.where,
                    f"class '{name}'",
                    f"the model does not know it{nearest(name, known)} (images: {count})",
                )
                for name, count in sorted(unknown.items())
            )
        return replace(self, classes=tuple(classes))

    def only(self, indices: Iterable[int] | np.ndarray) -> Source:
        """The source with these images alone, numbered anew in their order."""
        return replace(self, items=self.columns.take(_indices(indices)))

    def without(self, bad: Sequence[Bad]) -> Source:
        """The source less the images that cannot be read; they stand in `skipped`."""
        ids = {one.id for one in bad}
        columns = self.columns
        kept = np.fromiter((columns.id(index) not in ids for index in range(len(self))), bool, len(self))
        return replace(self, items=columns.take(np.flatnonzero(kept)), skipped=(*self.skipped, *bad))

    def describe(self) -> str:
        """One line: "2,500 images of 10 classes in pets (train 2,000, test 500)"."""
        codes, firsts, counts = np.unique(self.parts, return_index=True, return_counts=True)
        names = [PART_NAMES[code] if code >= 0 else "unassigned" for code in codes]
        split = ", ".join(f"{names[place]} {counts[place]:,}" for place in np.argsort(firsts))
        line = f"{len(self.items):,} images of {len(self.classes)} classes in {self.where}"
        if set(names) - {"unassigned"}:
            line += f" ({split})"
        if self.positive is not None:
            line += f"; the positive class is '{self.positive}'"
        if self.ignored:
            line += f"; {self.ignored:,} other file{'s' * (self.ignored > 1)} ignored"
        if self.empty:
            line += f"; empty folders left out: {listed(self.empty, 5)}"
        if self.skipped:
            line += f"; {len(self.skipped):,} unreadable images left out"
        return line


def _indices(indices: Iterable[int] | np.ndarray) -> np.ndarray:
    return np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)


def open_source(
    data: Data, task: Task = "multiclass", classes: Sequence[str] | None = None, positive: str | None = None
) -> Source:
    """The labelled images of a folder, a file, (images, labels), a Hugging Face dataset, or "sample".

    data: a path; a pattern of paths, "shard-{000..009}.tar"; "tfds:NAME"; see docs/data.md.
    classes: those of a trained model, when the images are for it: labels are numbered by them, and a single
    class is then enough.
    positive: the positive class of the task binary; None: the second by name.
    """
    where, reading = _read(data, task, classes or ())
    ordered = in_order(reading.classes)
    source = Source(reading.items, ordered, task, where, reading.ignored, soft=reading.soft, empty=reading.empty)
    if not source.items:
        raise fault(where, "", "holds no images")
    if classes is not None:
        return source.match(classes)
    fewest, most = {"multiclass": (2, None), "binary": (2, 2), "multilabel": (1, None)}[task]
    count = len(source.classes)
    if count < fewest or (most and count > most):
        expected = f"exactly {fewest}" if most else f"at least {fewest}"
        names = listed(source.classes)
        raise fault(where, "", f"expected {expected} classes (task '{task}'), found {count}: {names}")
    if positive is None:
        return source
    if positive not in source.classes:
        names = listed(source.classes)
        raise fault(where, "", f"the spec's positive_class '{positive}' is not a class of the data (classes: {names})")
    return source.match([*(name for name in source.classes if name != positive), positive])


def task_of(data: Data) -> Task:
    """The task that the labels are for, by whether images have several, and how many classes there are."""
    try:
        source = open_source(data, "multiclass")
    except DataError as error:
        try:
            several = open_source(data, "multilabel")
        except DataError:
            raise error from None
        if several.has_several:
            return several.suggested_task
        raise
    return source.suggested_task


def _read(data: Data, task: Task, known: Sequence[str]) -> tuple[str, Reading]:
    if huggingface.is_dataset(data):
        return "dataset", huggingface.read_dataset(data, task)
    if not isinstance(data, str | os.PathLike):
        if (parts := parts_in(data)) is None:
            raise CallError(f"data: expected {EXPECTED}, got {type(data).__name__}")
        return "arrays", read_parts(parts, task)
    where = os.fspath(data)
    require_local(where)
    if not where:
        raise CallError("data: expected a folder or a file, got ''")
    if where == "sample":
        # The licence and the note beside the sample are no news to anybody.
        return where, read_folder(str(SAMPLE))._replace(ignored=0)
    if where.startswith(tfds.PREFIX):
        return where, tfds.read_named(where, task)
    if os.path.isdir(where):
        return where, _read_folder(where, task, known)
    if not os.path.exists(where):
        return where, _read_pattern(where, task)
    if where.lower().endswith(".zip"):
        return where, read_zip(where, known)
    return where, _read_files(where, [where], task)


def _read_folder(path: str, task: Task, known: Sequence[str]) -> Reading:
    for is_one, read in FOLDERS.items():
        if is_one(path):
            return read(path, task)
    there = []
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # `read_folder` says what is wrong with it
        there = [entry.name for entry in entries if not entry.name.startswith(".")]
    shards = sorted(os.path.join(path, name) for name in there if _shard_reader(name))
    # Archives beside class folders are what the images were unpacked from.
    if shards and not any(os.path.isdir(os.path.join(path, name)) for name in there):
        return _read_files(path, shards, task)
    return read_folder(path, known)


def _read_pattern(pattern: str, task: Task) -> Reading:
    if PATTERN.search(pattern):
        return _read_files(pattern, named_files(pattern), task)
    folder = os.path.dirname(pattern) or "."
    near = nearest(os.path.basename(pattern), os.listdir(folder)) if os.path.isdir(folder) else ""
    raise fault(pattern, "", f"no such file or folder{near}")


def _read_files(where: str, paths: Sequence[str], task: Task) -> Reading:
    reader = FILES.get(os.path.splitext(paths[0])[1].lower()) if len(paths) == 1 else None
    if reader:
        return reader(paths[0], task)
    readers = {_shard_reader(path): path for path in paths}
    if len(readers) > 1:
        raise fault(where, "", f"expected files of one kind, found {listed(readers.values())}")
    found = next(iter(readers))
    if found is None:
        known = ", ".join((*FILES, ".zip", ".tfrecord", ".tar", ".parquet"))
        raise fault(where, "", f"expected a folder or a file of one of {known}")
    return found(paths, task)


def _shard_reader(path: str) -> Callable[[Sequence[str], Task], Reading] | None:
    return next((read for named, read in SHARDS.items() if named.search(path)), None)
