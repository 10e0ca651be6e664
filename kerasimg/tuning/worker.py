"""A worker of a parallel search: a process that trains the trials that a chief hands out."""

from __future__ import annotations

import argparse
import gc
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kerasimg import log
from kerasimg.catalog import Reference
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, KerasimgError
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.training import reopen


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
    """Train trials for the search that a chief leads, until it has no more; how many they were.

    ref, data and the rest: as for the chief, `kerasimg.tune(..., chief="HOST:PORT")`.  chief: HOST:PORT where it is.
    token: that of the chief; None: the one in the environment variable KERASIMG_TOKEN.
    The chief may come later, and may be restarted. Nothing is kept here; what became of each trial goes to the chief.
    Raises `kerasimg.tuning.tuner.UsedUp` where the process has taken so much memory that another should go on.
    """
    from kerasimg.training.prepare import load_for, weights_of
    from kerasimg.tuning.protocol import TOKEN_VARIABLE, given_token
    from kerasimg.tuning.remote_oracle import address_of
    from kerasimg.tuning.search_folder import Task, data_record, digests

    address_of(chief)
    if (token := given_token(token)) is None:
        raise CallError(
            f"a worker needs the token of its chief, which the chief prints: --token, or {TOKEN_VARIABLE} in the "
            "environment"
        )
    spec, source = load_for(ref, data, overrides, params)
    call = {"weights": reopen.described(weights_of(ref, weights)), "limits": limits, "on_bad_image": on_bad_image}
    call |= {"cache": reopen.kind_of(cache), "digests": digests(spec, data_record(source))}
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
    kept: Callable[[str, Any], None] | None = None,
) -> int:
    """Train what a chief hands out; how many trials it was.

    name: of this worker, which no other has.  kept: keeps what became of a trial, before the chief knows.
    """
    from kerasimg.training.splits import seed_of
    from kerasimg.tuning.oracle import make_oracle
    from kerasimg.tuning.remote_oracle import Chief
    from kerasimg.tuning.tuner import TrialTuner

    asked = Chief(chief, token, task.digest, name)
    log.info(f"asking for trials at {chief}")
    asked.join(task.identity)  # before the images are read: a worker that is refused costs nothing
    tune = task.spec.tune
    done = 0

    def finished(trial: str, ended: Any) -> None:
        nonlocal done
        done += 1
        if kept is not None:
            kept(trial, ended)
        log.info(f"trial {trial}: {ended.status}, {task.goal.figure} {ended.score}")

    with asked.present():
        runner = task.trials(folder, cache)
        oracle = make_oracle(task.space, task.goal, tune, task.epochs)
        worker = TrialTuner(
            oracle,
            runner,
            task.goal,
            folder,
            seed=seed_of(task.spec),
            executions=tune.executions_per_trial,
            follow=tune.stop is not None,
            finished=finished,
        )
        worker.oracle = asked
        worker.search()
    log.info("the search has ended")
    return done


def main() -> None:
    """A worker on the chief's own machine, which shares its folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("chief")
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--data")
    parser.add_argument("--cores")
    parser.add_argument("--parent", type=int)
    told = parser.parse_args()
    if told.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in told.cores.split(",")])
    from kerasimg.tuning.journal import TRIALS, Records
    from kerasimg.tuning.protocol import token_of
    from kerasimg.tuning.remote_oracle import end_with
    from kerasimg.tuning.search_folder import Task
    from kerasimg.tuning.tuner import UsedUp

    if told.parent:
        end_with(told.parent)
    gc.collect()
    gc.freeze()  # the collector need not go through all loaded modules in every trial
    try:
        task = Task.open(told.folder, told.data)
        folder = task.folder / TRIALS
        cache = "disk" if task.call["cache"] in ("auto", "memory") else None
        serve(task, told.chief, token_of(task.folder), told.name, folder, cache, Records(task.folder).write_ended)
    except UsedUp:
        sys.exit(0)  # the chief begins another
    except KerasimgError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
