"""Hands out, ends and records trials, around KerasTuner's oracles, so that no trial is lost when a process is killed.

KerasTuner itself loses trials. It writes its state in place, in several files, without the state of its grid search and
of its random numbers. It loses the reason of a failure on another machine, keeps a lock after an error, and waits for a
killed worker forever. Here a journal records everything, and every draw depends only on the seed and the number of the
trial, so an interrupted search continues as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Literal, NamedTuple

import keras_tuner
from keras_tuner.engine import trial as kt_trial

from kerasimg import log
from kerasimg.errors import CallError, counted, listed
from kerasimg.keras_internals import OracleHooks
from kerasimg.spec.document import Tune
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.front import front
from kerasimg.tuning.journal import Ended, Order, Records
from kerasimg.tuning.space import Key, Space, declare

FAILURES_TO_GIVE_UP, INFEASIBLE_TO_GIVE_UP = 3, 20
"""A search ends if this number of trials failed or was infeasible, and none worked."""
SILENCE_S = 60.0
"""A trial is handed out again if its worker sends nothing for this time."""
UNKNOWN_HOST = "unknown"
WORKED, FAILED = "COMPLETED", "FAILED"


class Lost(NamedTuple):
    """A worker that was lost in a trial."""

    trial: str
    host: str
    when: float
    """In seconds since 1970."""


def this_host() -> str:
    """Returns the name of this machine, in characters that gRPC's metadata allows."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", socket.gethostname())[:255] or UNKNOWN_HOST


class Answer(NamedTuple):
    """The answer to a worker that requests a trial."""

    status: Literal["RUNNING", "IDLE", "STOPPED"]
    """RUNNING: train `order`.  IDLE: ask again later.  STOPPED: the search has ended."""
    order: Order | None = None


class Administration(OracleHooks):
    """Everything in an oracle except the choice of values: a mixin, listed before KerasTuner's oracle in the bases."""

    knows_next = False
    """Whether the next trial does not depend on the results of the running trials."""
    is_stateless = True
    """Whether the choice of values depends only on the trials so far and the number of the next."""

    takes_warm_start = True
    """Whether the first trials can have values that were good in earlier searches."""

    def __init__(self, space: Space, goal: Goal, tune: Tune, epochs: int, **oracle_options: Any) -> None:
        """epochs: the most epochs of a trial."""
        # KerasTuner treats the seed 0 as none, and neighbouring seeds give nearly the same random numbers.
        seed = 1 + number_of(tune.seed) % (2**31 - 2)
        super().__init__(  # type: ignore[call-arg]
            objective=keras_tuner.Objective(goal.figure, goal.direction),
            hyperparameters=declare(space),
            allow_new_entries=False,
            tune_new_entries=False,
            seed=seed,
            **oracle_options,
        )
        self.space, self.goal, self.tune, self.epochs = space, goal, tune, epochs
        self.trials: dict[str, Any] = {}
        self.ended: dict[str, Ended] = {}
        self.orders: dict[str, Order] = {}
        self.curves: dict[str, list[float]] = {}
        self.times: dict[str, float] = {}
        """When a trial ended, in seconds since 1970."""
        self.records: Records | None = None
        self.hosts: dict[str, str] = {}
        """The machine that trained, or trains, a trial."""
        self.lost: list[Lost] = []
        """Workers that were lost in a trial, in the order of detection."""
        self.exhausted = False
        self.goals: Sequence[Goal] = (goal,)
        """All objectives, the first foremost."""
        self.warm: Sequence[Mapping[str, Any]] = ()
        """Values for the trials after the first: good ones of earlier searches."""
        self.left_s: Callable[[], float] = lambda: math.inf
        """Returns the seconds that are left for trials."""
        self._heard: dict[str, float] = {}
        self._guard = threading.RLock()
        self.set_most_collisions(2000 if space.size else 20)
        self.verbose = 0

    def open(self, records: Records, may_come_back: bool = False) -> int:
        """Record the trials in a folder and continue from its content; return the number of ended trials.

        may_come_back: workers elsewhere may still train trials that had started; the oracle waits for them.
        """
        for event in records.events():
            if event["event"] == "begin":
                self._replay(event["trial"], event["keys"])
            elif event["event"] == "lost":
                self.lost.append(Lost(event["trial"], event["host"], event["time"]))
            else:
                self.hosts[event["trial"]] = event.get("host") or UNKNOWN_HOST
                result = records.read_ended(event["trial"]) or Ended(**event["ended"])
                self._close(event["trial"], result, event["time"])
        self.records = records
        for trial in self._unfinished():
            if (ended := records.read_ended(trial)) is not None:
                self._end(trial, ended)
        self.ongoing_trials: dict[str, Any] = {}
        self.retries = []
        if may_come_back:
            self.ongoing_trials = {f"before-{trial}": self.trials[trial] for trial in self._unfinished()}
            self._heard = dict.fromkeys(self._unfinished(), time.monotonic())
        else:
            self.retries = self._unfinished()
        return len(self.ended)

    def create_trial(self, tuner_id: str, host: str | None = None) -> Answer:
        """Returns the next trial for a worker.  host: the machine of the worker; None: this one."""
        with self._guard:
            self.take_back_lost()
            if tuner_id in self.ongoing_trials:
                return Answer("RUNNING", self._timed(self.ongoing_trials[tuner_id].trial_id))
            trial = self._next()
            if trial is None:
                waiting = bool(self.ongoing_trials) and not self.hopeless
                return Answer("IDLE" if waiting else "STOPPED")
            self.ongoing_trials[tuner_id] = self.trials[trial]
            self.hosts[trial] = host or this_host()
            self._heard[trial] = time.monotonic()
            return Answer("RUNNING", self._timed(trial))

    def _timed(self, trial: str) -> Order:
        """Returns the order of a trial with the time that is left for it."""
        left_s = self.left_s()
        return self.orders[trial] if math.isinf(left_s) else replace(self.orders[trial], seconds=max(0.0, left_s))

    @property
    def out_of_time(self) -> bool:
        """Whether no further trial can begin; one that would have to end early tells nothing about its values."""
        times = [ended.seconds for ended in self.ended.values() if ended.status == "completed"]
        return self.left_s() <= (min(times) if times else 0.0)

    def next_values(self) -> Mapping[str, Any] | None:
        """Return the values of the next trial; None if there is none, or it is not known yet."""
        with self._guard:
            if not self.knows_next or self.retries or self._full:
                return None
            exhausted = self.exhausted
            keys = self._choose(f"{len(self.trials) + 1:04d}")
            self.exhausted = exhausted  # only a real draw may mark the search as exhausted
            return None if keys is None else self.space.values(keys)

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> bool:
        """Records the objective after an epoch, counted from 0.

        Returns:
            Whether the trial should end.

        Raises:
            CallError: if there is no such trial, or it has no such epoch; nothing is changed.
        """
        with self._guard:
            self._require(trial_id)
            if not 0 <= step < self.epochs:
                raise CallError(f"trial {trial_id}: a trial of this search has at most {counted(self.epochs, 'epoch')}")
            if trial_id in self.ended:  # another worker, to which it was handed out again, has finished it
                return True
            self._heard[trial_id] = time.monotonic()
            curve = self.curves.setdefault(trial_id, [])
            del curve[step:]
            value = float(metrics[self.goal.figure])
            # A chief that was restarted does not know the epochs before; the next ones keep their places.
            curve += [value] * (step + 1 - len(curve))
            # Running trials count, too: asynchronous halving compares the trials that have reached a rung so far.
            others = {name: other for name, other in self.curves.items() if name != trial_id and self._counts(name)}
            rule = self.tune.stop
            return rule is not None and ends(rule, self.goal, curve, others, self.epochs)

    def end_trial(self, trial: str, ended: Ended, host: str | None = None) -> None:
        """Record the result of a trial; a second result of the same trial is ignored.

        Args:
            trial: its number.
            ended: its result.
            host: the machine that trained it; None: the one to which it was handed out last.

        Raises:
            CallError: if there is no such trial, the result has too many epochs, or an objective is missing; nothing
                is changed.
        """
        with self._guard:
            self._require(trial)
            most = self.epochs * self.tune.executions_per_trial
            if len(ended.curve) > self.epochs or len(ended.rows) > most or (ended.best_epoch or 0) > self.epochs:
                raise CallError(f"trial {trial}: a trial of this search has at most {counted(self.epochs, 'epoch')}")
            missing = [goal.figure for goal in self.goals[1:] if goal.figure not in ended.figures]
            if ended.worked and missing:
                raise CallError(f"trial {trial}: the result has no figure {listed(missing)}")
            if host is not None and trial not in self.ended:
                self.hosts[trial] = host
            self._end(trial, ended)

    def note_alive(self, trial: str) -> None:
        """Record that a trial is still being trained; CallError if there is no such trial."""
        with self._guard:
            self._require(trial)
            self._heard[trial] = time.monotonic()

    def give_back(self, tuner_id: str) -> None:
        """Take back the trial of a worker that has ended, so that another worker gets it."""
        with self._guard:
            if (trial := self.ongoing_trials.pop(tuner_id, None)) is not None:
                self.retries.append(trial.trial_id)
                lost = Lost(trial.trial_id, self.hosts.get(trial.trial_id, UNKNOWN_HOST), time.time())
                self.lost.append(lost)
                if self.records is not None:
                    self.records.append({"event": "lost", "trial": lost.trial, "host": lost.host, "time": lost.when})

    def take_back_lost(self) -> None:
        """Take back the trials of workers that have sent nothing for SILENCE_S."""
        with self._guard:
            for tuner_id, trial in list(self.ongoing_trials.items()):
                if time.monotonic() - self._heard.get(trial.trial_id, math.inf) > SILENCE_S:
                    host = self.hosts.get(trial.trial_id, UNKNOWN_HOST)
                    log.info(
                        f"nothing was heard of trial {trial.trial_id} on {host} for {SILENCE_S:.0f} s: it is handed "
                        "out again"
                    )
                    self.give_back(tuner_id)

    @property
    def over(self) -> bool:
        """Whether no trial is running and none is left, also in a hopeless search."""
        with self._guard:
            return not self.ongoing_trials and self._full and (self.hopeless or self.out_of_time or not self.retries)

    def _require(self, trial: str) -> None:
        if trial not in self.trials:
            raise CallError(f"this search has no trial {trial}")

    @property
    def hopeless(self) -> bool:
        """Whether enough trials were tried and none worked."""
        if any(ended.worked for ended in self.ended.values()):
            return False
        failed = sum(ended.status == "failed" for ended in self.ended.values())
        return failed >= FAILURES_TO_GIVE_UP or len(self.ended) >= INFEASIBLE_TO_GIVE_UP

    @property
    def best(self) -> str | None:
        """The trial with the best score, the first of equal ones."""
        best: str | None = None
        for trial in sorted(self.ended):
            score = self.trials[trial].score
            if score is not None and (best is None or self.goal.better(score, self.trials[best].score)):
                best = trial
        # Of trials that are equal in the first objective, the one that is best in the others.
        return next(iter(self.front), best) if len(self.goals) > 1 else best

    def figures(self, trial: str) -> dict[str, float]:
        """Returns every objective of a trial that worked."""
        return {self.goal.figure: self.trials[trial].score, **self.ended[trial].figures}

    @property
    def front(self) -> list[str]:
        """The trials that none beats in every objective, the best in the first one first."""
        worked = [trial for trial in sorted(self.ended) if self.ended[trial].worked]
        return front(self.goals, {trial: self.figures(trial) for trial in worked})

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each ended trial, in order."""
        return [self._row(trial) for trial in sorted(self.ended)]

    def save(self, *args: Any) -> None:
        """Does nothing: the journal records everything."""

    reload = save

    def _next(self) -> str | None:
        """Returns the name of the next trial, a lost one first; None if there is none, or none yet."""
        if self.hopeless or self.out_of_time:
            return None
        if self.retries:
            return str(self.retries.pop(0))
        if self._full:
            return None
        trial = f"{len(self.trials) + 1:04d}"
        keys = self._choose(trial)
        if keys is None:
            return None
        self._open(trial, keys)
        if self.records is not None:
            self.records.write_order(self.orders[trial])
            self.records.append({"event": "begin", "trial": trial, "keys": keys, "time": time.time()})
        return trial

    @property
    def _full(self) -> bool:
        return self.exhausted or len(self.trials) >= self.tune.most_trials or self.hopeless or self.out_of_time

    def _choose(self, trial: str) -> dict[str, Key] | None:
        """Returns KerasTuner's choice; None if there is none, or none yet."""
        self.seed_draws(number_of(self.tune.seed, trial))
        chosen = self.populate_space(trial)  # type: ignore[attr-defined]
        if chosen["status"] == "STOPPED":
            self.exhausted = True
        return dict(chosen["values"]) if chosen["status"] == "RUNNING" else None

    def _replay(self, trial: str, keys: dict[str, Key]) -> None:
        if not self.is_stateless and self._choose(trial) != keys:
            raise CallError(
                f"trial {trial} would not be chosen again: the search was started by another version of kerasimg or "
                "KerasTuner, or the spec was changed; search again"
            )
        self._open(trial, keys)

    def _open(self, trial: str, keys: dict[str, Key]) -> None:
        hyperparameters = self.hyperparameters.copy()  # type: ignore[attr-defined]
        hyperparameters.values = keys
        record = self.trials[trial] = kt_trial.Trial(hyperparameters, trial_id=trial, status="RUNNING")
        self.remember(keys)
        self.start_order.append(trial)  # type: ignore[attr-defined]
        self.orders[trial] = self._order(trial, record.hyperparameters.values)

    def _order(self, trial: str, keys: Mapping[str, Any]) -> Order:
        return Order(trial, self.space.values(keys), self.tune.max_epochs)

    def _unfinished(self) -> list[str]:
        return [trial for trial in self.trials if trial not in self.ended]

    def _end(self, trial: str, ended: Ended) -> None:
        for tuner_id in [name for name, ongoing in self.ongoing_trials.items() if ongoing.trial_id == trial]:
            del self.ongoing_trials[tuner_id]
        self.retries = [name for name in self.retries if name != trial]
        if trial in self.ended:
            return
        now = time.time()
        self._close(trial, ended, now)
        if self.records is not None:
            if self.records.read_ended(trial) is None:
                self.records.write_ended(trial, ended)
            result: dict[str, Any] = {
                "status": ended.status,
                "score": ended.score,
                "seconds": ended.seconds,
                "curve": ended.curve,
            }
            result |= {"reason": ended.reason, "scores": ended.scores, "best_epoch": ended.best_epoch}
            result |= {"figures": ended.figures} if ended.figures else {}
            host = self.hosts.setdefault(trial, this_host())
            self.records.append({"event": "end", "trial": trial, "ended": result, "time": now, "host": host})
            self.records.write_table(self.table())
        log.info(self._line(trial, ended))

    def _close(self, trial: str, ended: Ended, when: float) -> None:
        self.ended[trial], self.times[trial], self.curves[trial] = ended, when, list(ended.curve)
        record = self.trials[trial]
        record.status, record.score, record.message = WORKED if ended.worked else FAILED, None, ended.reason
        if ended.worked:
            record.score, record.best_step = ended.score, ended.best_epoch or 0
        self.end_order.append(trial)  # type: ignore[attr-defined]

    def _counts(self, trial: str) -> bool:
        return trial not in self.ended or self.ended[trial].worked

    def _row(self, trial: str) -> dict[str, Any]:
        ended, order = self.ended[trial], self.orders[trial]
        row = {
            "trial": trial,
            "status": ended.status,
            **{goal.figure: ended.figures.get(goal.figure) for goal in self.goals},
            self.goal.figure: ended.score,
            "seconds": round(ended.seconds, 3),
        }
        row |= {
            "epochs": order.first_epoch + len(ended.curve),
            "best_epoch": ended.best_epoch,
            "goes_on_from": order.of,
        }
        row["host"] = self.hosts.get(trial, UNKNOWN_HOST)
        return row | dict(order.values) | {"reason": ended.reason}

    def _line(self, trial: str, ended: Ended) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.orders[trial].values.items())
        place = f"trial {int(trial)}"
        if self.tune.max_trials is not None or self.tune.minutes is None:
            place += f" of {self.tune.most_trials}"
        if ended.score is None or not ended.worked:
            return f"{place}: {ended.status}: {ended.reason} ({values})"
        best = self.best or trial
        epochs = self.orders[trial].first_epoch + len(ended.curve)
        score = f"{self.goal.figure} {ended.score:.4g} in epoch {ended.best_epoch} of {epochs}"
        score += f"{' (stopped)' if ended.status == 'stopped' else ''}, {ended.seconds:.1f} s"
        return f"{place}: {score} (best {self.trials[best].score:.4g}, trial {int(best)}): {values}"

    def random_values(self, draw: Callable[[], Any]) -> Any:
        """First the defaults of the spec, then the values of a warm start; KerasTuner chooses the others."""
        return self.first_keys() or draw()

    def first_keys(self) -> dict[str, Key] | None:
        """Returns the values of the next trial if it is one of the first, which are not chosen; else None."""
        number = len(self.trials)
        if number > len(self.warm):
            return None
        values = self.warm[number - 1] if number else {}
        return {item.name: item.key(values.get(item.name, item.default)) for item in self.space.active(values)}


def number_of(*parts: Any) -> int:
    """Returns a number that depends only on the parts, by a hash."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


Rule = Literal["median", "halving"]
Curve = Sequence[float]
"""The objective after each epoch."""

FACTOR = 3
"""Successive halving continues one trial in FACTOR, with FACTOR times the epochs."""
ENOUGH = 5
"""Trials to compare with before the median rule ends any."""


def ends(rule: Rule, goal: Goal, curve: Curve, others: Mapping[str, Curve], epochs: int) -> bool:
    """Whether a trial should end after the last epoch of its curve.

    others: the curves of the other trials, except those that failed or are infeasible, by name.  epochs: the most
    epochs of a trial.
    """
    if len(curve) >= epochs:
        return False
    return RULES[rule](goal, curve, list(others.values()), epochs)


def below_median(goal: Goal, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
    """Whether the best value so far is worse than the median of the other trials' averages up to this epoch.

    Golovin et al. 2017, Google Vizier, 3.2.2 (doi:10.1145/3097983.3098043).
    """
    reached = [sum(other[: len(curve)]) / len(curve) for other in others if len(other) >= len(curve)]
    if len(reached) < ENOUGH:
        return False
    return goal.better(median(reached), _best(goal, curve))


def outside_best_third(goal: Goal, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
    """Whether the trial has reached a rung, and is not in the best third of the trials that have reached it.

    Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), except that trials are ended, not paused.
    """
    if len(curve) not in rungs(epochs):
        return False
    own = _best(goal, curve)
    reached = [_best(goal, other[: len(curve)]) for other in others if len(other) >= len(curve)]
    places = (len(reached) + 1) // FACTOR
    return len(reached) + 1 >= FACTOR and sum(goal.better(other, own) for other in reached) >= places


def rungs(epochs: int) -> list[int]:
    """Returns the epochs after which successive halving decides: a third of all, a ninth, and so on, down to 1."""
    decisions = []
    while (epochs := math.ceil(epochs / FACTOR)) > 1:
        decisions.append(epochs)
    return sorted({*decisions, 1})


def _best(goal: Goal, curve: Curve) -> float:
    return (min if goal.direction == "min" else max)(curve)


RULES = {"median": below_median, "halving": outside_best_third}
