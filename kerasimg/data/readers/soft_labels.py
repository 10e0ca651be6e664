"""Soft labels: a probability per class, as several annotators or a model have assigned them.

A manifest has them as columns `p:CLASS`, or as `"labels": {CLASS: share}` in JSONL. Models are trained on them; in the
split and in all metrics the image counts as its most likely class, or the column `label`.
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
"""Prefix of such a column; the class name follows."""
TOLERANCE = 1e-3
"""Tolerance for the sum of the shares of an image; they are divided by their sum."""


def shares_of(row: Mapping[str, Any], wrong: list[str]) -> dict[str, float]:
    """The soft label of a row, with the sum 1; empty if it has none. Errors are appended to `wrong`."""
    labels = row.get("labels")
    if isinstance(labels, dict):
        values = labels
    else:
        values = {name.removeprefix(PREFIX): row[name] for name in row if name.startswith(PREFIX)}
        if all(value in ("", None) for value in values.values()):
            return {}
    shares: dict[str, float] = {}
    for name, value in values.items():
        share = _number(value)
        if not 0 <= share <= 1:
            wrong.append(f"expected a number of 0 to 1 as the share of '{name}', got {value!r}")
        elif not class_name(name):
            wrong.append(f"expected the name of a class after '{PREFIX}'")
        shares[class_name(name)] = share
    total = sum(shares.values())
    if not wrong and abs(total - 1) > TOLERANCE:
        wrong.append(f"the shares of the classes must sum to 1, but sum to {total:.4g}")
    return {} if wrong else {name: share / total for name, share in shares.items()}


def most_likely(shares: Mapping[str, float]) -> str:
    """The class with the largest share; the first by name if several are equal."""
    return min(shares, key=lambda name: (-shares[name], name))


def soft_labels(source: Source, indices: np.ndarray) -> np.ndarray:
    """(N, K) float32, rows that sum to 1: the soft label of each image, or 1 at its label."""
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
                message = f"has a share of '{name}', which is not a class of the model"
                faults.append(Fault(source.where, item.id, message))
        if not shares:
            rows[row, hard[row]] = 1
    if faults:
        raise ManyFaults(faults)
    return rows


def digest(source: Source, indices: np.ndarray) -> str:
    """SHA-256 of the soft labels of these images, to check them on resume."""
    return hashlib.sha256(soft_labels(source, indices).tobytes()).hexdigest()


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
