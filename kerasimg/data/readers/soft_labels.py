"""Labels that are shares: how likely each class is for an image, as several people or a model have judged it.

A manifest has them as columns `p:CLASS`, or as `"labels": {CLASS: share}` in JSONL. They are what a model learns; the
likeliest class, or the column `label`, is what the image counts as everywhere else: in the split, in the figures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasimg.data.items import ManyFaults, class_name
from kerasimg.data.source import Source
from kerasimg.errors import Fault

PREFIX = "p:"
"""How such a column begins; the name of the class follows."""
TOLERANCE = 1e-3
"""By how much the shares of an image may miss 1; they are then divided by their sum."""


def shares_of(row: Mapping[str, Any], wrong: list[str]) -> dict[str, float]:
    """The shares in a row of a manifest, by class, with the sum 1; empty where it has none. What is wrong is added."""
    labels = row.get("labels")
    if isinstance(labels, dict):
        given = labels
    else:
        given = {name.removeprefix(PREFIX): row[name] for name in row if name.startswith(PREFIX)}
        if all(value in ("", None) for value in given.values()):
            return {}
    found: dict[str, float] = {}
    for name, value in given.items():
        share = _number(value)
        if not 0 <= share <= 1:
            wrong.append(f"expected a number of 0 to 1 as the share of '{name}', got {value!r}")
        elif not class_name(name):
            wrong.append(f"expected the name of a class after '{PREFIX}'")
        found[class_name(name)] = share
    total = sum(found.values())
    if not wrong and abs(total - 1) > TOLERANCE:
        wrong.append(f"the shares of the classes must have the sum 1, and have {total:.4g}")
    return {} if wrong else {name: share / total for name, share in found.items()}


def likeliest(shares: Mapping[str, float]) -> str:
    """The class with the largest share, the first of equal ones by name."""
    return min(shares, key=lambda name: (-shares[name], name))


def soft_labels(source: Source, indices: np.ndarray) -> np.ndarray:
    """(N, K) float32, rows that sum to 1: the shares of each image, 1 at its label where it has none."""
    rows = np.zeros((len(indices), len(source.classes)), np.float32)
    hard = source.label_ids(indices)
    places = {name: place for place, name in enumerate(source.classes)}
    faults = []
    for row, index in enumerate(np.asarray(indices).tolist()):
        item = source.items[index]
        shares = {key.removeprefix(PREFIX): value for key, value in item.extras.items() if key.startswith(PREFIX)}
        for name, share in shares.items():
            if name in places:
                rows[row, places[name]] = share
            elif share:
                faults.append(Fault(source.where, item.id, f"has a share of '{name}', which the model does not know"))
        if not shares:
            rows[row, hard[row]] = 1
    if faults:
        raise ManyFaults(faults)
    return rows


def digest(source: Source, indices: np.ndarray) -> str:
    """SHA-256 of the shares of these images, by which a run that goes on knows them again."""
    return hashlib.sha256(soft_labels(source, indices).tobytes()).hexdigest()


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
