"""What every source is made of: labelled images, the parts they may belong to, the order of class names."""

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
"""The names of the parts, as folders and manifests write them (in any case), and what they mean."""

PART_NAMES: tuple[Part, ...] = ("train", "validation", "test")
"""The parts, each at the place that is its number in columns; -1 stands for none."""

ImageInput = str | bytes | np.ndarray
"""The path of a file, the bytes of one, or pixels."""

LISTED = 20
"""Faults that an error message lists."""


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """One image and what is known of it."""

    id: str
    """Its path below the root, with forward slashes, or its place in an array: "train[17]"."""
    held: ImageInput | Callable[[], ImageInput]
    """The path of its file, its bytes or its pixels, or what gives them when they are asked for."""
    labels: tuple[str, ...]
    """Names of its classes: one, or any number where the task is multilabel."""
    part: Part | None = None
    """The part that the data puts it in."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What else a manifest says of it."""

    @property
    def image(self) -> ImageInput:
        """The path of its file, the bytes of one, or its pixels; read now where it stands within a larger file."""
        return self.held() if callable(self.held) else self.held


class Bad(NamedTuple):
    """An image that cannot be read, and why."""

    id: str
    reason: str


class Reading(NamedTuple):
    """What a reader found: images, names of classes in any order, and how many files are no images."""

    items: Sequence[Item]
    classes: Iterable[str]
    ignored: int = 0
    soft: bool = False
    """Whether images have shares of classes, see `soft_labels.py`."""
    empty: tuple[str, ...] = ()
    """Folders that would be classes or parts, and hold no images."""


class ManyFaults(DataError):
    """Data that is wrong in any number of places: `faults` holds them all, the message the first 20."""

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:LISTED]]
        if len(self.faults) > LISTED:
            lines.append(f"... and {len(self.faults) - LISTED:,} more")
        return "\n".join(lines)


def fault(file: str, path: str, message: str) -> ManyFaults:
    """The error for a single fault."""
    return ManyFaults([Fault(file, path, message)])


def class_name(label: str) -> str:
    """The label as a class name: without space around it, in one Unicode form on every system (NFC)."""
    return unicodedata.normalize("NFC", label.strip())


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in their order: by value where all are integers ("10" after "9"), else by character."""
    unique = set(names)
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))
