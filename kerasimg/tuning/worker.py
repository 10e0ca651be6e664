"""A worker of a parallel search: a process that trains the trials that a chief hands out."""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import grpc  # type: ignore[import-untyped]

from kerasimg import log
from kerasimg.catalog import Reference
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, KerasimgError
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import Goal
from kerasimg.training.deadline import Deadline
from kerasimg.training.prepare import load_for, weights_of
from kerasimg.training.run import cache_kind, describe_weights
from kerasimg.training.splits import seed_of
from kerasimg.tuning import protocol
from kerasimg.tuning.ask_tell import Answer, this_host
from kerasimg.tuning.journal import TRIALS, Ended, Order, Outcome, Records, Row
from kerasimg.tuning.protocol import PATIENCE_S, TOKEN_VARIABLE, address_of, given_token, token_of
from kerasimg.tuning.search_folder import Task, data_record, digests

SAY_AFTER_S = 3.0
"""How long a worker waits for the chief before it logs that."""
CALL_S = 30.0
"""Timeout of a request: a choice of Bayesian search takes some seconds."""
ASK_AGAIN_S = 0.2
HEARTBEAT_S = 5.0
LOOK_S = 0.2
"""How often a worker checks that its parent process is alive."""
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000))


class Chief:
    """The client through which a worker uses the oracle of a search."""

    def __init__(self, address: str, token: str, digest: str, worker: str) -> None:
        """address: HOST:PORT.  digest: of `Task.identity`.  worker: the unique name of this worker."""
        host, port = address_of(address)
        self.address = address
        self.channel = grpc.insecure_channel(f"{host}:{port}", options=CHANNEL)
        self.facts = {protocol.TOKEN: token, protocol.DIGEST: digest, protocol.WORKER: worker}
        self.facts[protocol.HOST] = this_host()
        self.trial: str | None = None
        """The trial that is being trained."""

    def join(self, identity: Mapping[str, str]) -> None:
        """Send the identity of this worker, and wait for the chief; CallError if the chief refuses it."""
        answer = self._patiently("Join", protocol.encode({"identity": identity}))
        self.facts[protocol.SEARCH] = str(answer["search"])

    def create_trial(self, tuner_id: str) -> Answer:
        """Returns the next trial."""
        answer = self._patiently("Next", b"{}")
        order = None if answer["order"] is None else Order(**answer["order"])
        self.trial = None if order is None else order.trial
        return Answer(answer["status"], order)

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> bool:
        """Reports an epoch; returns whether the trial should end."""
        (value,) = metrics.values()
        message = protocol.encode({"trial": trial_id, "step": step, "value": float(value)})
        return bool(self._patiently("Epoch", message)["stop"])

    def end_trial(self, trial: str, ended: Ended) -> None:
        """Reports the result of a trial."""
        self._patiently("End", protocol.end_message(trial, ended))
        self.trial = None

    def _call(self, method: str, message: bytes, timeout_s: float = CALL_S) -> dict[str, Any]:
        call = self.channel.unary_unary(f"/{protocol.SERVICE}/{method}")
        return dict(json.loads(call(message, timeout=timeout_s, metadata=tuple(self.facts.items()))))

    def _patiently(self, method: str, message: bytes) -> dict[str, Any]:
        """Returns the answer, and waits for a chief that is gone. Requests are idempotent, so they can be repeated."""
        started = time.monotonic()
        waiting = False
        while True:
            try:
                answer = self._call(method, message)
            except grpc.RpcError as error:
                self._raise_unless_away(error)
                waited_s = time.monotonic() - started
                known = protocol.SEARCH in self.facts
                if waited_s > PATIENCE_S:
                    raise KerasimgError(
                        f"no chief at {self.address} for {PATIENCE_S:.0f} s; start it, or resume its search by --resume"
                    ) from None
                if not waiting and waited_s > SAY_AFTER_S:
                    waiting = True
                    state = "the chief is gone from" if known else "no chief at"
                    then = "" if known else " yet"
                    log.info(f"{state} {self.address}{then}; it is waited for, at most {PATIENCE_S:.0f} s")
                time.sleep(ASK_AGAIN_S)
            else:
                if waiting:
                    log.info(f"the chief at {self.address} answers")
                return answer

    def _raise_unless_away(self, error: Any) -> None:
        code = error.code()
        if code in AWAY:
            return
        if code in REFUSED:
            raise CallError(f"the chief at {self.address} refuses this worker: {error.details()}") from None
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise CallError(f"what listens at {self.address} is no chief of this version of kerasimg") from None
        raise KerasimgError(f"the chief at {self.address} answers: {error.details()}") from None

    @contextmanager
    def present(self) -> Iterator[None]:
        """Send heartbeats to the chief while the block runs, and a message that this worker leaves at its end."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                with suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed meanwhile
                    self._call("Alive", protocol.encode({"trial": self.trial}), HEARTBEAT_S)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            done.set()
            with suppress(grpc.RpcError):
                self._call("Leave", b"{}", 1.0)
            self.channel.close()


def end_with(parent: int) -> None:
    """End this process when its parent process has ended for any reason."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


class UsedUp(Exception):
    """The process holds much memory that it cannot release: another process should continue."""


def run_trials(
    oracle: Any,
    worker: str,
    runner: Any,
    task: Any,
    *,
    finished: Callable[[str, Ended], None] = lambda trial, ended: None,
    next_values: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> None:
    """Trains trials until there are no more.

    Args:
        oracle: hands out the trials and takes the results: a sampler of `samplers.py`, or a `Chief`.
        worker: name of this worker.
        runner: trains a trial: `Trials`.
        task: has the spec and the goal of the search: `Task`.
        finished: called with each trial and its result, before the oracle gets it.
        next_values: returns the values of the next trial, or None if they are not known yet.

    Raises:
        UsedUp: if this process should train no more.
    """
    while True:
        if runner.used_up():
            raise UsedUp
        status, order = oracle.create_trial(worker)
        if status == "STOPPED":
            return
        if order is None:
            time.sleep(ASK_AGAIN_S)
            continue
        if (values := next_values()) is not None:
            runner.expect(values, seed=seed_of(task.spec))
        ended = run_trial(oracle, order, runner, task.spec, task.goal)
        finished(order.trial, ended)
        oracle.end_trial(order.trial, ended)


def run_trial(oracle: Any, order: Order, runner: Any, spec: Spec, goal: Goal) -> Ended:
    """Trains a trial as often as `tune.executions_per_trial` says."""

    def report(epoch: int, row: Mapping[str, float]) -> bool:
        figures = {goal.figure: row[goal.figure]}
        return bool(oracle.update_trial(order.trial, figures, step=epoch - order.first_epoch))

    deadline = Deadline.after(order.seconds)
    outcomes: list[Outcome] = []
    executions = spec.tune.executions_per_trial
    for number in range(executions):
        below = f"/execution-{number + 1}" if executions > 1 else ""
        try:
            outcome = runner.run(
                order.values,
                trial_id=order.trial + below,
                epochs=order.epochs,
                first_epoch=order.first_epoch,
                seed=seed_of(spec) + number,
                # Of several executions the first one decides whether the trial continues.
                after_epoch=report if spec.tune.stop and number == 0 else None,
                resume_from=order.of and order.of + below,
                keep_state=order.keep_state,
                deadline=deadline,
            )
        except Exception as error:  # a failed trial must not end the others
            outcome = Outcome("failed", [], {}, 0.0, f"{type(error).__name__}: {error}")
        outcomes.append(outcome)
        if outcome.status != "completed":
            break
    return summary(outcomes, goal, executions)


def summary(outcomes: list[Outcome], goal: Goal, executions: int = 1) -> Ended:
    """Returns the executions of a trial as one result; it worked if all of them did."""
    last = outcomes[-1]
    first = outcomes[0]
    scores = [float(result.best[goal.figure]) for result in outcomes if goal.figure in result.best]
    status, reason = last.status, last.reason
    if status == "stopped" and not scores:
        status, reason = "infeasible", "the time of the search ran out before its first epoch had ended"
    elif status in ("completed", "stopped") and len(scores) < len(outcomes):
        known = ", ".join(last.logs[-1]) if last.logs else "none"
        status, reason = "failed", f"no figure '{goal.figure}' was measured (there were: {known})"
    rows: list[Row] = []
    for number, outcome in enumerate(outcomes):
        rows += [{"execution": number + 1, **row} if executions > 1 else dict(row) for row in outcome.logs]
    worked = status in ("completed", "stopped")
    return Ended(
        status=status,
        score=fmean(scores) if scores and worked else None,
        seconds=sum(result.seconds for result in outcomes),
        curve=[float(row[goal.figure]) for row in first.logs if goal.figure in row],
        best_epoch=int(first.best["epoch"]) if "epoch" in first.best else None,
        reason=reason,
        scores=scores,
        rows=rows,
        figures={name: fmean(result.figures[name] for result in outcomes) for name in last.figures} if worked else {},
    )


def work(
    ref: Reference,
    *,
    data: Data,
    chief: str,
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    on_bad_image: Any = "fail",
    cache: Any = "auto",
    token: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **params: Any,
) -> int:
    """Train trials for a chief until it has no more; return their number.

    ref, data and the rest: as for the chief, `kerasimg.tune(..., chief="HOST:PORT")`.  chief: its address, HOST:PORT.
    token: that of the chief; None: the one in the environment variable KERASIMG_TOKEN.
    The chief may start later, and may be restarted. Nothing is saved here; the chief gets the result of each trial.
    Raises `UsedUp` if the process holds so much memory that another process should continue.
    """
    address_of(chief)
    if (token := given_token(token)) is None:
        raise CallError(
            f"a worker needs the token of its chief, which the chief prints: --token, or {TOKEN_VARIABLE} in the "
            "environment"
        )
    spec, source = load_for(ref, data, overrides, params)
    call = {"weights": describe_weights(weights_of(ref, weights)), "limits": limits, "on_bad_image": on_bad_image}
    call |= {"cache": cache_kind(cache), "digests": digests(spec, data_record(source), source)}
    with tempfile.TemporaryDirectory(prefix="kerasimg-") as folder:
        task = Task(Path(folder), spec, data, call)
        return serve(task, chief, token, f"worker-{secrets.token_hex(8)}", Path(folder), cache)


def serve(
    task: Any,
    chief: str,
    token: str,
    name: str,
    folder: Path,
    cache: Any,
    record: Callable[[str, Any], None] | None = None,
) -> int:
    """Train the trials that a chief hands out; return their number.

    name: the unique name of this worker.  record: saves the result of a trial before it is sent to the chief.
    """
    client = Chief(chief, token, task.digest, name)
    log.info(f"asking for trials at {chief}")
    client.join(task.identity)  # before the images are read: a worker that is refused costs nothing
    done = 0

    def finished(trial: str, ended: Any) -> None:
        nonlocal done
        done += 1
        if record is not None:
            record(trial, ended)
        log.info(f"trial {trial}: {ended.status}, {task.goal.figure} {ended.score}")

    with client.present():
        run_trials(client, name, task.trials(folder, cache), task, finished=finished)
    log.info("the search has ended")
    return done


def main() -> None:
    """Runs a worker on the chief's machine, which uses the folder of the search."""
    parser = argparse.ArgumentParser()
    parser.add_argument("chief")
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--data")
    parser.add_argument("--parent", type=int)
    options = parser.parse_args()
    if options.parent:
        end_with(options.parent)
    gc.collect()
    gc.freeze()  # spares the collector all loaded modules in every trial
    try:
        task = Task.open(options.folder, options.data)
        folder = task.folder / TRIALS
        cache = "disk" if task.call["cache"] in ("auto", "memory") else None
        serve(task, options.chief, token_of(task.folder), options.name, folder, cache, Records(task.folder).write_ended)
    except UsedUp:
        sys.exit(0)  # the chief starts another worker
    except KerasimgError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
