"""Every figure that judges a classifier: from predictions to plain numbers for JSON, as scikit-learn defines them.

Shares, precision, recall, F1 and areas are in [0, 1]; a figure that the data leave undefined is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.errors import KerasimgError
from kerasimg.evaluation.measures import (
    Counts,
    average_precision,
    confusion_matrix,
    counts,
    log_loss,
    ranks,
    roc_auc,
    squared_errors,
)
from kerasimg.evaluation.predictions import THRESHOLD, decide, two_columns
from kerasimg.spec.document import Task

BINS = 15
"""Of the calibration, as in the paper."""

TOP_K = (2, 3, 5, 10)
"""Top-k accuracy is told for each of these that is less than the number of classes."""

AREAS = 2**23
"""Areas under curves are found for up to so many pictures times classes, which takes some ten seconds."""

MOST_CONFUSED = 20
"""Pairs of classes that are listed."""

Scores = dict[str, Any]


def scores(
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
) -> Scores:
    """Judge N predictions, N >= 1, over K classes.

    truth: (N,) class numbers; multilabel: (N, K) of 0 and 1.
    probabilities: (N, K) in [0, 1], multiclass rows sum to about 1; binary: (N, 1) or (N,), of the second
        class.
    classes: K different names, 2 for binary.
    thresholds: see `decide`.

    Returns the figures, then `per_class`, `calibration`, and but for multilabel `confusion` (rows are the truth,
    columns the prediction, both in the order of `classes`) and `most_confused`. As in scikit-learn, macro averages
    are over the classes that occur in the truth or in the predictions (multilabel: all), balanced accuracy over those
    in the truth; a division by zero gives 0. The areas of a class are those of one against the rest, None where
    pictures times classes exceed `AREAS`.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(p).all():
        raise KerasimgError("the model predicts NaN or infinity, so its training diverged; try a lower learning_rate")
    figures = _TASKS[task](np.asarray(truth).astype(int), p, list(classes), thresholds)
    return {"task": task, "n": len(p), "classes": list(classes), **figures}


Thresholds = Sequence[float] | None


def _multiclass(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    p = to_one(p)
    decision, _ = decide(p, "multiclass")
    found = counts(truth, decision, len(classes))
    occurring = found.only(np.flatnonzero(found.true + found.decided))
    return {
        **_accuracies(truth, decision, found),
        **_top_k(truth, p),
        **_averaged("macro", occurring),
        **_averaged("weighted", occurring, occurring.true),
        **_details(truth, p, decision, classes),
    }


def _binary(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    truth, p = truth.reshape(-1), p.reshape(-1)
    decision, _ = decide(p, "binary", thresholds)
    details = _details(truth, two_columns(p), decision, classes)
    positive = details["per_class"][classes[1]]
    return {
        "positive": classes[1],
        "thresholds": _thresholds(classes[1:], thresholds),
        **_accuracies(truth, decision, counts(truth, decision, 2)),
        **{name: positive[name] for name in ("precision", "recall", "f1", "roc_auc", "average_precision")},
        **details,
    }


def _multilabel(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    decision, _ = decide(p, "multilabel", thresholds)
    found = counts(truth, decision.astype(int), len(classes))
    per_class = _per_class(found, classes, truth.T, p.T)
    areas = [row["average_precision"] for row in per_class.values()]
    defined = [area for area in areas if area is not None]
    # Each label of each picture is a decision between two, wherever its threshold stands.
    confidence = np.maximum(p, 1 - p).reshape(-1)
    error, bins = reliability(confidence, ((p > THRESHOLD) == truth).reshape(-1))
    return {
        "thresholds": _thresholds(classes, thresholds),
        "subset_accuracy": float((truth == decision).all(axis=1).mean()),
        "hamming_loss": float((truth != decision).mean()),
        **_averaged("macro", found),
        **_averaged("micro", found.together()),
        "mean_average_precision": float(np.mean(defined)) if defined else None,
        "log_loss": log_loss(np.where(truth == 1, p, 1 - p).reshape(-1)),
        "brier_score": float(squared_errors(truth, p).mean()),
        "calibration_error": error,
        "per_class": per_class,
        "calibration": bins,
    }


_TASKS: dict[Task, Callable[[np.ndarray, np.ndarray, list[str], Thresholds], Scores]] = {
    "multiclass": _multiclass,
    "binary": _binary,
    "multilabel": _multilabel,
}


def to_one(p: np.ndarray) -> np.ndarray:
    """(N, K) with rows that sum to 1: those of float32 do not exactly, and the log loss wants them to."""
    return p / p.sum(axis=1, keepdims=True)


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


def _accuracies(truth: np.ndarray, decision: np.ndarray, found: Counts) -> Scores:
    balanced = found.only(np.flatnonzero(found.true)).recall.mean()
    return {"accuracy": float((truth == decision).mean()), "balanced_accuracy": float(balanced)}


def _top_k(truth: np.ndarray, p: np.ndarray) -> Scores:
    before = ranks(truth, p)
    found = {str(k): float((before < k).mean()) for k in TOP_K if k < p.shape[1]}
    return {**({"top_5_accuracy": found["5"]} if "5" in found else {}), "top_k_accuracy": found}


def _averaged(average: str, found: Counts, weights: np.ndarray | None = None) -> Scores:
    figures = {"precision": found.precision, "recall": found.recall, "f1": found.f1}
    return {f"{average}_{name}": float(np.average(each, weights=weights)) for name, each in figures.items()}


def _details(truth: np.ndarray, p: np.ndarray, decision: np.ndarray, classes: list[str]) -> Scores:
    """What multiclass and binary share.  p: (N, K), rows sum to 1.  `log_loss` is in nats."""
    # Of the likelier class, wherever a threshold stands: it is the probabilities that are judged.
    likeliest, confidence = decide(p, "multiclass")
    error, bins = reliability(confidence, likeliest == truth)
    confusion = confusion_matrix(truth, decision, len(classes))
    hot = (truth == column for column in range(len(classes)))
    return {
        "log_loss": log_loss(p[np.arange(len(p)), truth]),
        "brier_score": float(squared_errors(truth, p).mean()),
        "calibration_error": error,
        "per_class": _per_class(counts(truth, decision, len(classes)), classes, hot, p.T),
        "calibration": bins,
        "most_confused": most_confused(confusion, classes),
        "confusion": confusion.tolist(),
    }


def most_confused(confusion: ArrayLike, classes: Sequence[str], limit: int = MOST_CONFUSED) -> list[Scores]:
    """Which class is taken for which, most pictures first; `share` is of the pictures of the true class."""
    counts = np.array(confusion)
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    most = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    return [
        {"truth": classes[i], "prediction": classes[j], "n": int(wrong[i, j]), "share": float(wrong[i, j] / total)}
        for i, j in zip(*np.unravel_index(most, wrong.shape), strict=True)
        if wrong[i, j] and (total := counts[i].sum())
    ]


def _per_class(found: Counts, classes: list[str], columns: Iterable[np.ndarray], p: np.ndarray) -> dict[str, Scores]:
    """columns, p: for each class whether a picture is of it, and the probability that it is, (N,) each."""
    affordable = p.size <= AREAS
    return {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
            "roc_auc": _roc_auc(of_class, probability) if affordable else None,
            "average_precision": _average_precision(of_class, probability) if affordable else None,
        }
        for name, precision, recall, f1, support, of_class, probability in zip(
            classes, found.precision, found.recall, found.f1, found.true, columns, p, strict=True
        )
    }


def _thresholds(labels: Sequence[str], thresholds: Thresholds) -> dict[str, float]:
    values = [THRESHOLD] * len(labels) if thresholds is None else thresholds
    return {label: float(value) for label, value in zip(labels, values, strict=True)}


def _roc_auc(truth: np.ndarray, p: np.ndarray) -> float | None:
    return _share(roc_auc(truth, p)) if truth.any() and not truth.all() else None


def _average_precision(truth: np.ndarray, p: np.ndarray) -> float | None:
    return _share(average_precision(truth, p)) if truth.any() else None


def _share(figure: float) -> float:
    """A sum of shares, which rounding may have carried past 1."""
    return min(float(figure), 1.0)
