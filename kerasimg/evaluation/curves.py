"""Precision-recall and ROC curves, each class against the rest, thinned to what a figure can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.evaluation.measures import precision_recall_curve, roc_curve
from kerasimg.spec.document import Task

POINTS = 100
"""Of one curve, at most."""
CLASSES = 100
"""Of more classes, those of the lowest average precision are kept."""


def curves(truth: ArrayLike, probabilities: ArrayLike, found: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The curves of each class for which they are defined; where the task is binary, of the positive class alone.

    truth, probabilities: as in `scores`.  found: what `scores` returned for them.
    Returns {"classes": {name: {"roc_auc", "average_precision", "roc": {"fpr", "tpr"}, "precision_recall": {"recall",
    "precision"}}}}; the points are scikit-learn's, in its order, the areas those of the whole curves.
    """
    y, p = np.asarray(truth).astype(int), np.asarray(probabilities, dtype=np.float64)
    names: Sequence[str] = found["classes"]
    if task == "binary":
        columns = {names[1]: (y.reshape(-1), p.reshape(-1))}
    elif task == "multilabel":
        columns = {name: (y[:, k], p[:, k]) for k, name in enumerate(names)}
    else:
        columns = {name: (y == k, p[:, k]) for k, name in enumerate(names)}
    rows = found["per_class"]
    defined = [name for name in columns if rows[name]["roc_auc"] is not None]
    kept = sorted(defined, key=lambda name: rows[name]["average_precision"])[:CLASSES]
    return {"classes": {name: _curves(*columns[name], rows[name]) for name in defined if name in set(kept)}}


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
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS - 1)))
    kept = np.unique(np.append(np.minimum(kept, len(x) - 1), len(x) - 1))
    return {name: [round(float(value), 6) for value in axis[kept]] for name, axis in axes.items()}
