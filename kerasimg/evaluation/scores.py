"""Every figure that judges a classifier: from predictions, through scikit-learn, to plain numbers for JSON.

Shares, precision, recall, F1 and areas are in [0, 1]; a figure that the data leave undefined is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    hamming_loss,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from kerasimg.errors import KerasimgError
from kerasimg.evaluation.predictions import THRESHOLD, decide, two_columns
from kerasimg.spec.document import Task

BINS = 15
"""Of the calibration, as in the paper."""

Scores = dict[str, Any]


def scores(truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], task: Task) -> Scores:
    """Judge N predictions, N >= 1, over K classes.

    truth: (N,) class numbers; multilabel: (N, K) of 0 and 1.
    probabilities: (N, K) in [0, 1], multiclass rows sum to about 1; binary: (N, 1) or (N,), of the second
        class.
    classes: K different names, 2 for binary.

    Returns the figures, then `per_class`, `calibration` and `confusion` (rows are the truth, columns the
    prediction, both in the order of `classes`). As in scikit-learn, macro averages are over the classes that
    occur in the truth or in the predictions (multilabel: all), balanced accuracy over those in the truth;
    a division by zero gives 0.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(p).all():
        raise KerasimgError("the model predicts NaN or infinity, so its training diverged; try a lower learning_rate")
    figures = _TASKS[task](np.asarray(truth).astype(int), p, list(classes))
    return {"task": task, "n": len(p), "classes": list(classes), **figures}


def _multiclass(truth: np.ndarray, p: np.ndarray, classes: list[str]) -> Scores:
    # Rows of float32 do not sum to exactly 1; the log loss wants them to.
    p = p / p.sum(axis=1, keepdims=True)
    decision, _ = decide(p, "multiclass")
    return {
        **_accuracies(truth, decision),
        **_top_5(truth, p),
        **_averaged(truth, decision, "macro"),
        **_averaged(truth, decision, "weighted"),
        **_details(truth, p, classes),
    }


def _binary(truth: np.ndarray, p: np.ndarray, classes: list[str]) -> Scores:
    truth, p = truth.reshape(-1), p.reshape(-1)
    decision, _ = decide(p, "binary")
    details = _details(truth, two_columns(p), classes)
    positive = details["per_class"][classes[1]]
    both_occur = len(np.unique(truth)) == 2
    return {
        "positive": classes[1],
        "threshold": THRESHOLD,
        **_accuracies(truth, decision),
        **{name: positive[name] for name in ("precision", "recall", "f1")},
        "roc_auc": _share(roc_auc_score(truth, p)) if both_occur else None,
        "average_precision": _average_precision(truth, p),
        **details,
    }


def _multilabel(truth: np.ndarray, p: np.ndarray, classes: list[str]) -> Scores:
    decision, _ = decide(p, "multilabel")
    # scikit-learn takes a single label for a binary problem, and would count its absence as a class.
    labels = list(range(len(classes))) if len(classes) > 1 else [1]
    areas = [_average_precision(*column) for column in zip(truth.T, p.T, strict=True)]
    defined = [area for area in areas if area is not None]
    per_class = _per_class(truth, decision, labels, classes)
    for name, area in zip(classes, areas, strict=True):
        per_class[name]["average_precision"] = area
    return {
        "threshold": THRESHOLD,
        "subset_accuracy": float(accuracy_score(truth, decision)),
        "hamming_loss": float(hamming_loss(truth, decision)),
        **_averaged(truth, decision, "macro", labels),
        **_averaged(truth, decision, "micro", labels),
        "mean_average_precision": float(np.mean(defined)) if defined else None,
        "per_class": per_class,
    }


_TASKS: dict[Task, Callable[[np.ndarray, np.ndarray, list[str]], Scores]] = {
    "multiclass": _multiclass,
    "binary": _binary,
    "multilabel": _multilabel,
}


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> tuple[float, list[Scores]]:
    """Expected calibration error and the bins behind it (Guo et al. 2017, arXiv:1706.04599).

    confidence: (N,) in [0, 1], the probability of what was decided.  correct: (N,) of 0 and 1.
    Returns the sum over equal-width bins (low, high] of n / N * |accuracy - mean confidence|, in [0, 1]; and
    each bin's edges, n, accuracy and mean confidence, the last two None where it is empty.
    """
    edges = np.linspace(0, 1, bins + 1)
    where = np.searchsorted(edges[1:-1], confidence)
    n = np.bincount(where, minlength=bins)
    right = np.bincount(where, weights=correct, minlength=bins)
    sure = np.bincount(where, weights=confidence, minlength=bins)
    table = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(n[i]),
            "accuracy": float(right[i] / n[i]) if n[i] else None,
            "confidence": float(sure[i] / n[i]) if n[i] else None,
        }
        for i in range(bins)
    ]
    return float(np.abs(right - sure).sum() / n.sum()), table


def _accuracies(truth: np.ndarray, decision: np.ndarray) -> Scores:
    # By its definition: balanced_accuracy_score warns when a class is predicted that the truth lacks.
    balanced = recall_score(truth, decision, labels=np.unique(truth), average="macro")
    return {"accuracy": float(accuracy_score(truth, decision)), "balanced_accuracy": float(balanced)}


def _top_5(truth: np.ndarray, p: np.ndarray) -> Scores:
    classes = p.shape[1]
    if classes <= 5:
        return {}
    return {"top_5_accuracy": float(top_k_accuracy_score(truth, p, k=5, labels=np.arange(classes)))}


def _averaged(truth: np.ndarray, decision: np.ndarray, average: str, labels: list[int] | None = None) -> Scores:
    figures = precision_recall_fscore_support(truth, decision, labels=labels, average=average, zero_division=0)
    names = ("precision", "recall", "f1")
    return {f"{average}_{name}": float(figure) for name, figure in zip(names, figures[:3], strict=True)}


def _details(truth: np.ndarray, p: np.ndarray, classes: list[str]) -> Scores:
    """What multiclass and binary share.  p: (N, K), rows sum to 1.  `log_loss` is in nats."""
    labels = list(range(len(classes)))
    decision, confidence = decide(p, "multiclass")
    error, bins = reliability(confidence, decision == truth)
    return {
        "log_loss": float(log_loss(truth, p, labels=labels)),
        "calibration_error": error,
        "per_class": _per_class(truth, decision, labels, classes),
        "calibration": bins,
        "confusion": confusion_matrix(truth, decision, labels=labels).tolist(),
    }


def _per_class(truth: np.ndarray, decision: np.ndarray, labels: list[int], classes: list[str]) -> dict[str, Scores]:
    columns = precision_recall_fscore_support(truth, decision, labels=labels, average=None, zero_division=0)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(classes, *columns, strict=True)
    }


def _average_precision(truth: np.ndarray, p: np.ndarray) -> float | None:
    return _share(average_precision_score(truth, p)) if truth.any() else None


def _share(figure: float) -> float:
    """A sum of shares, which rounding may have carried past 1."""
    return min(float(figure), 1.0)
