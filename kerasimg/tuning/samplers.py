"""Samplers: the search algorithms that choose the values of each trial. One class defines everything about each.

They are KerasTuner's oracles behind `Sampler`, which hands out and records the trials. To add one: a class here, or in
a package of your own a class that the entry point group `kerasimg.samplers` names: see docs/extending.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from inspect import isclass
from typing import Any, ClassVar

import keras_tuner
import numpy as np
from keras_tuner import oracles
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kerasimg.errors import CallError, listed, nearest
from kerasimg.keras_internals import BayesianHooks, GridHooks, HyperbandHooks
from kerasimg.spec.document import SAMPLERS as GROUP
from kerasimg.spec.document import Tune
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.ask_tell import WORKED, Administration
from kerasimg.tuning.front import scalarized
from kerasimg.tuning.journal import Ended, Order
from kerasimg.tuning.space import Key, Space

BETA = 1.0
"""Standard deviations of the confidence bound; with KerasTuner's 2.6, a search of usual length only explores."""
ANYWHERE, NEAR, BEST, SPREAD = 2000, 1000, 5, 0.1
"""Candidates of Bayesian search: random points, and points near the BEST trials so far, with this deviation."""


class Sampler(Administration):
    """A search algorithm, listed before an oracle of KerasTuner in the bases.

    The oracle's `populate_space(trial_id)` returns `{"status": "RUNNING", "values": {name: value}}`; "STOPPED" if there
    is nothing left to try, "IDLE" if a running trial must end first. It draws from `self.random_state`, which is seeded
    by the search's seed and the number of the trial, so that a search that was killed continues as it would have.
    `PointSampler` is a simpler base.
    """

    name: ClassVar[str]
    """The value of `tune.tuner`."""
    about: ClassVar[str]
    """One line for the docs."""


class PointSampler(Sampler, keras_tuner.Oracle):
    """A search algorithm that chooses points of the unit cube, one coordinate per search value.

    Example:
        class Halton(PointSampler):
            name, about = "halton", "the points of a Halton sequence"

            def point(self, trial):
                return scipy.stats.qmc.Halton(len(self.space.dimensions), seed=self.tune.seed).random(trial)[-1]
    """

    def point(self, trial: int) -> Sequence[float] | None:
        """Returns the coordinates in [0, 1) for a trial, numbered from 1; None if nothing is left to try.

        Trial 1 has the defaults of the spec, so the first call is for trial 2. `self.trials` holds the trials so far,
        with `hyperparameters.values` and `score`; `self.space.dimensions` the search values.
        """
        raise NotImplementedError

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of the next trial."""
        if (first := self.first_keys()) is not None:
            return {"status": "RUNNING", "values": first}
        point = self.point(int(trial_id))
        if point is None:
            return {"status": "STOPPED"}
        made = self.hyperparameters.copy()
        made.values = {}
        for parameter, coordinate in zip(made.space, point, strict=True):
            if made.is_active(parameter):
                made.values[parameter.name] = parameter.prob_to_value(float(coordinate))
        return {"status": "RUNNING", "values": made.values}


class RandomSampler(Sampler, oracles.RandomSearchOracle):
    """Random search."""

    name, about = "random", "independent random values"
    knows_next = True


class GridSampler(Sampler, GridHooks, oracles.GridSearchOracle):
    """Every combination, with ten values of a range without steps."""

    name, about = "grid", "every combination; ten values of a range without steps"
    is_stateless = False
    takes_warm_start = False

    def _close(self, trial: str, ended: Ended, when: float) -> None:
        super()._close(trial, ended, when)
        self.note_ended(trial)


class BayesianSampler(Sampler, BayesianHooks, oracles.BayesianOptimizationOracle):
    """Gaussian process with an upper confidence bound, after some random trials; no values are tried twice.

    KerasTuner's process has one length scale for all values and no noise, and finds little. Here each value has its own
    length scale, and scores have noise. The bound is evaluated at many points at once: KerasTuner's 50 descents take
    seconds, as long as a small trial.
    """

    name, about = "bayesian", "a Gaussian process with an upper confidence bound, after some random trials"

    def __init__(self, space: Space, goal: Goal, tune: Tune, epochs: int, **options: Any) -> None:
        at_random = max(3, min(3 * len(space.dimensions), tune.most_trials // 3))
        super().__init__(space, goal, tune, epochs, num_initial_points=at_random, beta=BETA, **options)

    def make_process(self, made: Any) -> Any:
        """Returns KerasTuner's process, with a length scale per value, and noise."""
        from sklearn.gaussian_process.kernels import Matern, WhiteKernel

        scales = [1.0] * len(self.hyperparameters.space)
        made.kernel = Matern(scales, (0.05, 20), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1))
        made.n_restarts_optimizer = 1
        return made

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of the next trial."""
        worked = sum(trial.status == WORKED for trial in self.trials.values())
        if len(self.trials) <= len(self.warm) or worked < self.num_initial_points:
            return self.first_values()
        with warnings.catch_warnings(), threadpool_limits(1):  # such small matrices are slower with threads
            warnings.simplefilter("ignore")  # a value without effect has a length scale at its bound
            return self._populate_by_process()

    def _populate_by_process(self) -> dict[str, Any]:
        with self._one_score():
            x, y = self.vectors()
        self.gpr.fit(x, y)
        near = x[np.argsort(y)[:BEST]].repeat(NEAR // BEST, axis=0)
        near = np.clip(near + self.random_state.normal(0, SPREAD, near.shape), 0, 1 - 1e-9)
        points = np.concatenate([self.random_state.uniform(size=(ANYWHERE, x.shape[1])), near])
        for point in points[np.argsort(self._bound(points), kind="stable")]:
            values: dict[str, Key] = self.values_at(point)
            if not self.was_tried(values):
                return {"status": "RUNNING", "values": values}
        return self.first_values()

    @contextmanager
    def _one_score(self) -> Iterator[None]:
        """Give trials one score for all objectives while the block runs, with other random weights for each trial."""
        worked = [name for name, trial in self.trials.items() if trial.score is not None]
        if len(self.goals) == 1:
            yield
            return
        scores = {name: self.trials[name].score for name in worked}
        weights = self.random_state.dirichlet(np.ones(len(self.goals)))
        combined = scalarized(self.goals, [self.figures(name) for name in worked], weights)
        for name, value in zip(worked, combined, strict=True):
            self.trials[name].score = float(value if self.goal.direction == "min" else -value)
        try:
            yield
        finally:
            for name, score in scores.items():
                self.trials[name].score = score

    def _bound(self, points: np.ndarray) -> np.ndarray:
        mean, deviation = self.gpr.predict(points, return_std=True)
        return np.asarray(mean - self.beta * deviation)


class HyperbandSampler(Sampler, HyperbandHooks, oracles.HyperbandOracle):
    """Hyperband (Li et al. 2018, arXiv:1603.06560), repeated until `max_trials` is reached."""

    name, about = "hyperband", "many short trials, of which the best continue; repeated until `max_trials` is reached"
    is_stateless = False

    def __init__(self, space: Space, goal: Goal, tune: Tune, epochs: int, **options: Any) -> None:
        super().__init__(space, goal, tune, epochs, max_epochs=epochs, hyperband_iterations=None, **options)
        self.max_trials = None
        self._fit_bracket()
        self.begin_brackets()

    def after_bracket(self) -> None:
        """Skip brackets that are too large for the remaining trials."""
        self._fit_bracket()

    def _fit_bracket(self) -> None:
        """Continue with a bracket for which there are enough trials: an incomplete one promotes none."""
        left = self.tune.most_trials - len(self.trials)
        while self.bracket > 0 and sum(self.sizes(self.bracket)) > left:
            self.bracket -= 1

    def round_size(self, size: int, round_number: int) -> int:
        """Returns KerasTuner's size, limited for a small space: a bracket that cannot be filled never advances."""
        return min(size, math.ceil(self.space.size / self.factor**round_number)) if self.space.size else size

    def is_duplicate(self, values: Mapping[str, Key]) -> bool:
        """Whether the values were already tried in this bracket; another bracket trains them longer."""
        in_bracket = self.first_round()
        active = {item.name: values[item.name] for item in self.space.dimensions if item.name in values}
        earlier = (self.trials[trial].hyperparameters.values for trial in in_bracket if trial in self.trials)
        return any({name: keys.get(name) for name in active} == active for keys in earlier)

    def _order(self, trial: str, keys: Mapping[str, Any]) -> Order:
        last = int(keys["tuner/epochs"])
        first = int(keys["tuner/initial_epoch"])
        before = keys.get("tuner/trial_id")
        return Order(trial, self.space.values(keys), last, first, before, keep_state=last < self.epochs)


SAMPLERS: Mapping[str, type[Sampler]] = {
    cls.name: cls for cls in (RandomSampler, GridSampler, BayesianSampler, HyperbandSampler)
}
"""The samplers of kerasimg, by name."""


def make_sampler(
    space: Space,
    goal: Goal,
    tune: Tune,
    epochs: int,
    *,
    others: Sequence[Goal] = (),
    warm: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """Returns the sampler for the `tune` section of a spec.

    others: the objectives after the first.  warm: values for the first trials, of earlier searches.

    Raises:
        CallError: if there is none of that name, the package that adds it cannot be loaded, or it takes no warm start.
    """
    cls = _sampler_class(tune.tuner)
    if warm and not cls.takes_warm_start:
        raise CallError(f"warm_start: {tune.tuner} search tries its values in a fixed order; use random or bayesian")
    sampler = cls(space, goal, tune, epochs)
    sampler.goals, sampler.warm = (goal, *others), tuple(warm)
    return sampler


def _sampler_class(name: str) -> type[Sampler]:
    if name in SAMPLERS:
        return SAMPLERS[name]
    for point in entry_points(group=GROUP, name=name):
        try:
            cls = point.load()
        except Exception as error:
            raise CallError(f"sampler '{name}': {point.value} cannot be loaded: {error}") from error
        if not (isclass(cls) and issubclass(cls, Sampler)):
            raise CallError(f"sampler '{name}': {point.value} is not a subclass of {__name__}.Sampler")
        return cls
    names = [*SAMPLERS, *(point.name for point in entry_points(group=GROUP))]
    raise CallError(f"no sampler '{name}'{nearest(name, names)} (samplers: {listed(names)})")
