"""Precision-recall and ROC curves, each class against the rest, thinned to what a figure can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.evaluation.measures import precision_recall_curve, roc_curve
from kerasimg.spec.document import Task

POINTS = 100
"""Largest number of points of a curve."""
CLASSES = 100
"""Largest number of classes with curves: those with the lowest average precision."""


def curves(truth: ArrayLike, probabilities: ArrayLike, found: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The curves of each class for which they are defined; where the task is binary, of the positive class alone.

    truth, probabilities: as in `scores`.  found: what `scores` returned for them.
    Returns {"classes": {name: {"roc_auc", "average_precision", "roc": {"fpr", "tpr"}, "precision_recall": {"recall",
    "precision"}}}}; the points are scikit-learn's, in its order, the areas those of the whole curves.
    """
    y, p = np.asarray(truth).astype(int), np.asarray(probabilities)
    names: Sequence[str] = found["classes"]
    rows = found["per_class"]
    numbers = {names[1]: 0} if task == "binary" else {name: number for number, name in enumerate(names)}
    defined = [name for name in numbers if rows[name]["roc_auc"] is not None]
    chosen = set(sorted(defined, key=lambda name: rows[name]["average_precision"])[:CLASSES])

    def column(number: int) -> tuple[np.ndarray, np.ndarray]:
        if task == "binary":
            return y.reshape(-1), p.reshape(-1).astype(np.float64)
        return y[:, number] if task == "multilabel" else y == number, p[:, number].astype(np.float64)

    return {"classes": {name: _curves(*column(numbers[name]), rows[name]) for name in defined if name in chosen}}


def _curves(truth: np.ndarray, p: np.ndarray, row: Mapping[str, Any]) -> dict[str, Any]:
    precision, recall = precision_recall_curve(truth, p)
    fpr, tpr = roc_curve(truth, p)
    return {
        "roc_auc": row["roc_auc"],
        "average_precision": row["average_precision"],
        "roc": _thinned(fpr=fpr, tpr=tpr),
        "precision_recall": _thinned(recall=recall, precision=precision),
    }


def _thinned(**axes: np.ndarray) -> dict[str, list[float]]:
    """At most POINTS points, evenly spaced along the drawn line, the first and the last among them."""
    x, y = axes.values()
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS - 1)))
    chosen = np.unique(np.append(np.minimum(chosen, len(x) - 1), len(x) - 1))
    return {name: [round(float(value), 6) for value in axis[chosen]] for name, axis in axes.items()}
