"""`kerasimg.tune`: searches the hyperparameters of a spec, and writes the best spec."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.catalog import Reference
from kerasimg.data.readable import OnBadImage
from kerasimg.data.sources import Data, open_source
from kerasimg.errors import CallError, Interrupted, KerasimgError
from kerasimg.files import lock_folder, replacing, write_json, write_text
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.training.prepare import load_for, weights_of
from kerasimg.training.run import cache_kind, describe_weights
from kerasimg.tuning.chief import Service, lead
from kerasimg.tuning.journal import ARRAYS, BEST, TRIALS, WINNER, Ended, Records
from kerasimg.tuning.protocol import TOKEN_VARIABLE, given_token, token_of
from kerasimg.tuning.samplers import make_sampler
from kerasimg.tuning.search_folder import Task, begin, best_spec_text
from kerasimg.tuning.worker import UsedUp, run_trials

KERAS_TUNER_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
"""The environment variables of KerasTuner's own distributed search."""

OnFinished = Callable[[Task, Any], object]
"""Called with a search and its oracle when all trials have ended; writes the report page of the search."""


def trial_rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of trials.csv, one per ended trial: number, status, score, seconds, values."""
    oracle = _oracle(Task.open(folder, data=""))
    oracle.open(Records(folder))
    return list(oracle.table())


def tune(
    ref: Reference,
    *,
    data: Data,
    out: str | os.PathLike[str] = "runs",
    workers: int = 1,
    chief: str | None = None,
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: Any = "auto",
    on_finished: OnFinished | None = None,
    token: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **params: Any,
) -> Path:
    """Search the hyperparameters that a spec leaves open for the best spec.

    The arguments are those of `kerasimg.tune`, except:

    Args:
        on_finished: called at the end; None: no page is written, nor after a resume.
        token: the token that workers on other machines must show; None: the one in the environment variable
            KERASIMG_TOKEN, else a new one, which is printed.
    """
    _check(workers, chief)
    token = given_token(token)
    spec, source = load_for(ref, data, overrides, params)
    call: dict[str, Any] = {"weights": describe_weights(weights_of(ref, weights)), "cache": cache_kind(cache)}
    call |= {"limits": limits and dict(limits)}
    call |= {"on_bad_image": on_bad_image, "report": on_finished is not None, "workers": workers, "chief": chief}
    if workers != 1 or chief:
        _check_shared(source.where, workers)
    with _listening(chief) as service:  # before there is a folder: the port may be taken
        task = begin(ref, spec, source, data, out, call)
        log.info(f"searching {_describe(task)} -> {task.folder}")
        return _carry_out(task, workers, service, token, cache, on_finished)


def resume_search(
    folder: str | os.PathLike[str],
    *,
    data: Data | None = None,
    workers: int | None = None,
    chief: str | None = None,
    cache: Any = None,
    on_finished: OnFinished | None = None,
    token: str | None = None,
) -> Path:
    """Resume an interrupted search; trials that have ended are not trained again.

    folder: that of the search.  data: the images, if they were arrays or have moved.
    workers, chief, cache, token: as for `tune`; None: as before.  on_finished: as for `tune`; called only if `tune` was
    called with one.  A finished search is not changed.
    """
    task = Task.open(folder, data)
    workers = task.call["workers"] if workers is None else workers
    chief = chief or task.call["chief"]
    _check(workers, chief)
    if task.finished:
        log.info(f"{task.folder} is finished; nothing is left to do")
        return task.folder
    token = given_token(token)
    with _listening(chief) as service:
        task.check(open_source(task.data, task.spec.task, positive=task.spec.positive_class))
        if differences := task.other_surroundings():
            log.info(f"the scores of earlier and later trials may not be comparable: {'; '.join(differences)}")
        return _carry_out(task, workers, service, token, cache, on_finished)


@contextmanager
def _listening(chief: str | None) -> Iterator[Service | None]:
    """The service at an address, bound while the block runs; None for a search on this machine."""
    if chief is None:
        yield None
        return
    service = Service(chief)
    try:
        yield service
    finally:
        service.close()


def _check(workers: int, chief: str | None) -> None:
    if names := [name for name in KERAS_TUNER_VARIABLES if name in os.environ]:
        raise CallError(
            f"{', '.join(names)} is set, for a KerasTuner over several machines; with kerasimg say --chief or --worker "
            "HOST:PORT, and unset it"
        )
    if workers < (0 if chief else 1):
        raise CallError(f"workers: expected a number > 0, got {workers}; 0 is for a chief whose workers are elsewhere")


def _check_shared(where: str, workers: int) -> None:
    if where == "dataset":
        raise CallError("several processes cannot share a data set in memory; save it, and give its folder")


def _describe(task: Task) -> str:
    size = task.space.size
    count = len(task.space.dimensions)
    points = f"{count} hyperparameter{'' if count == 1 else 's'}" + (f" ({size:,} combinations)" if size else "")
    tune = task.spec.tune
    return f"{points}, {tune.tuner}, at most {tune.max_trials} trials"


def _oracle(task: Task) -> Any:
    return make_sampler(task.space, task.goal, task.spec.tune, task.epochs)


def _carry_out(
    task: Task,
    workers: int,
    service: Service | None,
    token: str | None,
    cache: Any,
    on_finished: OnFinished | None,
) -> Path:
    """Search.  service: for workers elsewhere; None: for those on this machine only."""
    with lock_folder(task.folder, "searching"):
        return _search(task, workers, service, token, cache, on_finished)


def _search(
    task: Task,
    workers: int,
    service: Service | None,
    token: str | None,
    cache: Any,
    on_finished: OnFinished | None,
) -> Path:
    records = Records(task.folder)
    oracle = _oracle(task)
    try:
        ended = oracle.open(records, may_come_back=service is not None)
        if ended:
            log.info(f"resuming {task.folder}: {ended} trials have ended")
        if not oracle.over:
            alone = workers == 1 and service is None
            # A process whose memory is used up leaves the rest to others, which can be replaced.
            if not alone or not _alone(task, oracle, records, cache):
                if alone:
                    log.info("the trials have taken much memory, which is not given back: another process goes on")
                _lead(task, oracle, workers, service, token)
        _finish(task, oracle, on_finished)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"interrupted; {len(oracle.ended)} trials are saved; to resume: kerasimg tune --resume {task.folder}"
        ) from None
    return task.folder


def _lead(task: Task, oracle: Any, workers: int, service: Service | None, token: str | None) -> None:
    """Have workers train the trials."""
    elsewhere = service is not None
    service = service or Service("127.0.0.1:0")
    shared = token_of(task.folder, token)
    service.serve(oracle, task.number, shared, task.identity, task.digest)
    if elsewhere:
        shown = f"{TOKEN_VARIABLE}={shared} " if token is None else ""
        log.info(
            f"workers may come to {service.address}: {shown}kerasimg tune SPEC --data DIR --worker HOST:{service.port}"
            + (f" (with the token in {TOKEN_VARIABLE})" if token is not None else "")
        )
    lead(oracle, workers, service, _arguments(task), elsewhere=elsewhere)


def _alone(task: Task, oracle: Any, records: Records, cache: Any) -> bool:
    """Train the trials in this process; return False if another process must continue because of memory."""
    runner = task.trials(task.folder / TRIALS, cache)
    try:
        run_trials(oracle, "alone", runner, task, finished=records.write_ended, next_values=oracle.next_values)
    except UsedUp:
        return False
    return True


def _arguments(task: Task) -> list[str]:
    """Returns the arguments of a worker on this machine: the folder, and the file in which arrays are stored for it."""
    if task.call["data"] is not None:
        moved = str(task.data) != task.call["data"]
        return [str(task.folder), *(["--data", os.path.abspath(str(task.data))] if moved else [])]
    path = task.folder / ARRAYS
    if not path.is_file():
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, x=np.asarray(task.data[0]), y=np.asarray(task.data[1]))  # type: ignore[index]
    return [str(task.folder), "--data", str(path.resolve())]


def _finish(task: Task, oracle: Any, on_finished: OnFinished | None) -> None:
    """Write the result; KerasimgError if no trial worked."""
    best = oracle.best
    if best is None:
        first: Ended = oracle.ended[min(oracle.ended)]
        raise KerasimgError(
            f"none of {len(oracle.ended)} trials worked; the first one {first.status}: {first.reason}\n"
            f"(all of them: {task.folder / 'trials.csv'})"
        )
    ended, order = oracle.ended[best], oracle.orders[best]
    score = (
        f"{task.goal.figure} {ended.score:.6g} in epoch {ended.best_epoch} of {order.first_epoch + len(ended.curve)}"
    )
    tune = task.spec.tune
    origin = (
        f"kerasimg {version('kerasimg')}, {tune.tuner} search with seed {tune.seed}: trial {int(best)} of "
        f"{len(oracle.ended)}, {score}"
    )
    winner = {"trial": best, "objective": task.goal.figure, "score": ended.score, "values": dict(order.values)}
    write_json(task.folder / WINNER, winner)
    for state in (task.folder / TRIALS).rglob("state.ckpt"):
        state.unlink()
    (task.folder / ARRAYS).unlink(missing_ok=True)
    if on_finished is not None and task.call["report"]:
        on_finished(task, oracle)
    write_text(task.folder / BEST, best_spec_text(task, order.values, origin))
    log.info(f"best: trial {int(best)}, {score}; {task.folder / BEST}")
