"""Confidence intervals of metrics, by the bootstrap: the test set is one sample of many.

The images are drawn again, with replacement, as many of each true class as there are (multilabel: in all),
because parts are drawn class by class as well. So an interval is about other images of the same classes, as frequent
as here. Two models that are asked with the same seed and the same truth are scored on the same draws, which makes the
differences of their figures paired.

- Shares of images (accuracy): Wilson's interval, which stays sensible where all are right or there are few.
- The calibration error: the basic (reflected) bootstrap. The error of a sample is above the true one, and that of a
  resample above the sample's, so percentiles would miss both.
- All others: percentiles.

Where images belong to groups (`fit.group`), groups are drawn, with replacement, as many as there are (the cluster
bootstrap; Field, Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x): images of one patient are no independent samples,
and an interval that takes them for such is too short. Then the accuracy's interval is of percentiles, too; where no
resample differs (all right, say) it is Wilson's for the number of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from kerasimg.evaluation.measures import LEAST, squared_errors
from kerasimg.evaluation.predictions import THRESHOLD, decide, two_columns
from kerasimg.evaluation.scores import BINS, RowFigures, row_figures
from kerasimg.spec.document import Task

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0

Interval = list[float] | None
"""[low, high], a list as in the JSON that it is written to."""
Method = Literal["wilson", "basic", "percentile"]

METHODS: dict[str, Method] = {"accuracy": "wilson", "subset_accuracy": "wilson", "calibration_error": "basic"}
"""Figure -> how its interval is found, where that is not by percentiles."""

_CHUNK = 2**17
"""Images times resamples that are drawn at once: what fits into a CPU's cache."""


def intervals(
    found: Mapping[str, Any],
    truth: ArrayLike,
    probabilities: ArrayLike,
    task: Task,
    thresholds: Sequence[float] | None = None,
    *,
    groups: np.ndarray | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Interval]:
    """The interval of each headline figure in `found`: [low, high], or None if resampling is not informative.

    found: what `scores` returned for the same truth, probabilities and thresholds.
    groups: (N,) the number of each image's group, see `kerasimg.data.groups`; None: each image by itself.
    level: share of such intervals that hold the true figure, in (0, 1), as far as the bootstrap is right.
    """
    drawn = resampled(truth, probabilities, task, thresholds, groups=groups, resamples=resamples, seed=seed)
    reach: dict[str, Interval] = {}
    for name, draws in drawn.items():
        if found.get(name) is None:
            continue
        method = METHODS.get(name, "percentile")
        if method == "wilson":
            counted = found["n"] if groups is None else len(np.unique(groups))
            if groups is None or np.ptp(draws) == 0:
                reach[name] = wilson(found[name], counted, level)
                continue
            method = "percentile"
        reach[name] = interval(draws, found[name], level, method)
    return reach


def described(
    names: Sequence[str],
    task: Task,
    *,
    groups: np.ndarray | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """How intervals were found, for metrics.json; `groups` is how many were drawn, where groups were."""
    methods = {name: METHODS.get(name, "percentile") for name in names}
    if groups is not None:
        methods = {name: "percentile" if method == "wilson" else method for name, method in methods.items()}
    return {
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "strata": "none" if task == "multilabel" or groups is not None else "true class",
        **({} if groups is None else {"groups": len(np.unique(groups))}),
        "method": methods,
    }


def wilson(share: float, n: int, level: float = LEVEL) -> list[float]:
    """The interval of a share of n images (Wilson 1927), within [0, 1]."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding may leave the share itself out where it is 0 or 1.
    return [float(min(max(0.0, middle - reach), share)), float(max(min(1.0, middle + reach), share))]


def interval(draws: np.ndarray, figure: float, level: float = LEVEL, method: Method = "percentile") -> Interval:
    """The interval of resampled metrics; None if all are equal or undefined.

    draws: (R,), NaN where a resample leaves the figure undefined.  figure: that of the sample.
    method: "percentile", or "basic" for a figure of 0 or more, which reflects the percentiles at it.
    """
    defined = draws[np.isfinite(draws)]
    if not len(defined) or np.ptp(defined) == 0:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    if method == "basic":
        low, high = max(0.0, 2 * figure - high), max(0.0, 2 * figure - low)
    return [float(low), float(high)]


def resampled(
    truth: ArrayLike,
    probabilities: ArrayLike,
    task: Task,
    thresholds: Sequence[float] | None = None,
    *,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, np.ndarray]:
    """Each headline figure on each of R resamples: name -> (R,) float64, NaN where it is undefined.

    truth, probabilities, thresholds: as in `scores`. The draws depend on the seed and the truth, or the groups, alone.
    """
    y = np.asarray(truth).astype(int)
    on_draws = _TASKS[task](y if task == "multilabel" else y.reshape(-1), np.asarray(probabilities), thresholds)
    draws = _draws(y, task, resamples, seed) if groups is None else _group_draws(groups, resamples, seed)
    chunks = [on_draws(counts) for counts in draws]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _draws(truth: np.ndarray, task: Task, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image was drawn: (N, r) float64, until there were R columns."""
    n = len(truth)
    strata = np.zeros(n, int) if task == "multilabel" else truth.reshape(-1)
    order = np.argsort(strata, kind="stable")
    _, first, size = np.unique(strata[order], return_index=True, return_counts=True)
    random = np.random.default_rng(seed)
    columns = max(1, _CHUNK // n)
    for start in range(0, resamples, columns):
        r = min(columns, resamples - start)
        places = np.concatenate([a + random.integers(k, size=(k, r)) for a, k in zip(first, size, strict=True)])
        flat = order[places] * r + np.arange(r)
        yield np.bincount(flat.reshape(-1), minlength=n * r).reshape(n, r).astype(np.float64)


def _group_draws(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image was drawn when whole groups are, until there were R columns: (N, r) float64."""
    names, numbers = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    columns = max(1, _CHUNK // len(groups))
    for start in range(0, resamples, columns):
        r = min(columns, resamples - start)
        chosen = random.integers(len(names), size=(len(names), r)) * r + np.arange(r)
        times = np.bincount(chosen.reshape(-1), minlength=len(names) * r).reshape(len(names), r)
        yield times[numbers].astype(np.float64)


Figures = dict[str, np.ndarray]
OnDraws = Callable[[np.ndarray], Figures]
"""Counts (N, r) of how often each image was drawn -> each figure, (r,)."""


def _multiclass(truth: np.ndarray, p: np.ndarray, thresholds: Sequence[float] | None) -> OnDraws:
    rows = row_figures(truth, p)
    return _of_one_class(truth, rows, rows.decision, p.shape[1])


def _binary(truth: np.ndarray, p: np.ndarray, thresholds: Sequence[float] | None) -> OnDraws:
    p = p.reshape(-1).astype(np.float64)
    decision, _ = decide(p, "binary", thresholds)
    shared = _of_one_class(truth, row_figures(truth, two_columns(p)), decision, 2)
    sums = np.stack([truth & decision, decision, truth]).astype(np.float64)
    ranks = _Ranks(truth, p)

    def figures(counts: np.ndarray) -> Figures:
        hits, said, true = sums @ counts
        roc_auc, average_precision = ranks.areas(counts)
        areas = {"roc_auc": roc_auc, "average_precision": average_precision}
        of_class = {"precision": _divided(hits, said), "recall": _divided(hits, true)}
        both = shared(counts)
        del both["macro_f1"]  # of two classes, the F1 of the positive one is reported
        return {**both, **of_class, "f1": _divided(2 * hits, said + true), **areas}

    return figures


def _of_one_class(truth: np.ndarray, of_rows: RowFigures, decision: np.ndarray, k: int) -> OnDraws:
    n = len(truth)
    everyone, right = np.arange(n), np.flatnonzero(truth == decision)
    loss = -np.log(np.maximum(of_rows.of_truth, LEAST))
    squares = of_rows.squared_error
    gaps = _gaps(of_rows.confidence, of_rows.decision == truth, everyone, n)
    rights, true, said = (
        csr_array((np.ones(len(rows)), (columns, rows)), shape=(k, n))
        for rows, columns in ((right, truth[right]), (everyone, truth), (everyone, decision))
    )

    def figures(counts: np.ndarray) -> Figures:
        hits, support, predicted = rights @ counts, true @ counts, said @ counts
        there, occurs = support > 0, support + predicted > 0
        total = counts.sum(axis=0)  # n, unless groups are drawn
        return {
            "accuracy": hits.sum(axis=0) / total,
            "balanced_accuracy": _divided(hits, support).sum(axis=0) / there.sum(axis=0),
            "macro_f1": _divided(2 * hits, support + predicted).sum(axis=0) / occurs.sum(axis=0),
            "log_loss": loss @ counts / total,
            "brier_score": squares @ counts / total,
            "calibration_error": np.abs(gaps @ counts).sum(axis=0) / total,
        }

    return figures


def _multilabel(truth: np.ndarray, p: np.ndarray, thresholds: Sequence[float] | None) -> OnDraws:
    p = p.astype(np.float64)
    n, k = p.shape
    decision, _ = decide(p, "multilabel", thresholds)
    right = decision == truth
    loss = -np.log(np.clip(np.where(truth == 1, p, 1 - p), LEAST, 1)).mean(axis=1)
    squares = squared_errors(truth, p)
    sure, likelier = np.maximum(p, 1 - p), (p > THRESHOLD) == truth
    gaps = _gaps(sure.reshape(-1), likelier.reshape(-1), np.repeat(np.arange(n), k), n)
    both, either = (csr_array((truth & decision).T.astype(float)), csr_array((truth + decision).T.astype(float)))
    ranks = [_Ranks(of_label, column) for of_label, column in zip(truth.T, p.T, strict=True)]

    def figures(counts: np.ndarray) -> Figures:
        hits, said = both @ counts, either @ counts
        areas = np.stack([rank.areas(counts)[1] for rank in ranks])
        defined = np.isfinite(areas)
        total = counts.sum(axis=0)
        return {
            "subset_accuracy": right.all(axis=1) @ counts / total,
            "hamming_loss": (~right).mean(axis=1) @ counts / total,
            "macro_f1": _divided(2 * hits, said).mean(axis=0),
            "micro_f1": _divided(2 * hits.sum(axis=0), said.sum(axis=0)),
            "mean_average_precision": _divided(np.where(defined, areas, 0).sum(axis=0), defined.sum(axis=0), np.nan),
            "log_loss": loss @ counts / total,
            "brier_score": squares @ counts / total,
            "calibration_error": np.abs(gaps @ counts).sum(axis=0) / (total * k),
        }

    return figures


_TASKS: dict[Task, Callable[[np.ndarray, np.ndarray, Sequence[float] | None], OnDraws]] = {
    "multiclass": _multiclass,
    "binary": _binary,
    "multilabel": _multilabel,
}


class _Ranks:
    """Areas under the curves of one class on resamples, from one sorting of the images.

    The images stand surest first, in steps: those of one probability, among them one of the class, are a step, and so
    are all others between two such. Within a step nothing is read off, so a rare class takes few steps.
    """

    def __init__(self, truth: np.ndarray, p: np.ndarray):
        self.order = np.argsort(-p, kind="stable")
        ordered, positive = p[self.order], truth[self.order] > 0
        ties = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        holds = np.logical_or.reduceat(positive, ties)
        self.steps = ties[holds | np.append(True, holds[:-1])]
        rows = np.flatnonzero(positive)
        step = np.searchsorted(self.steps, rows, side="right") - 1
        marks = (np.ones(len(rows), np.float32), (step, self.order[rows]))
        self.positive = csr_array(marks, shape=(len(self.steps), len(p)))

    def areas(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC AUC and average precision, (r,) each, NaN where a resample lacks the class or all others."""
        # Whole numbers below 2**24 are exact in float32, which is twice as fast.
        counts = counts.astype(np.float32)
        positive = self.positive @ counts
        drawn = np.add.reduceat(counts[self.order], self.steps, axis=0)
        above = np.cumsum(positive, axis=0)
        precision = above / np.maximum(np.cumsum(drawn, axis=0), 1)
        positives, negatives = above[-1].astype(np.float64), (drawn - positive).sum(axis=0, dtype=np.float64)
        pairs = ((above - positive / 2) * (drawn - positive)).sum(axis=0, dtype=np.float64)
        precision *= positive
        return (
            _divided(pairs, positives * negatives, np.nan),
            _divided(precision.sum(axis=0, dtype=np.float64), positives, np.nan),
        )


def _gaps(confidence: np.ndarray, right: np.ndarray, images: np.ndarray, n: int) -> Any:
    """(BINS, n): what each image adds to the gap of each bin of `reliability`."""
    where = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    return csr_array((right - confidence, (where, images)), shape=(BINS, n))


def _divided(a: np.ndarray, b: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """The quotient, `otherwise` where b is 0."""
    return np.where(b > 0, a / np.where(b > 0, b, 1), otherwise)
