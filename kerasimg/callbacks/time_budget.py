"""Training within a given time."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import keras


@keras.saving.register_keras_serializable(package="kerasimg")
class TimeBudget(keras.callbacks.Callback):
    """Stop training when its time is spent: after the step during which it runs out, with the validation of that epoch.

    seconds: above 0, counted from the first step over all calls of `fit` with this object, including validation. A call
    that begins when no time is left does one step; `kerasimg.train` begins no further stage. `spent`: the seconds so
    far, including those before a resumed training was interrupted.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"seconds": "float>0"}

    def __init__(self, seconds: float):
        super().__init__()
        if not seconds > 0:
            raise ValueError(f"TimeBudget: seconds must be above 0, got {seconds}")
        self.seconds = seconds
        self._begun: float | None = None

    @property
    def spent(self) -> float:
        """Seconds since the first step."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return self.spent >= self.seconds

    def get_state(self) -> dict[str, Any]:
        """The seconds so far; None before the first step."""
        return {"spent": None if self._begun is None else self.spent}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue counting from there."""
        self._begun = None if state["spent"] is None else time.monotonic() - state["spent"]

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"seconds": self.seconds}

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the clock, once."""
        if self._begun is None:
            self._begun = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop when the time is spent."""
        if self.finished:
            self.model.stop_training = True
