"""Millions of labelled images in columns; an `Item` is made when an image is accessed.

An image of a folder takes the bytes of its path and 14 more: the end of the path, the number of the label, the part.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, overload

import numpy as np

from kerasimg.data.items import PART_NAMES, ImageInput, Item, Part
from kerasimg.data.readers.image_store import Held, Images
from kerasimg.data.readers.packed_strings import Extras, Growing, Texts


class Ids(Protocol):
    """Gives the id of an image by its row."""

    def __getitem__(self, index: int) -> str:
        """The id."""


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """The labels of many images, as numbers of names."""

    names: tuple[str, ...]
    """The name of each number; not all of them need to occur."""
    codes: np.ndarray
    """(number of labels,) int32: of all images, concatenated."""
    starts: np.ndarray | None = None
    """(N + 1,) int64: where the labels of each image start; None if each has exactly one."""

    def of(self, row: int) -> tuple[str, ...]:
        """The labels of one image."""
        if self.starts is None:
            return (self.names[self.codes[row]],)
        return tuple(self.names[code] for code in self.codes[self.starts[row] : self.starts[row + 1]])

    def take(self, rows: np.ndarray) -> Labels:
        """The labels of these images."""
        if self.starts is None:
            return replace(self, codes=self.codes[rows])
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.starts[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        return replace(self, codes=self.codes[places], starts=starts)

    def owners(self) -> np.ndarray:
        """(number of labels,) int64: the image of each label."""
        if self.starts is None:
            return np.arange(len(self.codes))
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def counts(self) -> np.ndarray:
        """(number of names,) int64: images with each label."""
        return np.bincount(self.codes, minlength=len(self.names))

    def renamed(self, names: Sequence[str]) -> np.ndarray:
        """The codes of the labels in another list of names; KeyError if a name is missing there."""
        numbers = {name: number for number, name in enumerate(names)}
        table = np.array([numbers.get(name, -1) for name in self.names], np.int64)
        codes = table[self.codes]
        if len(codes) and codes.min() < 0:
            raise KeyError(self.names[self.codes[codes.argmin()]])
        return codes


class Numbered:
    """Ids of images that have a number within an array or a file: "train[17]"."""

    def __init__(self, names: Sequence[str], ends: np.ndarray):
        """ends: the cumulative number of images of the names."""
        self.names = names
        self.ends = ends

    def __getitem__(self, index: int) -> str:
        number = int(np.searchsorted(self.ends, index, "right"))
        return f"{self.names[number]}[{index - int(self.ends[number - 1] if number else 0)}]"


def join_labels(labels: Sequence[Labels]) -> Labels:
    """Concatenate labels; equal names are merged."""
    numbers: dict[str, int] = {}
    tables = [np.array([numbers.setdefault(name, len(numbers)) for name in part.names], np.int32) for part in labels]
    codes = np.concatenate([table[part.codes] for table, part in zip(tables, labels, strict=True)])
    if all(part.starts is None for part in labels):
        return Labels(tuple(numbers), codes)
    counts = [np.ones(len(part.codes), np.int64) if part.starts is None else np.diff(part.starts) for part in labels]
    return Labels(tuple(numbers), codes, np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class Items(Sequence[Item]):
    """Labelled images in columns: those at `rows`, in that order, or all."""

    ids: Ids
    images: Images
    all_labels: Labels
    all_parts: np.ndarray
    """int8: indices into PART_NAMES, -1 for none."""
    extras: Extras | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, items: Iterable[Item]) -> Items:
        """The columns of any items."""
        if isinstance(items, Items):
            return items
        gathered, held = Gathering(), []
        for item in items:
            gathered.add(item.id, item.labels, item.part, item.extras)
            held.append(item.held)
        return gathered.items(Held(held))

    def __len__(self) -> int:
        return len(self.all_parts if self.rows is None else self.rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Items: ...

    def __getitem__(self, index: int | slice) -> Item | Items:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        row = self._row(index)
        part = int(self.all_parts[row])
        extras = {} if self.extras is None else self.extras[row]
        held = partial(self.images.read, row)
        return Item(self.ids[row], held, self.all_labels.of(row), PART_NAMES[part] if part >= 0 else None, extras)

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: Iterable[int] | np.ndarray) -> Items:
        """These items, in this order."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        count = len(self)
        if len(chosen) and not -count <= chosen.min() <= chosen.max() < count:
            raise IndexError(f"no item {chosen.max() if chosen.max() >= count else chosen.min()} among {count}")
        chosen = np.where(chosen < 0, chosen + count, chosen)
        return replace(self, rows=chosen if self.rows is None else self.rows[chosen])

    def id(self, index: int) -> str:
        """The id of an item."""
        return self.ids[self._row(index)]

    def encoded_ids(self) -> Iterator[bytes]:
        """The ids of all items in UTF-8; bytes that are not UTF-8 are escaped."""
        if isinstance(self.ids, Texts) and self.ids.is_utf_8():
            return self.ids.raws(self._rows())
        return (self.ids[row].encode(errors="backslashreplace") for row in self._rows().tolist())

    def image(self, index: int) -> ImageInput:
        """The image of an item: a path, the bytes of a file, or pixels; BadImage if it cannot be read."""
        return self.images.read(self._row(index))

    def keys(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Content keys of the given items or all, (N,) 'S16'."""
        rows = self._rows()
        return self.images.keys(rows if indices is None else rows[np.asarray(indices, np.int64)])

    @property
    def labels(self) -> Labels:
        """The labels of these items."""
        return self.all_labels if self.rows is None else self.all_labels.take(self.rows)

    @property
    def parts(self) -> np.ndarray:
        """(N,) int8: the index of each item's part in PART_NAMES, -1 for none."""
        return self.all_parts if self.rows is None else self.all_parts[self.rows]

    def _row(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"no item {index} among {count}")
        index = int(index) % count
        return index if self.rows is None else int(self.rows[index])

    def _rows(self) -> np.ndarray:
        return np.arange(len(self)) if self.rows is None else self.rows


class Gathering:
    """Builds columns image by image."""

    def __init__(self) -> None:
        self.ids = Growing()
        self.extras = Growing()
        self.codes: dict[str, int] = {}
        self.labels = array("i")
        self.starts = array("q", [0])
        self.parts = array("b")

    def add(
        self, id: str, labels: Iterable[str], part: Part | None = None, extras: Mapping[str, Any] | None = None
    ) -> None:
        """Add an image; its row in the `Images` is its position here."""
        self.ids.add(id)
        for label in labels:
            self.labels.append(self.codes.setdefault(label, len(self.codes)))
        self.starts.append(len(self.labels))
        self.parts.append(-1 if part is None else PART_NAMES.index(part))
        if extras and not self.extras.ends:
            for _ in range(len(self.parts) - 1):
                self.extras.add("{}")
        if extras or self.extras.ends:
            self.extras.add(json.dumps(dict(extras or {})))

    def items(self, images: Images) -> Items:
        """All added items, with their images."""
        starts = np.array(self.starts, np.int64)
        single = bool((np.diff(starts) == 1).all())
        labels = Labels(tuple(self.codes), np.array(self.labels, np.int32), None if single else starts)
        extras = Extras(self.extras.texts()) if self.extras.ends else None
        return Items(self.ids.texts(), images, labels, np.array(self.parts, np.int8), extras)
