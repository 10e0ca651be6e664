"""When a trial that does badly is ended before its time.

Both rules look at what other trials had reached at the same epoch; they know neither models nor the search strategy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

from kerasimg.tuning.objective import Goal

Rule = Literal["median", "halving"]
Curve = Sequence[float]
"""The objective after each epoch."""

FACTOR = 3
"""Of successive halving: one trial in so many goes on, with so many times the epochs."""
ENOUGH = 5
"""Trials to compare with before the median rule ends any."""


def ends(rule: Rule, goal: Goal, curve: Curve, others: Mapping[str, Curve], epochs: int) -> bool:
    """Whether a trial should end after the last epoch of its curve.

    others: the curves of the trials that were trained to their end or ended by the rule, by name.  epochs: those that
    a trial has at most.
    """
    if len(curve) >= epochs:
        return False
    return RULES[rule](goal, curve, list(others.values()), epochs)


def below_median(goal: Goal, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
    """Whether the best so far is worse than the median of the others' running averages up to this epoch.

    Golovin et al. 2017, Google Vizier, 3.2.2 (doi:10.1145/3097983.3098043).
    """
    reached = [sum(other[: len(curve)]) / len(curve) for other in others if len(other) >= len(curve)]
    if len(reached) < ENOUGH:
        return False
    return goal.better(median(reached), _best(goal, curve))


def halved(goal: Goal, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
    """Whether a rung is reached, and the trial is not in the best third of those that reached it.

    Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), in which trials are ended rather than paused.
    """
    if len(curve) not in rungs(epochs):
        return False
    own = _best(goal, curve)
    reached = [_best(goal, other[: len(curve)]) for other in others if len(other) >= len(curve)]
    places = (len(reached) + 1) // FACTOR
    return len(reached) + 1 >= FACTOR and sum(goal.better(other, own) for other in reached) >= places


def rungs(epochs: int) -> list[int]:
    """The epochs after which successive halving decides: a third of all, a ninth, and so on, as far as there are."""
    found = []
    while (epochs := math.ceil(epochs / FACTOR)) > 1:
        found.append(epochs)
    return sorted({*found, 1})


def _best(goal: Goal, curve: Curve) -> float:
    return (min if goal.direction == "min" else max)(curve)


RULES = {"median": below_median, "halving": halved}
