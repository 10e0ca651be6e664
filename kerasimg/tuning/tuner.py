"""KerasTuner's search loop around kerasimg's trials: ask for a trial, train it, tell what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from keras_tuner.engine import base_tuner

from kerasimg.errors import CallError
from kerasimg.keras_internals import TunerHooks
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.ask_tell import ENDED, ORDER
from kerasimg.tuning.journal import Ended, Order, Outcome, Row

AfterEpoch = Callable[[int, Mapping[str, float]], bool]
ITS_OWN = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
"""The variables of the environment by which KerasTuner searches over several machines."""


class UsedUp(Exception):
    """The process has taken much memory that is not given back: another is to go on in its place."""


class TrialTuner(TunerHooks, base_tuner.BaseTuner):
    """A worker of a search, be it the only one.

    KerasTuner's own `Tuner` builds several models before the first trial, needs tensorboard for every trial, keeps no
    curve and averages executions away; what is left of it here is its loop.
    """

    def __init__(
        self,
        oracle: Any,
        runner: Any,
        goal: Goal,
        folder: Path,
        *,
        seed: int,
        executions: int = 1,
        follow: bool = False,
        finished: Callable[[str, Ended], None] = lambda trial, ended: None,
        foreseen: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """runner: trains a trial: `Trials`, or what wraps it.

        seed: of the first execution of every trial.  follow: tell the oracle of every epoch, for it may end a trial.

        finished: told what became of a trial, before the oracle is.  foreseen: the values of the next trial, if known.
        """
        super().__init__(oracle, directory=str(folder.parent), project_name=folder.name)
        self.runner, self.goal, self.seed, self.executions = runner, goal, seed, executions
        self.follow, self.finished, self.foreseen = follow, finished, foreseen

    def pre_create_trial(self) -> None:
        """UsedUp where this process should train no more."""
        if self.runner.used_up():
            raise UsedUp

    def run_and_update(self, trial: Any) -> None:
        """Train a trial, and give it its status."""
        order = Order.read(trial.hyperparameters.values[ORDER])
        if (values := self.foreseen()) is not None:
            self.runner.expect(values, seed=self.seed)
        ended = self.execute(order)
        self.finished(order.trial, ended)
        trial.hyperparameters.values[ENDED] = ended.text()
        trial.status = "COMPLETED" if ended.worked else "FAILED"

    def execute(self, order: Order) -> Ended:
        """Train a trial as often as is asked for."""
        outcomes: list[Outcome] = []
        for number in range(self.executions):
            # Of several executions the first one decides whether it is worth while.
            after = self._reporter(order) if self.follow and number == 0 else None
            outcomes.append(self._outcome(order, number, after))
            if outcomes[-1].status != "completed":
                break
        return summary(outcomes, self.goal, self.executions)

    def _outcome(self, order: Order, number: int, after: AfterEpoch | None) -> Outcome:
        below = f"/execution-{number + 1}" if self.executions > 1 else ""
        try:
            return self.runner.run(
                order.values,
                trial_id=order.trial + below,
                epochs=order.epochs,
                first_epoch=order.first_epoch,
                seed=self.seed + number,
                after_epoch=after,
                go_on_from=order.of and order.of + below,
                keep_state=order.keep_state,
            )
        except Exception as error:  # a trial that goes wrong must not end the others
            return Outcome("failed", [], {}, 0.0, f"{type(error).__name__}: {error}")

    def _reporter(self, order: Order) -> AfterEpoch:
        def after(epoch: int, row: Mapping[str, float]) -> bool:
            figures = {self.goal.figure: row[self.goal.figure]}
            answer = self.oracle.update_trial(order.trial, figures, step=epoch - order.first_epoch)
            return bool(answer.status == "STOPPED")

        return after

    def save(self) -> None:
        """Nothing: the search's own records have it all."""

    def reload(self) -> None:
        """Nothing: the oracle has been given what there is."""

    def no_such_file(self) -> str:
        """Where KerasTuner looks for an earlier state of its own."""
        return os.path.join(self.directory, self.project_name, ".no-such-file")


def summary(outcomes: list[Outcome], goal: Goal, executions: int = 1) -> Ended:
    """The executions of a trial as one; it worked where all of them did."""
    last = outcomes[-1]
    first = outcomes[0]
    scores = [float(one.best[goal.figure]) for one in outcomes if goal.figure in one.best]
    status, reason = last.status, last.reason
    if status in ("completed", "stopped") and len(scores) < len(outcomes):
        known = ", ".join(last.logs[-1]) if last.logs else "none"
        status, reason = "failed", f"no figure '{goal.figure}' was measured (there were: {known})"
    rows: list[Row] = []
    for number, outcome in enumerate(outcomes):
        rows += [{"execution": number + 1, **row} if executions > 1 else dict(row) for row in outcome.logs]
    worked = status in ("completed", "stopped")
    return Ended(
        status=status,
        score=fmean(scores) if scores and worked else None,
        seconds=sum(one.seconds for one in outcomes),
        curve=[float(row[goal.figure]) for row in first.logs if goal.figure in row],
        best_epoch=int(first.best["epoch"]) if "epoch" in first.best else None,
        reason=reason,
        scores=scores,
        rows=rows,
    )


def require_no_other_search() -> None:
    """CallError where the environment says that KerasTuner is to search with others, and the call does not."""
    if found := [name for name in ITS_OWN if name in os.environ]:
        raise CallError(
            f"{', '.join(found)} is set, for a KerasTuner over several machines; with kerasimg say --chief or --worker "
            "HOST:PORT, and unset it"
        )
