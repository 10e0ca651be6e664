"""A learning rate that rises, then falls, over one call of `fit`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras

from kerasimg.keras_internals import learning_rate_schedule


@keras.saving.register_keras_serializable(package="kerasimg")
class WarmupCosine(keras.callbacks.Callback):
    """Raise the learning rate step by step to the optimizer's, then lower it along a cosine.

    The cosine is that of Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts, the rise that of Goyal et al.
    2017, arXiv:1706.02677.

    The number of steps is that of the call of `fit`; Keras' CosineDecay needs it as an argument. Afterwards the
    optimizer has its first rate again, so that the next call, or stage, starts from it.
    warmup_epochs: length of the linear rise, which ends with the last epoch at the latest; 0.5 is half an epoch.
    final: the last rate as a share of the optimizer's, in [0, 1].
    """

    argument_kinds: ClassVar[dict[str, str]] = {"warmup_epochs": "float>=0", "final": "float[0,1]"}

    def __init__(self, warmup_epochs: float = 1.0, final: float = 0.0):
        super().__init__()
        if warmup_epochs < 0:
            raise ValueError(f"WarmupCosine: warmup_epochs must be 0 or more, got {warmup_epochs}")
        if not 0 <= final <= 1:
            raise ValueError(f"WarmupCosine: final must be in [0, 1], got {final}")
        self.warmup_epochs = warmup_epochs
        self.final = final
        self._first_epoch: int | None = None
        self._epoch = 0
        self._peak = 0.0

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"warmup_epochs": self.warmup_epochs, "final": self.final}

    def on_train_begin(self, logs: Any = None) -> None:
        """Store the peak rate."""
        if not self.params.get("steps"):
            raise ValueError("WarmupCosine: the steps of an epoch are not known; give fit steps_per_epoch")
        optimizer = self.model.optimizer
        if learning_rate_schedule(optimizer) is not None:
            raise ValueError("WarmupCosine: the optimizer has a schedule already; give it a number")
        self._peak = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        self._first_epoch = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Store the number of the epoch."""
        self._first_epoch = epoch if self._first_epoch is None else self._first_epoch
        self._epoch = epoch - self._first_epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate of this step; with `steps_per_execution`, of all steps up to the next call."""
        steps = self.params["steps"]
        total = steps * (self.params["epochs"] - (self._first_epoch or 0))
        self.model.optimizer.learning_rate = self._peak * self.factor(self._epoch * steps + batch, total, steps)

    def on_train_end(self, logs: Any = None) -> None:
        """Give the optimizer its rate back."""
        self.model.optimizer.learning_rate = self._peak

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Returns the rate of a step, from 0, of `total` steps, as a share of the optimizer's rate."""
        rising = min(round(self.warmup_epochs * steps_per_epoch), total)
        if step < rising:
            return (step + 1) / rising
        falling = total - rising
        done = (step - rising) / max(falling - 1, 1)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
