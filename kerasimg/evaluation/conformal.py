"""Split conformal prediction: from probabilities to sets of classes with a stated coverage, in NumPy alone.

The sets of `choose_rule` hold the true class of at least the stated share of images, on average over choices of the
images that the rule was chosen on (Vovk et al. 2005). No score draws at random, so a deployed model gives the same set
for the same image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.evaluation.measures import most_likely_first
from kerasimg.evaluation.predictions import two_columns
from kerasimg.spec.pack import SetRule

PENALTY, FREE = 0.01, 5
"""Of RAPS: each class after the first FREE adds the penalty; the values of the paper for ImageNet."""


def choose_rule(
    truth: ArrayLike, probabilities: ArrayLike, coverage: float, method: str = "lac", per_class: bool = False
) -> SetRule:
    """The rule whose sets hold the true class at a rate of at least `coverage`.

    Args:
        truth: (N,) class numbers.
        probabilities: (N, K).
        coverage: between 0 and 1.
        method: as for `prediction_sets`.
        per_class: a limit for each class, from its own images.
    """
    y, p = np.asarray(truth), np.asarray(probabilities)
    own = SCORES[method](p)[np.arange(len(y)), y]
    groups = [own[y == k] for k in range(p.shape[1])] if per_class else [own]
    everything = 1 + PENALTY * p.shape[1]
    limits = [_limit(group, coverage, everything) for group in groups]
    return SetRule(method=method, coverage=coverage, limits=limits)  # type: ignore[arg-type]


def set_members(probabilities: ArrayLike, rule: SetRule) -> np.ndarray:
    """(N, K) bool: which classes are in the set of each image.  probabilities: (N, K), or (N, 1) for a binary task."""
    p = class_columns(np.asarray(probabilities))
    members = np.asarray(SCORES[rule.method](p) <= np.asarray(rule.limits))
    members[np.arange(len(p)), p.argmax(axis=1)] = True
    return members


def name_sets(probabilities: np.ndarray, rule: SetRule, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of the classes in the set of each image, the most likely first.  Arguments as for `set_members`."""
    order, members = most_likely_first(class_columns(probabilities)), set_members(probabilities, rule)
    return [tuple(classes[k] for k in ranked if row[k]) for ranked, row in zip(order, members, strict=True)]


def are_known(p_values: ArrayLike, share: float) -> np.ndarray:
    """(N,) bool: which images are like the training images.

    share: the largest share of images like them that is flagged as unknown.
    """
    # Of n images that set the limit, p-values are multiples of 1 / (n + 1), in float32.
    return np.asarray(np.asarray(p_values, np.float64) > share + 1e-6)


def _lac(p: np.ndarray) -> np.ndarray:
    return 1 - p.astype(np.float64)


def _aps(p: np.ndarray) -> np.ndarray:
    """The probability of a class and of all that are more likely."""
    order = most_likely_first(p)
    sums = np.cumsum(np.take_along_axis(p.astype(np.float64), order, axis=1), axis=1)
    scores = np.empty_like(sums)
    np.put_along_axis(scores, order, sums, axis=1)
    return scores


def _raps(p: np.ndarray) -> np.ndarray:
    places = np.empty(p.shape, dtype=np.int64)
    np.put_along_axis(places, most_likely_first(p), np.arange(1, p.shape[1] + 1)[np.newaxis], axis=1)
    return _aps(p) + PENALTY * np.maximum(0, places - FREE)


SCORES: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {"lac": _lac, "aps": _aps, "raps": _raps}
"""Method -> (N, K) scores of probabilities; the set holds the classes with a score of at most the limit."""


def class_columns(p: np.ndarray) -> np.ndarray:
    """(N, K) probabilities as they are; (N,) or (N, 1), of the second of two classes, as (N, 2)."""
    return two_columns(p) if p.ndim == 1 or p.shape[1] == 1 else p


def _limit(scores: np.ndarray, coverage: float, everything: float) -> float:
    """The limit of these scores; with too few of them, one that keeps every class."""
    k = limit_rank(len(scores), coverage)
    return everything if k > len(scores) else float(np.sort(scores)[k - 1])


def limit_rank(n: int, coverage: float) -> int:
    """Which of n sorted scores is the limit, from 1: ceil((n + 1) coverage); above n, there are too few."""
    # Rounded, as 20 * 0.95 is 19.000000000000004 for some floats.
    return math.ceil(round((n + 1) * coverage, 9))
