"""`Source`: labelled images, as splits, loaders and checks use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from kerasimg.data.index import Items
from kerasimg.data.items import PART_NAMES, Bad, Item, ManyFaults, fault
from kerasimg.data.pixels import channels_fault
from kerasimg.data.readers.image_store import Joined, Stacked
from kerasimg.errors import Fault, counted, listed, nearest
from kerasimg.spec.document import Image, Task


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images and the classes that their labels are numbered by."""

    items: Sequence[Item]
    """The images; index i elsewhere means items[i]. Stored in columns, see `columns`."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs."""
    task: Task
    where: str
    """The folder or file as the user wrote it."""
    ignored: int = 0
    """Number of files that are not images, by their extension."""
    skipped: tuple[Bad, ...] = ()
    """Images that were left out because they cannot be read."""
    soft: bool = False
    """Whether images have soft labels, see `soft_labels.py`."""
    empty: tuple[str, ...] = ()
    """Class or part folders without images; they are left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", Items.of(self.items))

    @property
    def columns(self) -> Items:
        """The items as columns, for operations on all of them."""
        return cast(Items, self.items)

    @property
    def parts(self) -> np.ndarray:
        """The part of each image in the data: (N,) int8, indices into PART_NAMES, -1 for none."""
        return self.columns.parts

    def __len__(self) -> int:
        return len(self.items)

    def require_channels(self, image: Image) -> None:
        """DataError if arrays of images have other channels than the spec says; of files, each says so itself."""
        images = self.columns.images
        for place in images.places if isinstance(images, Joined) else [images]:
            for array in place.arrays if isinstance(place, Stacked) else ():
                bands = array.shape[-1] if array.ndim == 4 else 1
                if reason := channels_fault(bands, array.shape, image.channels):
                    raise fault(self.where, "", reason)

    def keys(self, indices: Iterable[int] | np.ndarray | None = None) -> np.ndarray:
        """Content keys of the given images or all, (N,) 'S16': 16 raw bytes each.

        A hash of a file's absolute path, size and modification time; for a member of a larger file, of these and its
        offset; for pixels, of the pixels. NumPy drops trailing zeros of a single key; see `ledger.hexadecimal`.
        """
        return self.columns.keys(None if indices is None else _indices(indices))

    def label_ids(self, indices: Iterable[int] | np.ndarray | None = None) -> np.ndarray:
        """Class numbers of the given images or all.

        (N,) int64; if the task is multilabel (N, number of classes) float32 of zeros and ones.
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
        """The task that fits the labels."""
        return "multilabel" if self.has_several else "binary" if len(self.classes) == 2 else "multiclass"

    @property
    def positive(self) -> str | None:
        """The positive class of a binary task, whose probability is the model's output."""
        return self.classes[1] if self.task == "binary" else None

    def label_counts(self) -> dict[str, int]:
        """Label -> number of images; labels without images are absent."""
        labels = self.columns.labels
        counts = labels.counts()
        return {labels.names[code]: int(counts[code]) for code in np.flatnonzero(counts)}

    def match(self, classes: Sequence[str]) -> Source:
        """The same images with labels numbered by the classes of a model, which must include all of them."""
        known = set(classes)
        unknown = {name: count for name, count in self.label_counts().items() if name not in known}
        if unknown:
            faults = [
                Fault(
                    self.where,
                    f"class '{name}'",
                    f"the model does not know it{nearest(name, known)} (images: {count})",
                )
                for name, count in sorted(unknown.items())
            ]
            advice = f"the model knows {listed(classes)}: rename these classes, or leave them out"
            raise ManyFaults([*faults, Fault("", "", advice)])
        return replace(self, classes=tuple(classes))

    def only(self, indices: Iterable[int] | np.ndarray) -> Source:
        """The source with these images only, renumbered in this order."""
        return replace(self, items=self.columns.take(_indices(indices)))

    def without(self, bad: Sequence[Bad]) -> Source:
        """The source without the unreadable images, which are added to `skipped`."""
        ids = {image.id for image in bad}
        columns = self.columns
        readable = np.fromiter((columns.id(index) not in ids for index in range(len(self))), bool, len(self))
        return replace(self, items=columns.take(np.flatnonzero(readable)), skipped=(*self.skipped, *bad))

    def describe(self) -> str:
        """One line: "2,500 images of 10 classes in pets (train 2,000, test 500)"."""
        codes, firsts, counts = np.unique(self.parts, return_index=True, return_counts=True)
        names = [PART_NAMES[code] if code >= 0 else "unassigned" for code in codes]
        split = ", ".join(f"{names[place]} {counts[place]:,}" for place in np.argsort(firsts))
        line = f"{counted(len(self.items), 'image')} of {counted(len(self.classes), 'class')} in {self.where}"
        if set(names) - {"unassigned"}:
            line += f" ({split})"
        if self.positive is not None:
            line += f"; the positive class is '{self.positive}'"
        elif self.task == "multilabel":
            line += "; task multilabel: an image may have several labels"
        if self.ignored:
            line += f"; {counted(self.ignored, 'other file')} ignored"
        if self.empty:
            line += f"; empty folders left out: {listed(self.empty, 5)}"
        if self.skipped:
            line += f"; {counted(len(self.skipped), 'unreadable image')} left out"
        return line


def _indices(indices: Iterable[int] | np.ndarray) -> np.ndarray:
    return np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
