"""The stages of a trial: what `training.loop` does, without a run's folder, checkpoints and figures of a test part.

What comes out, epoch by epoch, is what `kerasimg.train` would get from the same spec. Where a trial ends before the
spec does, what it stands at can be kept, and another call goes on from there as if there had been no end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import keras

from kerasimg.errors import KerasimgError
from kerasimg.training import checkpoint, stages, state
from kerasimg.training.best import Averages, Best, best_of, handed_on, has_averages
from kerasimg.training.experiment import Experiment
from kerasimg.tuning.outcome import Row

AfterEpoch = Callable[[int, Mapping[str, float]], bool]
"""Told the number of an epoch, from 0, and its row; True ends the trial."""


class Ready(Protocol):
    """A stage that can be trained."""

    model: Any
    """Compiled, its optimizer built."""

    def fit(self, callbacks: list[Any], first: int, end: int) -> None:
        """Train epochs from `first` up to `end`, or until a callback has set `model.stop_training`."""


class TrialLoop:
    """The training of one trial.

    last: the epoch to stop before, counted over all stages; None: the spec's end.
    """

    def __init__(
        self,
        experiment: Experiment,
        prepare: Callable[[int], Ready],
        callbacks: list[Any],
        last: int | None = None,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        """prepare: makes a stage ready, by its number, when what trains in it has been made trainable.

        callbacks: those of the spec.
        """
        self.experiment = experiment
        self.spec = experiment.spec
        self.prepare = prepare
        self.last = math.inf if last is None else last
        self.after_epoch = after_epoch
        self.callbacks = callbacks
        self.rows: list[Row] = []
        """Of all epochs, those of earlier calls too."""
        self.epoch = 0
        """Epochs that are done, over all stages."""
        self.stopped = False
        """Whether `after_epoch` has ended it."""
        self.ended = False
        """Whether the last stage has come to its end."""
        self.found: checkpoint.Checkpoint | None = None
        self._now: Callable[[], tuple[dict[str, Any], state.Arrays]] | None = None

    def go_on_from(self, file: Path) -> bool:
        """Begin where `keep` was called; False, and from the start, where there is no such file, or a damaged one."""
        with suppress(KerasimgError):
            self.found = checkpoint.read(file)
        if self.found:
            self.rows = list(self.found.facts["rows"])
            self.epoch = self.found.facts["epoch"]
        return self.found is not None

    def keep(self, file: Path) -> None:
        """Write down what the trial stands at, if it has been trained."""
        if self._now is not None:
            facts, arrays = self._now()
            checkpoint.write(file, {**facts, "rows": self.rows}, arrays)

    def train(self) -> None:
        """Train what is to be trained; afterwards `experiment.built` has the weights."""
        count = len(self.spec.fit.stages)
        first = self.found.facts["stage"] if self.found else 0
        model = self.experiment.at(first).built.model
        if self.found:
            self._restore(first, self.found)
        for index in range(first, count):
            if self.found and self.found.facts["stage"] == index and self.found.facts["done"]:
                self.ended = index + 1 == count
                continue
            if index > first and any(getattr(callback, "finished", False) for callback in self.callbacks):
                break
            if self.stopped or self.epoch >= self.last:
                return
            before, model = model, self.experiment.enter(index).built.model
            if model is not before:
                model.set_weights(before.get_weights())
            self._stage(index)
        if (last := self.experiment.built.model) is not model:
            last.set_weights(model.get_weights())
        self.ended = self.ended or not self.stopped

    def _restore(self, index: int, found: checkpoint.Checkpoint) -> None:
        sized = self.experiment.enter(index)
        state.give(sized.built.model.weights, found.arrays, "weights")
        state.give(self._generators(), found.arrays, "generators")
        state.give_backend(found.arrays)
        if found.facts["done"]:
            state.remind(self.callbacks, found.facts["callbacks"], found.arrays)

    def _generators(self) -> list[Any]:
        return [one for sized in self.experiment.sized.values() for one in state.beside_weights(sized.built.model)]

    def _stage(self, index: int) -> None:
        stage = self.spec.fit.stages[index]
        resumed = self.found if self.found and self.found.facts["stage"] == index else None
        ready = self.prepare(index)
        begin = resumed.facts["begin"] if resumed else self.epoch
        end = begin + stage.epochs
        best = best_of(stage)
        own = [Averages()] if self.spec.fit.ema is not None else []
        stopping = [stages.early_stopping(stage.early_stopping)] if stage.early_stopping else []
        followed = [*own, *([best] if best else []), *self.callbacks, *stopping]
        follow = _Follow(self, followed, resumed)
        last = min(end, self.last)
        ready.model.stop_training = False
        ready.fit([_Rows(self, index), *followed, follow], self.epoch, int(last))
        if not math.isfinite(self.rows[-1].get("loss", 0.0)):
            raise KerasimgError(
                f"the loss is no number any more (stage {index + 1}, epoch {self.epoch}); "
                "a lower learning rate may help"
            )
        over = self.epoch >= end or follow.ended
        if over:
            self._end(ready.model, best)
        self._now = partial(self._stand, index, begin, ready.model, self.callbacks if over else followed, over)

    def _stand(
        self, index: int, begin: int, model: Any, callbacks: list[Any], done: bool
    ) -> tuple[dict[str, Any], state.Arrays]:
        """Where the trial is, in a stage or at its end: what another call needs to go on."""
        arrays = self._arrays(index)
        if not done:
            arrays |= state.take(model.optimizer.variables, "optimizer")
        told = state.remember(callbacks, arrays)
        return {"stage": index, "done": done, "begin": begin, "epoch": self.epoch, "callbacks": told}, arrays

    def _end(self, model: Any, best: Best | None) -> None:
        """Put in place what the stage hands on."""
        if best is not None and best.figure is not None:
            model.set_weights(best.weights)
        elif has_averages(model) and not any(getattr(one, "_ema_weights_in_model", False) for one in self.callbacks):
            model.set_weights(handed_on(model))

    def _arrays(self, index: int) -> state.Arrays:
        model = self.experiment.at(index).built.model
        arrays = state.take(model.weights, "weights") | state.take(self._generators(), "generators")
        return arrays | state.take_backend()


class _Rows(keras.callbacks.Callback):
    """Notes a row per epoch."""

    def __init__(self, loop: TrialLoop, stage: int) -> None:
        super().__init__()
        self.loop, self.stage = loop, stage

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        figures = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        place: Row = {"stage": self.stage + 1, "epoch": epoch + 1}
        seconds = round(time.perf_counter() - self.begun, 4)
        self.loop.rows.append({**place, "seconds": seconds, "learning_rate": rate, **figures})
        self.loop.epoch = epoch + 1
        if not math.isfinite(figures.get("loss", 0.0)):
            self.model.stop_training = True


class _Follow(keras.callbacks.Callback):
    """The last of the callbacks: gives the others back what they remember, and ends the trial where it is asked to."""

    def __init__(self, loop: TrialLoop, callbacks: list[Any], resumed: checkpoint.Checkpoint | None) -> None:
        super().__init__()
        self.loop, self.callbacks, self.resumed = loop, callbacks, resumed
        self.ended = False
        """Whether another callback has ended the stage."""

    def on_train_begin(self, logs: Any = None) -> None:
        if self.resumed:
            state.remind(self.callbacks, self.resumed.facts["callbacks"], self.resumed.arrays)
            state.give(self.model.optimizer.variables, self.resumed.arrays, "optimizer")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ended = self.model.stop_training
        row = self.loop.rows[-1]
        if self.loop.after_epoch is not None and math.isfinite(row.get("loss", 0.0)):
            self.loop.stopped = bool(self.loop.after_epoch(epoch, row))
            self.model.stop_training = self.model.stop_training or self.loop.stopped
