"""The callbacks of a stage: a Keras CallbackList that also writes checkpoints and ends the stage when it must.

A training that was interrupted within an epoch runs the rest of that epoch in a separate call of `fit`; the callbacks
see one training.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import keras

from kerasimg import log
from kerasimg.errors import Interrupted
from kerasimg.escaping import lines
from kerasimg.keras_internals import finish_batch_ends, is_stopping, progress_bar, stop_training
from kerasimg.training.checkpoint import (
    Arrays,
    Checkpoint,
    assign_variables,
    backend_random_state,
    callback_states,
    restore_callbacks,
    set_backend_random_state,
    variable_values,
)
from kerasimg.training.deadline import NEVER, Deadline, Interruption
from kerasimg.training.history import History

SHARE = 0.05
"""Share of the time that checkpoints may take, except those at the end of a stage and at an interruption."""
WITHIN_EPOCH_S = 300.0
"""Least time between two checkpoints within an epoch."""
LOOK_S = 1.0
"""Time between two checks that the loss is finite; each waits for the device."""

Save = Callable[[dict[str, Any], Arrays], None]
AfterEpoch = Callable[[int, Mapping[str, float]], bool]
"""Called with the number of an epoch, from 0, and its metrics; True ends the training."""


MOST_LINES = 30
"""With more epochs than this, not each has a line."""
LINE_S = 10.0
"""An epoch has a line if the last line is older than this."""


class EpochLines(keras.callbacks.ProgbarLogger):
    """Prints one line per epoch; of many short epochs the first, the last, and every second, fifth, tenth, ...

    Keras' own for `verbose=2` prints two lines for each.
    """

    def __init__(self, begin: int, until: int, steps: int) -> None:
        super().__init__()
        self._begin, self._until, self._count = begin, until, steps
        self._every = next(
            step for k in range(9) for step in (10**k, 2 * 10**k, 5 * 10**k) if until - begin <= MOST_LINES * step
        )
        self._began = self._printed = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Print nothing."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print the metrics, as Keras does."""
        now = time.monotonic()
        number = epoch + 1
        in_turn = epoch == self._begin or number == self._until or number % self._every == 0
        if not in_turn and now - self._printed < LINE_S:
            return
        self._printed = now
        seconds = now - self._began
        figures = [f"{name}: {value:.4{'f' if abs(value) > 1e-3 else 'e'}}" for name, value in (logs or {}).items()]
        step = f"{1000 * seconds / self._count:.0f}ms/step"
        line = " - ".join([f"Epoch {number}/{self._until}", f"{seconds:.0f}s", step, *figures])
        print(lines(line), file=sys.stdout, flush=True)


@contextmanager
def record_interrupt() -> Iterator[Interruption]:
    """Record a first Ctrl-C instead of raising KeyboardInterrupt; the second one raises it.

    Nothing changes outside the main thread, or if the program has its own handler.
    """
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interruption.asked = True
        log.info("interrupted: this step is finished and saved (Ctrl-C again: stop at once)")

    theirs = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if theirs or threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def can_show_bars() -> bool:
    """Whether the output is a terminal with colours or a notebook; Keras would write the codes of a bar into files."""
    if "ipykernel" in sys.modules or "PYCHARM_HOSTED" in os.environ:
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


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
        deadline: Deadline = NEVER,
        tested: int = 0,
    ) -> None:
        """Epochs are numbered from 0, over all stages.

        save: writes a checkpoint, given the facts and arrays of where `fit` is; None: no checkpoints.
        begin, end: the first epoch of the stage, and the one after its last.  until: the epoch to stop before, `end` at
        most.  steps: of an epoch.  deadline: when to end after the current step; the validation is done before it.
        tested: steps of a validation.
        """
        if verbose == 1 and not can_show_bars():
            verbose = 2
        shown = [EpochLines(begin, until, steps)] if verbose == 2 else []
        super().__init__(
            [history, *callbacks, *shown],
            add_history=True,
            add_progbar=verbose not in (0, 2),
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
        self.stopped_by_rule = False
        """Whether `after_epoch` or the deadline has ended the training."""
        self.deadline, self.tested = deadline, tested
        self._epoch_began = self._test_began = time.monotonic()
        self._test_s: float | None = None
        self._backend: Mapping[str, Any] = {}
        self._begun = False
        self._saved_at = self._looked_at = time.monotonic()
        self._cost_s = 0.0

    @property
    def stateful(self) -> list[Any]:
        """The callbacks whose state is saved."""
        return [callback for callback in self.callbacks if callback is not progress_bar(self)]

    def resume_from(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint of this stage."""
        self.resumed = saved
        self.epoch, self.first_step = saved.facts["epoch"], saved.facts["step"]

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, once."""
        if self._begun:
            return
        self._begun = True
        super().on_train_begin(logs)
        if self.resumed:
            self._restore(self.resumed)

    def on_train_end(self, logs: Any = None) -> None:
        """Nothing yet: another call of fit may follow; see `finish`."""
        self._backend = backend_random_state()

    def finish(self) -> None:
        """Run the end of the training in the callbacks."""
        super().on_train_end()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch, or the rest of one."""
        self.epoch = epoch
        self._epoch_began = time.monotonic()
        super().on_epoch_begin(epoch, logs)
        if self.first_step and self.resumed:
            # Keras has reset the metrics, and a callback may have acted as at the start of the epoch.
            self._restore(self.resumed)
            assign_variables(self.model.metrics_variables, self.resumed.arrays, "metrics")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch; write a checkpoint if it is due, or if the user wants to stop."""
        super().on_epoch_end(epoch, logs)
        self.first_step = 0
        if self.table.diverged:
            stop_training(self)
        self.is_late(self.steps)
        self.stopped = is_stopping(self)
        if self.after_epoch is not None and not self.table.diverged:
            self.stopped_by_rule |= bool(self.after_epoch(epoch, self.table.rows[-1]))
            if self.stopped_by_rule:
                stop_training(self)
        if is_stopping(self) or epoch + 1 >= self.until:
            return  # the end of the stage is saved in a moment
        if self.interruption.asked or time.monotonic() - self._saved_at >= self._cost_s / SHARE:
            self._save(epoch + 1, 0)
        self._end_if_asked()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step, numbered from the epoch's first."""
        if self._backend:
            # Not earlier: PyTorch draws a number for each new iterator, and a call of fit makes one.
            set_backend_random_state(self._backend)
            self._backend = {}
        super().on_train_batch_begin(batch + self.first_step, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step, or several steps of one execution."""
        batch += self.first_step
        super().on_train_batch_end(batch, logs)
        self.is_late(batch + 1 - self.first_step)
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if not math.isfinite(float(keras.ops.convert_to_numpy(logs["loss"]))):
                stop_training(self)
        late = now - self._saved_at >= max(WITHIN_EPOCH_S, self._cost_s / SHARE)
        if batch + 1 < self.steps and not is_stopping(self) and (self.interruption.asked or late):
            finish_batch_ends(self)
            self._save(self.epoch, batch + 1)
            self._end_if_asked()

    def on_test_begin(self, logs: Any = None) -> None:
        """Begin a validation."""
        self._test_began = time.monotonic()
        super().on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        """End a validation, and note how long it took."""
        super().on_test_end(logs)
        self._test_s = time.monotonic() - self._test_began

    def is_late(self, done: int) -> bool:
        """Whether the epoch must end now, so that its validation ends before the deadline; the stage then ends.

        done: steps so far.  The first validation is assumed to take a third of the time of as many steps of training.
        """
        if self.deadline is NEVER or self.stopped_by_rule:
            return self.stopped_by_rule
        test_s = self._test_s
        if test_s is None:
            test_s = (time.monotonic() - self._epoch_began) / max(1, done) * self.tested / 3
        if self.deadline.left_s <= test_s:
            self.stopped_by_rule = True
            stop_training(self)
        return self.stopped_by_rule

    def _end_if_asked(self) -> None:
        if self.interruption.asked:
            raise Interrupted("interrupted")

    def snapshot(self, epoch: int, step: int) -> tuple[dict[str, Any], Arrays]:
        """Return the state of the stage at a step of an epoch."""
        model = self.model  # on JAX this also brings the variables up to date
        arrays = variable_values(model.optimizer.variables, "optimizer")
        if step:
            arrays |= variable_values(model.metrics_variables, "metrics")
        remembered = callback_states(self.stateful, arrays)
        return {"begin": self.begin, "epoch": epoch, "step": step, "callbacks": remembered}, arrays

    def _save(self, epoch: int, step: int) -> None:
        if self.save is None:
            return
        started = time.monotonic()
        self.save(*self.snapshot(epoch, step))
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - started

    def _restore(self, saved: Checkpoint) -> None:
        """Restore a checkpoint; a callback may change the optimizer, so its variables come last."""
        restore_callbacks(self.stateful, saved.facts["callbacks"], saved.arrays)
        optimizer = self.model.optimizer
        assign_variables(optimizer.variables, saved.arrays, "optimizer")
        if (done := saved.facts.get("iterations")) is not None:
            getattr(optimizer, "inner_optimizer", optimizer).iterations.assign(done)
        self._backend = saved.arrays
