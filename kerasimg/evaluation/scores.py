"""All evaluation metrics of a classifier, as plain numbers for JSON, with scikit-learn's definitions.

Precision, recall, F1, areas and other shares are in [0, 1]; a metric that is undefined for the data is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.errors import KerasimgError
from kerasimg.evaluation.measures import (
    Counts,
    average_precision,
    confusion_cells,
    confusion_matrix,
    counts,
    log_loss,
    ranks,
    roc_auc,
    squared_errors,
)
from kerasimg.evaluation.predictions import MANY_CLASSES, THRESHOLD, decide, two_columns
from kerasimg.spec.document import Task

BINS = 15
"""Bins of the reliability diagram, as in the paper."""

TOP_K = (2, 3, 5, 10)
"""Top-k accuracy is computed for each k that is less than the number of classes."""

AREAS = 2**23
"""Largest number of images times classes for which areas under curves are computed, which takes about ten seconds."""

MOST_CONFUSED = 20
"""Pairs of classes that are listed."""

DRAWN_CLASSES = 1000
"""A confusion matrix of up to this many classes is drawn."""

_CHUNK = 2**22
"""Number of probabilities that are held as float64 at once."""

Scores = dict[str, Any]


def scores(
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
) -> Scores:
    """Computes the metrics of N predictions, N >= 1, over K classes.

    truth: (N,) class numbers; multilabel: (N, K) of 0 and 1.
    probabilities: (N, K) in [0, 1], multiclass rows sum to about 1; binary: (N, 1) or (N,), of the second
        class.
    classes: K different names, 2 for binary.
    thresholds: see `decide`.

    Returns the metrics, then `per_class`, `calibration`, and except for multilabel `confusion` (rows are the truth,
    columns the prediction, both in the order of `classes`) and `most_confused`. Above `MANY_CLASSES` classes,
    `confusion_cells` replaces `confusion`: [truth, prediction, count] of each cell that is not 0. As in scikit-learn,
    macro averages are over the classes that occur in the truth or in the predictions (multilabel: all), balanced
    accuracy over those in the truth; a division by zero gives 0. The areas of a class are those of one against the
    rest, None where images times classes exceed `AREAS`.
    """
    p = np.asarray(probabilities)
    if not np.isfinite(p.sum(dtype=np.float64)):
        raise KerasimgError("the model predicts NaN or infinity, so its training diverged; try a lower learning_rate")
    figures = _TASKS[task](np.asarray(truth).astype(int), p, list(classes), thresholds)
    return {"task": task, "n": len(p), "classes": list(classes), **figures}


Thresholds = Sequence[float] | None


def _multiclass(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    rows = row_figures(truth, p)
    found = counts(truth, rows.decision, len(classes))
    occurring = found.only(np.flatnonzero(found.true + found.decided))
    return {
        **_accuracies(truth, rows.decision, found),
        **_top_k(rows.rank, len(classes)),
        **_averaged("macro", occurring),
        **_averaged("weighted", occurring, occurring.true),
        **_details(truth, rows, rows.decision, classes, to_one(p) if p.size <= AREAS else None),
    }


def _binary(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    truth, p = truth.reshape(-1), p.reshape(-1).astype(np.float64)
    decision, _ = decide(p, "binary", thresholds)
    both = two_columns(p)
    details = _details(truth, row_figures(truth, both), decision, classes, both if both.size <= AREAS else None)
    positive = details["per_class"][classes[1]]
    return {
        "positive": classes[1],
        "thresholds": _thresholds(classes[1:], thresholds),
        **_accuracies(truth, decision, counts(truth, decision, 2)),
        **{name: positive[name] for name in ("precision", "recall", "f1", "roc_auc", "average_precision")},
        **details,
    }


def _multilabel(truth: np.ndarray, p: np.ndarray, classes: list[str], thresholds: Thresholds) -> Scores:
    p = p.astype(np.float64)
    decision, _ = decide(p, "multilabel", thresholds)
    found = counts(truth, decision.astype(int), len(classes))
    per_class = _per_class(found, classes, truth.T, p.T if p.size <= AREAS else None)
    areas = [row["average_precision"] for row in per_class.values()]
    defined = [area for area in areas if area is not None]
    # Each label of each image is a decision between two classes, whatever its threshold is.
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
    """(N, K) float64 with rows that sum to 1: those of float32 do not exactly, and the log loss wants them to."""
    p = p.astype(np.float64)
    return p / p.sum(axis=1, keepdims=True)


class RowFigures(NamedTuple):
    """What the metrics need of each image, (N,) each, so that none holds all probabilities as float64."""

    decision: np.ndarray
    """The most likely class."""
    confidence: np.ndarray
    """Its probability."""
    of_truth: np.ndarray
    """The probability of the true class."""
    rank: np.ndarray
    """How many classes come before the true one."""
    squared_error: np.ndarray
    """As `squared_errors`."""


def row_figures(truth: np.ndarray, p: np.ndarray) -> RowFigures:
    """The figures of each image, a block of rows after the other.

    truth: (N,) class numbers.  p: (N, K), rows sum to about 1.
    """
    rows = max(1, _CHUNK // p.shape[1])
    blocks = [
        _row_figures(truth[start : start + rows], to_one(p[start : start + rows])) for start in range(0, len(p), rows)
    ]
    return RowFigures(*(np.concatenate(each) for each in zip(*blocks, strict=True)))


def _row_figures(truth: np.ndarray, p: np.ndarray) -> RowFigures:
    decision, confidence = decide(p, "multiclass")
    of_truth = p[np.arange(len(p)), truth]
    return RowFigures(decision, confidence, of_truth, ranks(truth, p), squared_errors(truth, p))


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


def _top_k(rank: np.ndarray, classes: int) -> Scores:
    found = {str(k): float((rank < k).mean()) for k in TOP_K if k < classes}
    return {**({"top_5_accuracy": found["5"]} if "5" in found else {}), "top_k_accuracy": found}


def _averaged(average: str, found: Counts, weights: np.ndarray | None = None) -> Scores:
    figures = {"precision": found.precision, "recall": found.recall, "f1": found.f1}
    return {f"{average}_{name}": float(np.average(each, weights=weights)) for name, each in figures.items()}


def _details(
    truth: np.ndarray, rows: RowFigures, decision: np.ndarray, classes: list[str], p: np.ndarray | None
) -> Scores:
    """What multiclass and binary share.  p: (N, K), rows sum to 1; None: no areas.  `log_loss` is in nats."""
    # Of the most likely class, whatever the threshold is: these figures are about the probabilities.
    error, bins = reliability(rows.confidence, rows.decision == truth)
    cells = confusion_cells(truth, decision, len(classes))
    hot = (truth == column for column in range(len(classes)))
    if len(classes) <= MANY_CLASSES:
        confusion = {"confusion": confusion_matrix(cells, len(classes)).tolist()}
    else:
        confusion = {"confusion_cells": cells.tolist()}
    return {
        "log_loss": log_loss(rows.of_truth),
        "brier_score": float(rows.squared_error.mean()),
        "calibration_error": error,
        "per_class": _per_class(counts(truth, decision, len(classes)), classes, hot, None if p is None else p.T),
        "calibration": bins,
        "most_confused": most_confused(cells, classes),
        **confusion,
    }


def most_confused(cells: np.ndarray, classes: Sequence[str], limit: int = MOST_CONFUSED) -> list[Scores]:
    """The pairs of classes that are confused most, most images first; `share` is of the images of the true class.

    cells: as `confusion_cells` returns them.
    """
    truth, decision, n = cells.T
    images = np.bincount(truth, weights=n, minlength=len(classes))
    wrong = np.flatnonzero(truth != decision)
    most = wrong[np.argsort(-n[wrong], kind="stable")][:limit]
    return [
        {"truth": classes[i], "prediction": classes[j], "n": int(count), "share": float(count / images[i])}
        for i, j, count in cells[most]
    ]


def drawn_confusion(found: Mapping[str, Any]) -> np.ndarray | None:
    """(K, K) the confusion matrix of scores; None where they have none, or of more than `DRAWN_CLASSES` classes."""
    if "confusion" in found:
        return np.asarray(found["confusion"])
    if "confusion_cells" not in found or len(found["classes"]) > DRAWN_CLASSES:
        return None
    return confusion_matrix(found["confusion_cells"], len(found["classes"]))


def _per_class(
    found: Counts, classes: list[str], columns: Iterable[np.ndarray], p: np.ndarray | None
) -> dict[str, Scores]:
    """columns, p: for each class whether an image is of it, and its probability, (N,) each; None: no areas."""
    probabilities: Iterable[Any] = [None] * len(classes) if p is None else p
    return {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
            "roc_auc": None if probability is None else _roc_auc(of_class, probability),
            "average_precision": None if probability is None else _average_precision(of_class, probability),
        }
        for name, precision, recall, f1, support, of_class, probability in zip(
            classes, found.precision, found.recall, found.f1, found.true, columns, probabilities, strict=True
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
