"""The weights that a stage hands on: its best or its last, or the moving average of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kerasimg.errors import KerasimgError, listed
from kerasimg.spec.document import Stage
from kerasimg.spec.figures import Direction, Goal, best_by, keeps_best


class Averages(keras.callbacks.Callback):
    """Validates the moving averages that the optimizer keeps, in place of the weights.

    Like keras.callbacks.SwapEMAWeights, but for rounding: there the weights go back as a sum less a difference.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Exchange the weights and their averages."""
        self.swap()

    def on_test_end(self, logs: Any = None) -> None:
        """Put them back."""
        self.swap()

    def swap(self) -> None:
        """Exchange the weights and their averages, to the last bit."""
        for weight, average in _pairs(self.model):
            value = np.array(keras.ops.convert_to_numpy(weight))
            weight.assign(keras.ops.convert_to_numpy(average))
            average.assign(value)


def handed_on(model: Any) -> list[np.ndarray]:
    """The weights of a model, the averages in place of those that have one."""
    averages = {id(weight): average for weight, average in _pairs(model)}
    return [np.array(keras.ops.convert_to_numpy(averages.get(id(weight), weight))) for weight in model.weights]


def has_averages(model: Any) -> bool:
    """Whether the optimizer keeps moving averages."""
    return bool(_pairs(model))


class Best(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the best figure."""

    def __init__(self, monitor: str, mode: Direction, min_delta: float = 0.0) -> None:
        super().__init__()
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.on_train_begin()

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin anew."""
        self.figure: float | None = None
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take the weights, if they are better."""
        if self.monitor not in (logs or {}):
            raise KerasimgError(f"no figure '{self.monitor}' to keep the best weights by (there are: {listed(logs)})")
        figure = float(logs[self.monitor])
        if Goal(self.monitor, self.mode, self.min_delta).improves(figure, self.figure):
            self.figure, self.epoch, self.weights = figure, epoch, handed_on(self.model)


def best_of(stage: Stage) -> Best | None:
    """What remembers the best weights of a stage; None where those of the last epoch are handed on."""
    return Best(*best_by(stage)) if keeps_best(stage) else None


def _pairs(model: Any) -> list[tuple[Any, Any]]:
    """(weight, its moving average), where the optimizer keeps any."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not getattr(optimizer, "use_ema", False):
        return []
    # Private, as in Keras' own callback: there is no other way to them.
    averages = optimizer._model_variables_moving_average
    return [pair for pair in zip(optimizer._trainable_variables, averages, strict=True) if pair[1] is not None]
