"""Find a learning rate by a sweep."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras


class LearningRateFinder(keras.callbacks.Callback):
    """Raise the learning rate from step to step, watch the loss, and put all back (Smith 2017, arXiv:1506.01186).

        finder = LearningRateFinder()
        model.fit(batches, callbacks=[finder])
        finder.suggestion

    Training stops when the smoothed loss is `divergence` times its minimum, or after `steps` steps; give `fit` enough
    epochs for that. Weights, optimizer and learning rate are then restored. Use it in a notebook, not in a spec, whose
    training it would undo.
    low, high: the first and the last rate, which grows by a constant factor each step.
    smoothing: share of the past in the smoothed loss, in [0, 1).
    """

    in_specs: ClassVar[bool] = False

    def __init__(
        self,
        low: float = 1e-7,
        high: float = 10.0,
        steps: int = 100,
        divergence: float = 4.0,
        smoothing: float = 0.9,
    ):
        super().__init__()
        if not 0 < low < high:
            raise ValueError(f"LearningRateFinder: 0 < low < high must hold, got {low} and {high}")
        if steps < 2:
            raise ValueError(f"LearningRateFinder: steps must be 2 or more, got {steps}")
        if not divergence > 1:
            raise ValueError(f"LearningRateFinder: divergence must be above 1, got {divergence}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"LearningRateFinder: smoothing must be in [0, 1), got {smoothing}")
        self.low = low
        self.high = high
        self.steps = steps
        self.divergence = divergence
        self.smoothing = smoothing
        self.rates: list[float] = []
        """The rate of each step."""
        self.losses: list[float] = []
        """The smoothed loss of each step, before its rate was applied."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = ("low", "high", "steps", "divergence", "smoothing")
        return {name: getattr(self, name) for name in names}

    @property
    def suggestion(self) -> float:
        """The rate at which the loss falls fastest; ValueError if it never falls."""
        falls = [after - before for before, after in zip(self.losses, self.losses[1:], strict=False)]
        if not falls or min(falls) >= 0:
            raise ValueError("LearningRateFinder: the loss never fell; lower `low`, or look at the data")
        return self.rates[falls.index(min(falls))]

    def on_train_begin(self, logs: Any = None) -> None:
        """Save weights, optimizer and rate."""
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.rates, self.losses = [], []
        self._average, self._least = 0.0, math.inf
        self._seen, self._sum = 0, 0.0
        self._rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
        self._variables = [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras starts a new average of the loss."""
        self._seen, self._sum = 0, 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate of the step."""
        rate = self.low * (self.high / self.low) ** (len(self.rates) / (self.steps - 1))
        self.rates.append(rate)
        self.model.optimizer.learning_rate = rate

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record the loss, and stop at the end of the sweep."""
        # Keras gives the mean of the epoch so far.
        seen = batch + 1
        total = float((logs or {})["loss"]) * seen
        loss, self._seen, self._sum = (total - self._sum) / (seen - self._seen), seen, total
        self._average = self.smoothing * self._average + (1 - self.smoothing) * loss
        smoothed = self._average / (1 - self.smoothing ** len(self.rates))
        self.losses.append(smoothed)
        self._least = min(self._least, smoothed) if math.isfinite(smoothed) else self._least
        diverged = not smoothed < self.divergence * self._least if self._least > 0 else False
        if len(self.rates) >= self.steps or diverged or not math.isfinite(smoothed):
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Restore everything."""
        for variable, value in zip(_variables(self.model), self._variables, strict=True):
            variable.assign(value)
        self.model.optimizer.learning_rate = float(self._rate)
        del self._variables


def _variables(model: Any) -> list[Any]:
    return [*model.weights, *model.optimizer.variables]
