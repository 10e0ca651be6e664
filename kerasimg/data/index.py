"""A million images and what is known of them, in columns: an image becomes an `Item` when it is asked for.

An image of a folder takes the bytes of its path and 14 more: where it ends, the number of its label, the part.
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
    """What gives the id of an image by its row."""

    def __getitem__(self, index: int) -> str:
        """The id."""


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """The labels of many images, as numbers of names."""

    names: tuple[str, ...]
    """What the numbers stand for; not all of them need to occur."""
    codes: np.ndarray
    """(number of labels,) int32: of all images, one after the other."""
    starts: np.ndarray | None = None
    """(N + 1,) int64: where each image's begin; None where each has exactly one."""

    def of(self, row: int) -> tuple[str, ...]:
        """The labels of one image."""
        if self.starts is None:
            return (self.names[self.codes[row]],)
        return tuple(self.names[code] for code in self.codes[self.starts[row] : self.starts[row + 1]])

    def take(self, rows: np.ndarray) -> Labels:
        """The labels of these images alone."""
        if self.starts is None:
            return replace(self, codes=self.codes[rows])
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.starts[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        return replace(self, codes=self.codes[places], starts=starts)

    def owners(self) -> np.ndarray:
        """(number of labels,) int64: the image that each label is of."""
        if self.starts is None:
            return np.arange(len(self.codes))
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def counts(self) -> np.ndarray:
        """(number of names,) int64: how many images have each."""
        return np.bincount(self.codes, minlength=len(self.names))

    def renamed(self, names: Sequence[str]) -> np.ndarray:
        """The labels, as `codes`, numbered by other names; a KeyError names one that is not among them."""
        numbers = {name: number for number, name in enumerate(names)}
        table = np.array([numbers.get(name, -1) for name in self.names], np.int64)
        found = table[self.codes]
        if len(found) and found.min() < 0:
            raise KeyError(self.names[self.codes[found.argmin()]])
        return found


class Numbered:
    """The ids of images that have a number within an array or a file: "train[17]"."""

    def __init__(self, names: Sequence[str], ends: np.ndarray):
        """ends: how many images the first name has, the first two have, and so on."""
        self.names = names
        self.ends = ends

    def __getitem__(self, index: int) -> str:
        number = int(np.searchsorted(self.ends, index, "right"))
        return f"{self.names[number]}[{index - int(self.ends[number - 1] if number else 0)}]"


def joined(labels: Sequence[Labels]) -> Labels:
    """The labels of the images of the first, then of the second, and so on; equal names become one."""
    numbers: dict[str, int] = {}
    tables = [np.array([numbers.setdefault(name, len(numbers)) for name in one.names], np.int32) for one in labels]
    codes = np.concatenate([table[one.codes] for table, one in zip(tables, labels, strict=True)])
    if all(one.starts is None for one in labels):
        return Labels(tuple(numbers), codes)
    counts = [np.ones(len(one.codes), np.int64) if one.starts is None else np.diff(one.starts) for one in labels]
    return Labels(tuple(numbers), codes, np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class Items(Sequence[Item]):
    """Labelled images in columns; those at `rows` of the columns, in their order, or all."""

    ids: Ids
    images: Images
    all_labels: Labels
    all_parts: np.ndarray
    """int8: places in PART_NAMES, -1 for none."""
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
        """These items alone, in this order."""
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
        """The ids of all items in UTF-8, with escapes for what is no text."""
        if isinstance(self.ids, Texts) and self.ids.is_utf_8():
            return self.ids.raws(self._rows())
        return (self.ids[row].encode(errors="backslashreplace") for row in self._rows().tolist())

    def image(self, index: int) -> ImageInput:
        """The path of an item's file, the bytes of one, or its pixels; a BadImage says why there is none."""
        return self.images.read(self._row(index))

    def keys(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Content keys, (N,) 'S16', of these items or all."""
        rows = self._rows()
        return self.images.keys(rows if indices is None else rows[np.asarray(indices, np.int64)])

    @property
    def labels(self) -> Labels:
        """The labels of these items."""
        return self.all_labels if self.rows is None else self.all_labels.take(self.rows)

    @property
    def parts(self) -> np.ndarray:
        """(N,) int8: the place of each item's part in PART_NAMES; -1 where it has none."""
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
    """Columns that grow image by image."""

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
        """One more image; its place among the `Images` is its turn here."""
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
        """All that were added, their images being in this place."""
        starts = np.array(self.starts, np.int64)
        single = bool((np.diff(starts) == 1).all())
        labels = Labels(tuple(self.codes), np.array(self.labels, np.int32), None if single else starts)
        extras = Extras(self.extras.texts()) if self.extras.ends else None
        return Items(self.ids.texts(), images, labels, np.array(self.parts, np.int8), extras)
