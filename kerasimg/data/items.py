"""Labelled images (`Item`), their parts, and the order of class names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from kerasimg.errors import DataError, Fault

Part = Literal["train", "validation", "test"]

PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of parts in folders and manifests (in any case) -> the part."""

PART_NAMES: tuple[Part, ...] = ("train", "validation", "test")
"""The parts; columns hold the index, or -1 for none."""

ImageInput = str | bytes | np.ndarray
"""A path, the bytes of a file, or pixels."""

LISTED = 20
"""Number of errors that a message lists."""


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """The places of at most `count` of `length` members, evenly spaced from the first to the last."""
    return np.linspace(0, max(0, length - 1), min(count, length)).round().astype(np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """A labelled image."""

    id: str
    """Its path below the root, with forward slashes, or its position in an array: "train[17]"."""
    held: ImageInput | Callable[[], ImageInput]
    """A path, the bytes of a file, pixels, or a function that returns one of these."""
    labels: tuple[str, ...]
    """Names of its classes: one, or any number if the task is multilabel."""
    part: Part | None = None
    """The part that the data puts it in."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the manifest."""

    @property
    def image(self) -> ImageInput:
        """A path, the bytes of a file, or pixels; read now if it is inside a larger file."""
        return self.held() if callable(self.held) else self.held


class Bad(NamedTuple):
    """An image that cannot be read, and why."""

    id: str
    reason: str


class Reading(NamedTuple):
    """The result of a reader: images, class names in any order, and the number of files that are not images."""

    items: Sequence[Item]
    classes: Iterable[str]
    ignored: int = 0
    soft: bool = False
    """Whether images have soft labels, see `soft_labels.py`."""
    empty: tuple[str, ...] = ()
    """Class or part folders without images."""


class ManyFaults(DataError):
    """Errors in data: `faults` has all of them, the message the first 20."""

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:LISTED]]
        if len(self.faults) > LISTED:
            lines.append(f"... and {len(self.faults) - LISTED:,} more")
        return "\n".join(lines)


def fault(file: str, path: str, message: str) -> ManyFaults:
    """An error with a single fault."""
    return ManyFaults([Fault(file, path, message)])


def class_name(label: str) -> str:
    """The label as a class name: stripped, and in Unicode form NFC on every system."""
    return unicodedata.normalize("NFC", label.strip())


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: by value if all are integers ("10" after "9"), else by character."""
    unique = set(names)
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))
