"""Metrics with the values of scikit-learn's functions of the same names, in NumPy.

Loading `sklearn.metrics` costs 0.43 s of CPU after NumPy and SciPy (scikit-learn 1.9, 151 modules and pandas), more
than most evaluations take, so it is not imported. The conventions are scikit-learn's: a division by zero gives 0, ties
are one point of a curve. The tests compare each function with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEAST = float(np.finfo(np.float64).eps)
"""A smaller probability counts as this one in the log loss."""


class Counts(NamedTuple):
    """True positives, predictions and images of each class, (K,)."""

    right: np.ndarray
    decided: np.ndarray
    true: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Share of the predictions of a class that are correct."""
        return shares(self.right, self.decided)

    @property
    def recall(self) -> np.ndarray:
        """Share of the images of a class that are predicted as it."""
        return shares(self.right, self.true)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall."""
        return shares(2 * self.right, self.decided + self.true)

    def only(self, chosen: np.ndarray) -> Counts:
        """The counts of some of the classes."""
        return Counts(*(each[chosen] for each in self))

    def together(self) -> Counts:
        """The sum over all classes, for micro averages."""
        return Counts(*(each.sum(keepdims=True) for each in self))


def shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=np.asarray(whole) > 0)


def counts(truth: np.ndarray, decision: np.ndarray, classes: int) -> Counts:
    """truth, decision: (N,) numbers of classes, or (N, K) of 0 and 1, where any number of them holds."""
    if truth.ndim == 2:
        return Counts((truth * decision).sum(axis=0), decision.sum(axis=0), truth.sum(axis=0))
    right = np.bincount(truth[truth == decision], minlength=classes)
    return Counts(right, np.bincount(decision, minlength=classes), np.bincount(truth, minlength=classes))


def confusion_cells(truth: np.ndarray, decision: np.ndarray, classes: int) -> np.ndarray:
    """(M, 3) the cells of the confusion matrix that are not 0, row by row: truth, decision, count."""
    cells, n = np.unique(truth.astype(np.int64) * classes + decision, return_counts=True)
    return np.stack([*np.divmod(cells, classes), n], axis=1)


def confusion_matrix(cells: ArrayLike, classes: int) -> np.ndarray:
    """(K, K) counts, rows the truth, columns the decision, from `confusion_cells`."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    truth, decision, n = np.asarray(cells, dtype=np.int64).reshape(-1, 3).T
    matrix[truth, decision] = n
    return matrix


def log_loss(p: np.ndarray) -> float:
    """Mean of -ln p.  p: (N,) float64, the probability of what is true, each."""
    return float(-np.log(np.clip(p, LEAST, 1 - LEAST)).mean())


def most_likely_first(p: np.ndarray) -> np.ndarray:
    """Sorts classes by falling probability along the last axis; of equal ones the first comes first, as in argmax.

    Everything that lists or ranks classes uses this order, so that the first class of a list is the predicted one. The
    `TopK` metrics of Keras, which are computed while training, count a true class as a hit if its probability equals
    that of the k-th class; they differ from `top_k_accuracy` for equal probabilities only.
    """
    return np.argsort(-np.asarray(p), axis=-1, kind="stable")


def ranks(truth: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(N,) how many classes come before the true one in `most_likely_first`.

    truth: (N,).  p: (N, K).
    """
    of_true = p[np.arange(len(p)), truth][:, np.newaxis]
    before = (p == of_true) & (np.arange(p.shape[1]) < truth[:, np.newaxis])
    return np.asarray((p > of_true).sum(axis=1) + before.sum(axis=1))


def squared_errors(truth: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(N,) the Brier score of each image (Brier 1950), as scikit-learn's `brier_score_loss`.

    truth: (N,) class numbers, p: (N, K): the sum over the classes of (p - truth)**2, halved for two classes, so that it
    is that of the positive class. truth: (N, K) of 0 and 1, several labels: the mean over the labels.
    """
    if truth.ndim == 2:
        return np.asarray(((p - truth) ** 2).mean(axis=1))
    errors = np.einsum("ij,ij->i", p, p) - 2 * p[np.arange(len(p)), truth] + 1
    return np.asarray(np.maximum(errors, 0) * (0.5 if p.shape[1] == 2 else 1))


def roc_curve(truth: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, from none to all, without points on a line between their neighbours.

    truth: (N,) of 0 and 1, with both.  p: (N,).
    """
    false, true = _by_threshold(truth, p)
    if len(false) > 2:
        corner = np.logical_or(np.diff(false, 2), np.diff(true, 2))
        chosen = np.flatnonzero(np.concatenate([[True], corner, [True]]))
        false, true = false[chosen], true[chosen]
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def precision_recall_curve(truth: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, by rising threshold, and at last the point (1, 0).  truth: (N,) with a 1.  p: (N,)."""
    false, true = _by_threshold(truth, p)
    precision, recall = shares(true, true + false), true / true[-1]
    return np.append(precision[::-1], 1), np.append(recall[::-1], 0)


def roc_auc(truth: np.ndarray, p: np.ndarray) -> float:
    """The area under the ROC curve, by trapezia."""
    false, true = roc_curve(truth, p)
    return float(np.trapezoid(true, false) if hasattr(np, "trapezoid") else np.trapz(true, false))  # type: ignore[attr-defined]


def average_precision(truth: np.ndarray, p: np.ndarray) -> float:
    """The area under the precision-recall curve, by steps."""
    precision, recall = precision_recall_curve(truth, p)
    return max(0.0, float(-(np.diff(recall) * precision[:-1]).sum()))


def _by_threshold(truth: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positives at each threshold that p has, the highest first."""
    order = np.argsort(p, kind="stable")[::-1]
    p, truth = p[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    true = np.cumsum(truth, dtype=np.float64)[last]
    return 1 + last - true, true
