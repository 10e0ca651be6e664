"""KerasTuner's oracles, which choose what is tried: random search, grid search, Bayesian optimisation, hyperband."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras_tuner import oracles
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kerasimg.spec.document import Tune
from kerasimg.tuning.administration import WORKED, Administration
from kerasimg.tuning.objective import Goal
from kerasimg.tuning.records import Ended, Order
from kerasimg.tuning.space import Key, Space

BETA = 1.0
"""Deviations below the mean at which the bound lies; KerasTuner's 2.6 explores longer than searches last."""
ANYWHERE, NEAR, BEST, SPREAD = 2000, 1000, 5, 0.1
"""Points at which Bayesian search looks: anywhere; near the best trials so far, of these so many, within so much."""


class RandomOracle(Administration, oracles.RandomSearchOracle):
    """Random search."""

    foresees = True


class GridOracle(Administration, oracles.GridSearchOracle):
    """Every combination; of a range without steps ten values."""

    draws_anew = False

    def _close(self, trial: str, ended: Ended, when: float) -> None:
        super()._close(trial, ended, when)
        self._populate_next.append(trial)


class BayesianOracle(Administration, oracles.BayesianOptimizationOracle):
    """Gaussian process and upper confidence bound, after some random trials; nothing is tried twice.

    KerasTuner's process takes all values to matter alike and figures to be exact, and misses most of what there is to
    gain; here each value has a length scale, and there is noise. Where the bound is lowest is looked for among many
    points at once: KerasTuner's 50 descents take seconds, as long as a small trial.
    """

    def __init__(self, space: Space, goal: Goal, tune: Tune, epochs: int, **how: Any) -> None:
        at_random = max(3, min(3 * len(space.dimensions), tune.max_trials // 3))
        super().__init__(space, goal, tune, epochs, num_initial_points=at_random, beta=BETA, **how)

    def _make_gpr(self) -> Any:
        from sklearn.gaussian_process.kernels import Matern, WhiteKernel

        made = super()._make_gpr()
        scales = [1.0] * len(self.hyperparameters.space)
        made.kernel = Matern(scales, (0.05, 20), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1))
        made.n_restarts_optimizer = 1
        return made

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial."""
        if sum(trial.status == WORKED for trial in self.trials.values()) < self.num_initial_points:
            return dict(self._random_populate_space())
        with warnings.catch_warnings(), threadpool_limits(1):  # for matrices so small, threads cost more than they do
            warnings.simplefilter("ignore")  # that a length scale is at its bound, of a value that changes nothing
            return self._populate_by_process()

    def _populate_by_process(self) -> dict[str, Any]:
        x, y = self._vectorize_trials()
        self.gpr.fit(x, y)
        near = x[np.argsort(y)[:BEST]].repeat(NEAR // BEST, axis=0)
        near = np.clip(near + self._random_state.normal(0, SPREAD, near.shape), 0, 1 - 1e-9)
        points = np.concatenate([self._random_state.uniform(size=(ANYWHERE, x.shape[1])), near])
        for point in points[np.argsort(self._bound(points), kind="stable")]:
            values: dict[str, Key] = self._vector_to_values(point)
            if not self._duplicate(values):
                return {"status": "RUNNING", "values": values}
        return dict(self._random_populate_space())

    def _bound(self, points: np.ndarray) -> np.ndarray:
        mean, deviation = self.gpr.predict(points, return_std=True)
        return np.asarray(mean - self.beta * deviation)


class HyperbandOracle(Administration, oracles.HyperbandOracle):
    """Hyperband (Li et al. 2018, arXiv:1603.06560), sweep after sweep until `max_trials` are used up."""

    draws_anew = False

    def __init__(self, space: Space, goal: Goal, tune: Tune, epochs: int, **how: Any) -> None:
        super().__init__(space, goal, tune, epochs, max_epochs=epochs, hyperband_iterations=None, **how)
        self.max_trials = None
        self._fit_bracket()
        self._brackets: list[dict[str, Any]] = []
        self._start_new_bracket()

    def _increment_bracket_num(self) -> None:
        super()._increment_bracket_num()
        self._fit_bracket()

    def _fit_bracket(self) -> None:
        """Go on to a bracket for which there are trials enough: one that is cut short promotes none."""
        left = self.tune.max_trials - len(self.trials)
        while self._current_bracket > 0 and self._trials_of(self._current_bracket) > left:
            self._current_bracket -= 1

    def _trials_of(self, bracket: int) -> int:
        return sum(self._get_size(bracket, number) for number in range(self._get_num_rounds(bracket)))

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        """As KerasTuner's, but not more than a small space has: a bracket that cannot be filled would never go on."""
        size: int = super()._get_size(bracket_num, round_num)
        return min(size, math.ceil((self.space.size or math.inf) / self.factor**round_num)) if self.space.size else size

    def _duplicate(self, values: Mapping[str, Key]) -> bool:
        """Whether the values were tried in this bracket already; another bracket trains them for longer."""
        in_bracket = {info["id"] for info in self._brackets[-1]["rounds"][0]}
        own = {one.name: values[one.name] for one in self.space.dimensions if one.name in values}
        there = (self.trials[trial].hyperparameters.values for trial in in_bracket if trial in self.trials)
        return any({name: keys.get(name) for name in own} == own for keys in there)

    def _order(self, trial: str, keys: Mapping[str, Any]) -> Order:
        last = int(keys["tuner/epochs"])
        first = int(keys["tuner/initial_epoch"])
        before = keys.get("tuner/trial_id")
        return Order(trial, self.space.values(keys), last, first, before, keep_state=last < self.epochs)


ORACLES: Mapping[str, type[Administration]] = {
    "random": RandomOracle,
    "grid": GridOracle,
    "bayesian": BayesianOracle,
    "hyperband": HyperbandOracle,
}


def make_oracle(space: Space, goal: Goal, tune: Tune, epochs: int) -> Any:
    """The oracle that a spec's `tune` asks for."""
    return ORACLES[tune.tuner](space, goal, tune, epochs)
