"""Which pictures are trained on, which steer, which judge; and a record of it.

Parts that the data has are kept. A part that is asked for and missing is drawn from the pictures of the train part
(those that the data assigns to none belong to it):

- As many as the share asks for, rounded, but at least one.
- Class by class in proportion (Sainte-Laguë's method), so that every class has its share to within one picture. Where
  a picture has several labels it counts for the rarest of them; those without a label count as one more class.
- Every class keeps at least one picture to train on.
- By a hash of the seed and the picture's name: the same pictures, whatever order they are listed in, and a picture
  that is added moves few others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kerasimg.data.items import Item, ManyFaults, Part
from kerasimg.data.parallel import each
from kerasimg.data.sources import Source
from kerasimg.errors import Fault


def split(
    source: Source, validation_split: float = 0.15, test_split: float = 0.15, seed: int = 0
) -> dict[Part, np.ndarray]:
    """Indices of the pictures of each part, ascending; a part that neither data nor share asks for is absent.

    validation_split, test_split: shares, in [0, 1), of what the data assigns to train or to no part.
    """
    parts: dict[Part, list[int]] = defaultdict(list)
    for index, item in enumerate(source.items):
        parts[item.part or "train"].append(index)
    shares: dict[Part, float] = {"test": test_split, "validation": validation_split}
    counts = {
        part: max(1, round(share * len(parts["train"])))
        for part, share in shares.items()
        if share and part not in parts
    }
    faults = []
    for part, count in counts.items():
        drawn = _draw(source, parts["train"], count, seed)
        if len(drawn) < count:
            faults.append(_too_few(source, part, shares[part], count, len(drawn)))
        parts[part] = drawn
        parts["train"] = sorted(set(parts["train"]) - set(drawn))
    faults += _unseen(source, parts)
    if faults:
        raise ManyFaults(faults)
    return {part: np.array(parts[part], dtype=np.int64) for part in ("train", "validation", "test") if part in parts}


def record(source: Source, parts: Mapping[Part, Iterable[int]], threads: int | None = None) -> dict[str, Any]:
    """What a run keeps of its data, ready for JSON: every picture with its part, labels and SHA-256.

    The hash is that of the file, or of the array's bytes in C order.
    """
    chosen = [(part, source.items[index]) for part, indices in parts.items() for index in indices]
    hashes = each(lambda one: fingerprint(one[1]), chosen, threads)
    return {
        "where": source.where,
        "task": source.task,
        "classes": list(source.classes),
        "skipped": [one._asdict() for one in source.skipped],
        "pictures": [
            {"id": item.id, "part": part, "labels": list(item.labels), "sha256": digest}
            for (part, item), digest in zip(chosen, hashes, strict=True)
        ],
    }


def fingerprint(item: Item) -> str:
    """SHA-256 of the picture's file, or of its pixels where it is an array."""
    if isinstance(item.picture, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(item.picture).tobytes()).hexdigest()
    with open(item.picture, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draw(source: Source, pool: list[int], count: int, seed: int) -> list[int]:
    """At most `count` pictures of the pool, in proportion to its classes, of which each keeps one or more."""

    def lot(index: int) -> bytes:
        return hashlib.blake2b(
            f"{seed}:{source.items[index].id}".encode(errors="backslashreplace"), digest_size=16
        ).digest()

    frequency = Counter(label for index in pool for label in source.items[index].labels)
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index in sorted(pool, key=lot):
        labels = source.items[index].labels
        groups[min(labels, key=lambda label: (frequency[label], label), default=None)].append(index)
    # Sainte-Laguë: the k-th picture of a class of n has its turn at (k + 1/2) / n.
    turns = sorted(
        ((place + 0.5) / len(group), lot(index), index)
        for group in groups.values()
        for place, index in enumerate(group)
    )
    drawn: list[int] = []
    for _, _, index in turns:
        labels = source.items[index].labels
        if len(drawn) < count and all(frequency[label] > 1 for label in labels):
            frequency.subtract(labels)
            drawn.append(index)
    return sorted(drawn)


def _too_few(source: Source, part: Part, share: float, count: int, spare: int) -> Fault:
    return Fault(
        source.where,
        f"{part}_split",
        f"{share:g} asks for {count} of the pictures, but {spare} can be spared when every class keeps one "
        "to train on; add pictures, or set it to 0",
    )


def _unseen(source: Source, parts: Mapping[Part, list[int]]) -> list[Fault]:
    """Classes that would be judged but never trained on."""
    trained = {label for index in parts["train"] for label in source.items[index].labels}
    others = {
        label: part for part, indices in parts.items() for index in indices for label in source.items[index].labels
    }
    return [
        Fault(source.where, f"class '{name}'", f"has pictures in the {others[name]} part, but none to train on")
        for name in source.classes
        if name in others and name not in trained
    ]
