"""Where pictures and labels come from: a folder, a manifest, arrays, or the data set that ships."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.data.arrays import read_arrays, read_npz
from kerasimg.data.folders import read_folder
from kerasimg.data.items import Bad, Item, ManyFaults, Reading, fault, in_order
from kerasimg.data.manifests import read_manifest
from kerasimg.errors import CallError, Fault, listed, nearest
from kerasimg.spec.document import Task

SAMPLE = Path(__file__).parent / "sample"
"""The data set that ships: 2,500 pictures of Fashion-MNIST, 28 x 28, grey, ten classes."""

FILES = {
    ".csv": read_manifest,
    ".tsv": read_manifest,
    ".jsonl": read_manifest,
    ".ndjson": read_manifest,
    ".npz": read_npz,
}
"""Extension -> what reads such a file."""

Data = str | os.PathLike[str] | tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled pictures and the list of classes that their labels are numbered by."""

    items: tuple[Item, ...]
    """The pictures; what is said of picture i elsewhere is said of items[i]."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs."""
    task: Task
    where: str
    """The folder or file, as the user named it."""
    ignored: int = 0
    """Files that are no pictures, by their extension."""
    skipped: tuple[Bad, ...] = ()
    """Pictures that were left out because they cannot be read."""

    def __len__(self) -> int:
        return len(self.items)

    def label_ids(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """Labels as numbers of classes, for the given pictures or all.

        (N,) int64; where the task is multilabel (N, number of classes) float32 of zeros and ones.
        """
        numbers = {name: number for number, name in enumerate(self.classes)}
        chosen = self.items if indices is None else [self.items[index] for index in indices]
        if self.task != "multilabel":
            return np.array([numbers[item.labels[0]] for item in chosen], dtype=np.int64)
        hot = np.zeros((len(chosen), len(self.classes)), dtype=np.float32)
        for row, item in zip(hot, chosen, strict=True):
            row[[numbers[label] for label in item.labels]] = 1
        return hot

    def match(self, classes: Sequence[str]) -> Source:
        """The same pictures with labels numbered by the classes of a model, which must know them all."""
        known = set(classes)
        counts = Counter(label for item in self.items for label in item.labels if label not in known)
        if counts:
            raise ManyFaults(
                Fault(
                    self.where,
                    f"class '{name}'",
                    f"the model does not know it{nearest(name, known)} (pictures: {count})",
                )
                for name, count in sorted(counts.items())
            )
        return replace(self, classes=tuple(classes))

    def only(self, indices: Iterable[int]) -> Source:
        """The source with these pictures alone, numbered anew in their order."""
        return replace(self, items=tuple(self.items[index] for index in indices))

    def without(self, bad: Sequence[Bad]) -> Source:
        """The source less the pictures that cannot be read; they stand in `skipped`."""
        ids = {one.id for one in bad}
        kept = tuple(item for item in self.items if item.id not in ids)
        return replace(self, items=kept, skipped=(*self.skipped, *bad))

    def describe(self) -> str:
        """One line: "2,500 pictures of 10 classes in pets (train 2,000, test 500)"."""
        parts = Counter(item.part or "unassigned" for item in self.items)
        split = ", ".join(f"{part} {count:,}" for part, count in parts.items())
        line = f"{len(self.items):,} pictures of {len(self.classes)} classes in {self.where}"
        if set(parts) != {"unassigned"}:
            line += f" ({split})"
        if self.ignored:
            line += f"; {self.ignored:,} other files ignored"
        if self.skipped:
            line += f"; {len(self.skipped):,} unreadable pictures left out"
        return line


def open_source(data: Data, task: Task = "multiclass", classes: Sequence[str] | None = None) -> Source:
    """The labelled pictures of a folder, a manifest, an .npz file, (images, labels), or "sample".

    classes: those of a trained model, when the pictures are for it: labels are numbered by them, and a single
    class is then enough.
    """
    where, reading = _read(data, task)
    source = Source(tuple(reading.items), in_order(reading.classes), task, where, reading.ignored)
    if not source.items:
        raise fault(where, "", "holds no pictures")
    if classes is not None:
        return source.match(classes)
    fewest, most = {"multiclass": (2, None), "binary": (2, 2), "multilabel": (1, None)}[task]
    count = len(source.classes)
    if count < fewest or (most and count > most):
        expected = f"exactly {fewest}" if most else f"at least {fewest}"
        names = listed(source.classes)
        raise fault(where, "", f"expected {expected} classes (task '{task}'), found {count}: {names}")
    return source


def _read(data: Data, task: Task) -> tuple[str, Reading]:
    if isinstance(data, tuple | list) and len(data) == 2:
        return "arrays", read_arrays(data[0], data[1], task)
    if not isinstance(data, str | os.PathLike):
        raise CallError(f"expected a path, 'sample' or (images, labels) as data, got {type(data).__name__}")
    path = str(SAMPLE) if data == "sample" else os.fspath(data)
    where = "sample" if data == "sample" else path
    if os.path.isdir(path):
        reading = read_folder(path)
        # The licence and the note beside the sample are no news to anybody.
        return where, reading._replace(ignored=0) if data == "sample" else reading
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        near = nearest(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else ""
        raise fault(where, "", f"no such file or folder{near}")
    reader = FILES.get(os.path.splitext(path)[1].lower())
    if reader is None:
        raise fault(where, "", f"expected a folder or a file of one of {', '.join(FILES)}")
    return where, reader(path, task)
