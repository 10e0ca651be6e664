"""The callbacks of a stage: a Keras CallbackList that also writes checkpoints and notices what must end the stage.

A training that was cut off within an epoch does the rest of that epoch in a separate call of `fit`; to the callbacks it
is one training all the same.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import keras

from kerasimg import log
from kerasimg.errors import Interrupted
from kerasimg.keras_internals import finish_batch_ends, is_stopping, progress_bar, stop_training
from kerasimg.training import snapshot
from kerasimg.training.checkpoint import Checkpoint
from kerasimg.training.history import History

SHARE = 0.05
"""Of the time, checkpoints take no more than this, but for the one at a stage's end and that of an interruption."""
WITHIN_EPOCH_S = 300.0
"""Within an epoch one is written no more often than this."""
LOOK_S = 1.0
"""Time between two looks at whether the loss is a number still; each waits for the device."""

Save = Callable[[dict[str, Any], snapshot.Arrays], None]
AfterEpoch = Callable[[int, Mapping[str, float]], bool]
"""Gets the number of an epoch, from 0, and its row; True ends the training."""


class Interruption:
    """Whether the user has asked to stop."""

    asked = False


@contextmanager
def patient() -> Iterator[Interruption]:
    """Note a first Ctrl-C instead of raising KeyboardInterrupt; the second one raises it.

    Nothing changes outside the main thread, and where the program has its own handler.
    """
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interruption.asked = True
        log.info("interrupted: this step is finished and kept (Ctrl-C again: ends at once)")

    theirs = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if theirs or threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Watch(keras.callbacks.CallbackList):
    """The callbacks of a stage."""

    def __init__(
        self,
        callbacks: Sequence[Any],
        history: History,
        interruption: Interruption,
        save: Save | None,
        *,
        begin: int,
        end: int,
        until: int,
        steps: int,
        verbose: int | str,
        model: Any,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        """Epochs are numbered from 0, over all stages.

        save: writes a checkpoint, given the facts and arrays of where `fit` is; None: no checkpoints.
        begin, end: the first epoch of the stage, and the one after its last.  until: the epoch to stop before, `end` at
        most.  steps: of an epoch.
        """
        super().__init__(
            [history, *callbacks],
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=until,
            steps=steps,
            model=model,
        )
        self.table = history
        self.interruption = interruption
        self.save, self.after_epoch = save, after_epoch
        self.begin, self.end, self.until, self.steps = begin, end, until, steps
        self.epoch, self.first_step = begin, 0
        self.resumed: Checkpoint | None = None
        self.stopped = False
        """Whether a callback has ended the stage."""
        self.dismissed = False
        """Whether `after_epoch` has ended the training."""
        self._backend: Mapping[str, Any] = {}
        self._begun = False
        self._saved_at = self._looked_at = time.monotonic()
        self._cost_s = 0.0

    @property
    def remembering(self) -> list[Any]:
        """The callbacks whose state is kept."""
        return [one for one in self.callbacks if one is not progress_bar(self)]

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Begin where a checkpoint of this stage was written."""
        self.resumed = checkpoint
        self.epoch, self.first_step = checkpoint.facts["epoch"], checkpoint.facts["step"]

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, once."""
        if self._begun:
            return
        self._begun = True
        super().on_train_begin(logs)
        if self.resumed:
            self._restore(self.resumed)

    def on_train_end(self, logs: Any = None) -> None:
        """Wait for `finish`: another call of fit may follow."""
        self._backend = snapshot.take_backend()

    def finish(self) -> None:
        """Tell the callbacks that the stage has ended."""
        super().on_train_end()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch, or the rest of one."""
        self.epoch = epoch
        super().on_epoch_begin(epoch, logs)
        if self.first_step and self.resumed:
            # Keras has reset the metrics, and a callback may have taken this for the epoch's beginning.
            self._restore(self.resumed)
            snapshot.give(self.model.metrics_variables, self.resumed.arrays, "metrics")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch; write a checkpoint where it is time, or where the user wants to end."""
        super().on_epoch_end(epoch, logs)
        self.first_step = 0
        if self.table.diverged:
            stop_training(self)
        self.stopped = is_stopping(self)
        if self.after_epoch is not None and not self.table.diverged:
            self.dismissed = bool(self.after_epoch(epoch, self.table.rows[-1]))
            if self.dismissed:
                stop_training(self)
        if is_stopping(self) or epoch + 1 >= self.until:
            return  # what the stage ends with is saved in a moment
        if self.interruption.asked or time.monotonic() - self._saved_at >= self._cost_s / SHARE:
            self._keep(epoch + 1, 0)
        self._end_if_asked()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step, numbered from the epoch's first."""
        if self._backend:
            # Not earlier: PyTorch draws a number for each new iterator, and a call of fit makes one.
            snapshot.give_backend(self._backend)
            self._backend = {}
        super().on_train_batch_begin(batch + self.first_step, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step, or several that Keras ran at a time."""
        batch += self.first_step
        super().on_train_batch_end(batch, logs)
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if not math.isfinite(float(keras.ops.convert_to_numpy(logs["loss"]))):
                stop_training(self)
        late = now - self._saved_at >= max(WITHIN_EPOCH_S, self._cost_s / SHARE)
        if batch + 1 < self.steps and not is_stopping(self) and (self.interruption.asked or late):
            finish_batch_ends(self)
            self._keep(self.epoch, batch + 1)
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self.interruption.asked:
            raise Interrupted("interrupted")

    def snapshot(self, epoch: int, step: int) -> tuple[dict[str, Any], snapshot.Arrays]:
        """Where the stage is: at a step of an epoch."""
        model = self.model  # on JAX this also brings the variables up to date
        arrays = snapshot.take(model.optimizer.variables, "optimizer")
        if step:
            arrays |= snapshot.take(model.metrics_variables, "metrics")
        remembered = snapshot.remember(self.remembering, arrays)
        return {"begin": self.begin, "epoch": epoch, "step": step, "callbacks": remembered}, arrays

    def _keep(self, epoch: int, step: int) -> None:
        if self.save is None:
            return
        begun = time.monotonic()
        self.save(*self.snapshot(epoch, step))
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - begun

    def _restore(self, checkpoint: Checkpoint) -> None:
        """What `_keep` has kept; a callback may change the optimizer, so its variables come last."""
        snapshot.remind(self.remembering, checkpoint.facts["callbacks"], checkpoint.arrays)
        optimizer = self.model.optimizer
        snapshot.give(optimizer.variables, checkpoint.arrays, "optimizer")
        if (done := checkpoint.facts.get("iterations")) is not None:
            getattr(optimizer, "inner_optimizer", optimizer).iterations.assign(done)
        self._backend = checkpoint.arrays
