"""The Pareto front of a search over several objectives: the trials that no other trial beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kerasimg.spec.metrics import Goal

SLOPE = 0.05
"""Weight of the sum in the augmented Tchebycheff function; above 0, so that no dominated trial is chosen."""
RATIOS = ("latency_ms", "bytes")
"""Figures of which a ratio counts, and not a difference."""


def dominates(goals: Sequence[Goal], one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether a trial is at least as good as another in every figure, and better in one."""
    better = any(goal.better(one[goal.figure], other[goal.figure]) for goal in goals)
    return better and not any(goal.better(other[goal.figure], one[goal.figure]) for goal in goals)


def front(goals: Sequence[Goal], trials: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the names of the trials that none dominates, the best in the first objective first.

    Of trials with equal figures the first is taken.  trials: name -> figures, with every objective.
    """
    chosen: list[str] = []
    for name in trials:
        equal = any(all(trials[other][goal.figure] == trials[name][goal.figure] for goal in goals) for other in chosen)
        if not equal and not any(dominates(goals, other, trials[name]) for other in trials.values()):
            chosen.append(name)
    first = goals[0]
    sign = -1.0 if first.direction == "max" else 1.0
    return sorted(chosen, key=lambda name: (sign * trials[name][first.figure], name))


def scalarized(goals: Sequence[Goal], rows: Sequence[Mapping[str, float]], weights: Sequence[float]) -> np.ndarray:
    """Returns one number per trial, the lower the better: the augmented Tchebycheff function of ParEGO.

    Knowles 2006, doi:10.1109/TEVC.2005.851274. Each figure is scaled to [0, 1] over the trials, latency and bytes by
    their logarithm.  weights: one per goal, with the sum 1.
    """
    columns = []
    for goal in goals:
        values = np.array([row[goal.figure] for row in rows], float)
        if goal.figure in RATIOS:
            values = np.log(np.maximum(values, math.ulp(1.0)))
        values = values if goal.direction == "min" else -values
        columns.append((values - values.min()) / (np.ptp(values) or 1.0))
    weighted = np.stack(columns, axis=1) * np.asarray(weights)
    return np.asarray(weighted.max(axis=1) + SLOPE * weighted.sum(axis=1))
