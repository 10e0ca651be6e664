"""`kerasimg.find_learning_rate`: suggests a learning rate for a spec by a learning rate range test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.callbacks import LearningRateFinder
from kerasimg.catalog import Reference, merged_params
from kerasimg.data.cache import CacheKind
from kerasimg.data.readable import OnBadImage
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, KerasimgError, counted
from kerasimg.figures import rate_figure, save_figure
from kerasimg.log import Verbose
from kerasimg.models.weights import Weights
from kerasimg.results import Result
from kerasimg.training.engine import KerasFit, adapt_layers, compile_model, running, sweep_optimizer
from kerasimg.training.prepare import prepare

SPAN = 0.1
"""Share of the rates through which a line is fitted, whose slope is that of the loss."""
FEWEST = 10
"""Least number of steps of a sweep."""


@dataclass(frozen=True, repr=False)
class RateSweep(Result):
    """The loss at each learning rate, and the suggested rate."""

    rates: tuple[float, ...]
    """The rate of each step, increasing by a constant factor."""
    losses: tuple[float, ...]
    """The smoothed loss before each step."""
    suggestion: float
    """The rate at which the loss falls fastest."""
    lowest: float
    """The rate with the lowest loss; above it, training diverges."""

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss over rate, with the suggestion, into an image file."""
        save_figure(rate_figure(self.rates, self.losses, self.suggestion, self.lowest), path, dpi=120)

    def __str__(self) -> str:
        return f"suggested learning rate: {self.suggestion:.2g} (the loss is lowest at {self.lowest:.2g})"


@log.applies_verbose
def find_learning_rate(
    spec: Reference,
    *,
    data: Data,
    stage: int = 1,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    out: str | os.PathLike[str] | None = None,
    weights: Weights = "spec",
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: CacheKind = "auto",
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    verbose: Verbose = 1,
    **more_params: Any,
) -> RateSweep:
    """Suggest a learning rate by a sweep from `low` to `high` (Smith 2017, arXiv:1506.01186).

    Images, augmentation, frozen parts, optimizer and loss are as in `train`. No run is made. The sweep ends early where
    the loss is four times its minimum.

    Args:
        spec: as for `kerasimg.train`.
        data: as for `kerasimg.train`.
        stage: which of `fit.stages`, from 1.
        low: the first rate.
        high: the last rate.
        steps: number of steps.
        out: a file for the plot (.png, .svg, .pdf).
        weights: as for `kerasimg.build`.
        limits: as for `kerasimg.build`.
        on_bad_image: as for `kerasimg.train`.
        cache: as for `kerasimg.train`.
        overrides: edits by path.
        params: values of the spec's params.
        verbose: 0, 1 or 2.
        **more_params: values of the spec's params, as keywords.

    Returns:
        A `RateSweep` with the suggestion, and the loss at each rate.

    Raises:
        CallError: if the arguments make no sweep.
        KerasimgError: if the loss never falls.

    Example:
        >>> sweep = kerasimg.find_learning_rate("photos.json", data="photos/", steps=30, verbose=0)
        >>> 1e-6 < sweep.suggestion < 10
        True
    """
    if steps < FEWEST or not 0 < low < high:
        raise CallError(f"expected 0 < low < high and steps >= {FEWEST}, got {low:g}, {high:g} and {steps}")
    experiment = prepare(
        spec,
        data,
        overrides=overrides,
        params=merged_params(params, more_params),
        weights=weights,
        limits=limits,
        on_bad_image=on_bad_image,
        cache=cache,
    )
    count = len(experiment.spec.fit.stages)
    if not 1 <= stage <= count:
        raise CallError(f"stage: expected 1 to {count}, got {stage}")
    index = stage - 1
    experiment.enter(index)
    adapt_layers(experiment, index)
    plan = KerasFit().plan(experiment, index, {})
    with experiment.devices.scope():
        compile_model(experiment, plan.model, sweep_optimizer(experiment, index, low))
    finder = LearningRateFinder(low, high, steps)
    log.info(f"{counted(steps, 'step')}, {steps / experiment.steps:.1f} epochs, at rates of {low:g} to {high:g}")
    with running(experiment.devices, plan.model):
        batches = experiment.devices.even(plan.train(epochs=None))
        plan.model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[finder], shuffle=False, verbose=0)
    sweep = sweep_of(finder.rates, finder.losses)
    if out is not None:
        sweep.plot(out)
    return sweep


def sweep_of(rates: Sequence[float], losses: Sequence[float]) -> RateSweep:
    """Returns the suggestion from the smoothed loss at each rate; KerasimgError if the loss never falls."""
    values = np.array(losses, float)
    values[~np.isfinite(values)] = np.inf
    lowest = int(values.argmin())
    width = max(3, round(SPAN * len(values)))
    # A line through several points, because a single difference depends more on the batch than on the rate.
    x = np.arange(width) - (width - 1) / 2
    falls = [x @ values[start : start + width] for start in range(lowest + 1 - width + 1)]
    if not falls or min(falls) >= 0:
        raise KerasimgError(
            "the loss never fell, so no learning rate can be suggested; try a lower `low`, more steps, "
            "or look at the images and their labels"
        )
    best = int(np.argmin(falls)) + width // 2
    return RateSweep(tuple(rates), tuple(map(float, losses)), float(rates[best]), float(rates[lowest]))
