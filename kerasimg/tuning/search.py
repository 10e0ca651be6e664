"""`kerasimg.tune`: searches the hyperparameters of a spec, and writes the best spec."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.catalog import Reference
from kerasimg.data.readable import OnBadImage
from kerasimg.data.sources import Data, open_recorded
from kerasimg.errors import CallError, Interrupted, KerasimgError, counted, listed
from kerasimg.escaping import command
from kerasimg.files import lock_folder, read_object, replacing, write_json, write_text
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.run_folder import SPEC
from kerasimg.training.deadline import OutOfTime
from kerasimg.training.prepare import load_for, weights_of
from kerasimg.training.run import cache_kind, describe_weights, removed_unless, require_place, weights_of_record
from kerasimg.training.train import resume, train
from kerasimg.tuning.chief import Service, lead
from kerasimg.tuning.journal import ARRAYS, BEST, FRONT, FRONT_TABLE, JOURNAL, TRIALS, WINNER, Ended, Records, as_csv
from kerasimg.tuning.protocol import TOKEN_VARIABLE, given_token, token_of
from kerasimg.tuning.samplers import make_sampler
from kerasimg.tuning.search_folder import Task, begin, best_spec_text
from kerasimg.tuning.space import Space, space_of
from kerasimg.tuning.time_budget import TimeBudget
from kerasimg.tuning.worker import UsedUp, run_trials

KERAS_TUNER_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
"""The environment variables of KerasTuner's own distributed search."""

OnFinished = Callable[[Task, Any], object]
"""Called with a search and its oracle when all trials have ended; writes the report page of the search."""


def trial_rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of trials.csv, one per ended trial: number, status, score, seconds, values."""
    return list(open_search(folder)[1].table())


def open_search(folder: Path) -> tuple[Task, Any]:
    """Returns an earlier search and its oracle."""
    task = Task.open(folder, data="")
    oracle = _oracle(task)
    oracle.open(Records(folder))
    return task, oracle


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
    on_trained: Any = None,
    warm_start: Any = None,
    token: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    began: float | None = None,
    **params: Any,
) -> Path:
    """Search the hyperparameters that a spec leaves open for the best spec.

    The arguments are those of `kerasimg.tune`, except:

    Args:
        on_finished: called at the end; None: no page is written, nor after a resume.
        on_trained: called with the run of the best spec, if it is trained (`tune.train_best`).
        warm_start: earlier searches, or their folders: one, or a list.
        began: `time.monotonic` when the time of `tune.minutes` began; None: now.
        token: the token that workers on other machines must show; None: the one in the environment variable
            KERASIMG_TOKEN, else a new one, which is printed.
    """
    began = time.monotonic() if began is None else began
    _check(workers, chief)
    require_place(out, data)
    token = given_token(token)
    spec, source = load_for(ref, data, overrides, params)
    warm = warm_values(space_of(spec), folders_of(warm_start)) if warm_start is not None else []
    call: dict[str, Any] = {"weights": describe_weights(weights_of(ref, weights)), "cache": cache_kind(cache)}
    call |= {"limits": limits and dict(limits), "warm_start": warm}
    call |= {"on_bad_image": on_bad_image, "report": on_finished is not None, "workers": workers, "chief": chief}
    if workers != 1 or chief:
        _check_shared(source.where, workers)
    with _listening(chief) as service:  # before there is a folder: the port may be taken
        task = begin(ref, spec, source, data, out, call)
        log.info(f"searching {_describe(task)} -> {task.folder}")
        budget = TimeBudget(task.folder, spec.tune.minutes, began)
        with removed_unless(task.folder, (task.folder / JOURNAL).is_file):
            return _carry_out(task, workers, service, token, cache, on_finished, on_trained, budget)


def resume_search(
    folder: str | os.PathLike[str],
    *,
    data: Data | None = None,
    workers: int | None = None,
    chief: str | None = None,
    cache: Any = None,
    on_finished: OnFinished | None = None,
    on_trained: Any = None,
    token: str | None = None,
    began: float | None = None,
) -> Path:
    """Resume an interrupted search; trials that have ended are not trained again.

    folder: that of the search.  data: the images, if they were arrays or have moved.
    workers, chief, cache, token: as for `tune`; None: as before.  on_finished, on_trained: as for `tune`; called only
    if `tune` was called with one. It has what is left of `tune.minutes`, from `began` on (`time.monotonic`; None: now).
    A finished search is not changed.
    """
    began = time.monotonic() if began is None else began
    task = Task.open(folder, data)
    workers = task.call["workers"] if workers is None else workers
    chief = chief or task.call["chief"]
    _check(workers, chief)
    if task.finished:
        log.info(f"{task.folder} is finished; nothing is left to do")
        return task.folder
    token = given_token(token)
    with _listening(chief) as service:
        advice = f"{command('tune', '--resume', task.folder)} --data DIR"
        where, positive = str(task.call["data"]), task.spec.positive_class
        task.check(open_recorded(where, data, task.spec.task, advice, positive=positive))
        if differences := task.other_surroundings():
            log.info(f"the scores of earlier and later trials may not be comparable: {'; '.join(differences)}")
        budget = TimeBudget(task.folder, task.spec.tune.minutes, began)
        return _carry_out(task, workers, service, token, cache, on_finished, on_trained, budget)


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
    points = counted(count, "hyperparameter") + (f" ({counted(size, 'combination')})" if size else "")
    tune = task.spec.tune
    most = f", at most {counted(tune.most_trials, 'trial')}" if tune.max_trials or tune.minutes is None else ""
    return f"{points}, {tune.tuner}{most}" + (
        f", {counted(tune.minutes, 'minute')}" if tune.minutes is not None else ""
    )


def _oracle(task: Task) -> Any:
    warm = task.call.get("warm_start", ())
    return make_sampler(task.space, task.goal, task.spec.tune, task.epochs, others=task.goals[1:], warm=warm)


WARM = 5
"""Most trials of earlier searches with which a search begins."""


def folders_of(searches: Any) -> list[Path]:
    """Returns the folders of one search or several, each given as a `Search`, its folder or its best.json."""
    several = searches if isinstance(searches, Sequence) and not isinstance(searches, str) else [searches]
    paths = [Path(search) for search in several]
    return [path.parent if path.name == BEST else path for path in paths]


def warm_values(space: Space, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns the values with which a search should begin: the best of earlier searches, as far as the space has them.

    Feurer et al. 2015, doi:10.1609/aaai.v29i1.9354. Scores are not taken over: other images or another model would make
    them incomparable.

    Raises:
        CallError: if a folder has no search, or none of its values is in this space.
    """
    lists = []
    for folder in folders:
        task, oracle = open_search(folder)
        worked = [trial for trial in oracle.ended if oracle.ended[trial].worked]
        sign = -1.0 if task.goal.direction == "max" else 1.0
        ranked = sorted(worked, key=lambda trial: sign * oracle.ended[trial].score)
        known = [_within(space, oracle.orders[trial].values) for trial in ranked]
        if worked and not any(known):
            names = listed([dimension.name for dimension in space.dimensions])
            raise CallError(f"warm_start: no trial of '{folder}' has a value for {names} that this spec allows")
        lists.append(known)
    turns = [values for each in zip_longest(*lists) for values in each if values is not None]
    distinct = [values for place, values in enumerate(turns) if values not in turns[:place]]
    return [values for values in distinct if values != space.defaults][:WARM]


def _within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a full set of values of a space, with those that it allows; empty if it allows none."""
    allowed = {item.name: values[item.name] for item in space.dimensions if item.name in values}
    allowed = {name: value for name, value in allowed.items() if space[name].allows(value)}
    return space.complete(allowed) if allowed else {}


def _carry_out(
    task: Task,
    workers: int,
    service: Service | None,
    token: str | None,
    cache: Any,
    on_finished: OnFinished | None,
    on_trained: Any,
    budget: TimeBudget,
) -> Path:
    """Search.  service: for workers elsewhere; None: for those on this machine only."""
    with lock_folder(task.folder, "searching"), budget.counting():
        if not (task.folder / BEST).is_file():
            _search(task, workers, service, token, cache, on_finished, budget)
        if task.spec.tune.train_best:
            _train_best(task, cache, on_trained, budget)
        return task.folder


def _search(
    task: Task,
    workers: int,
    service: Service | None,
    token: str | None,
    cache: Any,
    on_finished: OnFinished | None,
    budget: TimeBudget,
) -> None:
    records = Records(task.folder)
    oracle = _oracle(task)
    oracle.left_s = lambda: budget.left_s - _reserve_s(task, oracle)
    try:
        ended = oracle.open(records, may_come_back=service is not None)
        if ended:
            log.info(f"resuming {task.folder}: {counted(ended, 'trial', 'have')} ended")
        if not oracle.over:
            alone = workers == 1 and service is None
            # A process whose memory is used up leaves the rest to others, which can be replaced.
            if not alone or not _alone(task, oracle, records, cache, budget):
                if alone:
                    log.info("the trials have taken much memory, which is not given back: another process goes on")
                _lead(task, oracle, workers, service, token)
        _finish(task, oracle, on_finished)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"interrupted; {counted(len(oracle.ended), 'trial', 'are')} saved; "
            f"to resume: {command('tune', '--resume', task.folder)}"
        ) from None


PAGE_S, START_S = 1.0, 6.0
"""Time that is left for the page of a search, and for building the model of a training and writing its run."""


def _reserve_s(task: Task, oracle: Any) -> float:
    """Returns the time to leave for what comes after the trials: the page, and the training of the best spec."""
    best = oracle.best
    if not task.spec.tune.train_best or best is None:
        return PAGE_S
    return float(PAGE_S + START_S + 1.2 * oracle.ended[best].seconds)


def _train_best(task: Task, cache: Any, on_trained: Any, budget: TimeBudget) -> None:
    """Train the best spec in the folder of the search, or resume its training, in the time that is left."""
    if not task.call["report"]:
        on_trained = None
    begun = sorted(task.folder.glob(f"{task.spec.name}-*/{SPEC}"))
    cache = cache or task.call["cache"]
    options: dict[str, Any] = {"data": task.data, "cache": cache, "on_finished": on_trained, "verbose": 0}
    options["deadline"] = budget.deadline(START_S / 2)
    if begun:
        run = resume(begun[-1].parent, **options)
    else:
        options |= {"weights": weights_of_record(task.call["weights"]), "limits": task.limits}
        options |= {"on_bad_image": task.call["on_bad_image"], "out": task.folder}
        run = train(task.folder / BEST, **options)
    write_json(task.folder / WINNER, {**read_object(task.folder / WINNER), "run": run.path.name})


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


def _alone(task: Task, oracle: Any, records: Records, cache: Any, budget: TimeBudget) -> bool:
    """Train the trials in this process; return False if another process must continue because of memory."""
    try:
        runner = task.trials(task.folder / TRIALS, cache, budget.deadline())
    except OutOfTime as error:
        log.info(str(error))
        return True
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
    best, minutes = oracle.best, task.spec.tune.minutes
    if best is None and (not oracle.ended or (minutes is not None and oracle.out_of_time)):
        raise KerasimgError(
            f"the {counted(minutes or 0.0, 'minute')} of the search ended before an epoch of its first trial did; set "
            "tune.minutes higher, or search with smaller images or fewer of them "
            f"({command('tune', '--resume', task.folder)} has no time)"
        )
    if best is None:
        first: Ended = oracle.ended[min(oracle.ended)]
        raise KerasimgError(
            f"none of {counted(len(oracle.ended), 'trial')} worked; the first one {first.status}: {first.reason}\n"
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
    winner |= {"figures": oracle.figures(best), "front": _write_front(task, oracle)}
    write_json(task.folder / WINNER, winner)
    for state in (task.folder / TRIALS).rglob("state.ckpt"):
        state.unlink()
    (task.folder / ARRAYS).unlink(missing_ok=True)
    if on_finished is not None and task.call["report"]:
        on_finished(task, oracle)
    write_text(task.folder / BEST, best_spec_text(task, order.values, origin))
    if len(task.goals) > 1:
        log.info(f"{len(winner['front'])} specs on the front of {listed(task.spec.tune.objectives)}: {FRONT_TABLE}")


def _write_front(task: Task, oracle: Any) -> list[dict[str, Any]]:
    """Write the table of the front and a spec for each of its trials; return its rows. Nothing for one objective."""
    if len(task.goals) == 1:
        return []
    tune, rows = task.spec.tune, []
    (task.folder / FRONT).mkdir(exist_ok=True)
    for trial in oracle.front:
        figures, values = oracle.figures(trial), dict(oracle.orders[trial].values)
        shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        origin = (
            f"kerasimg {version('kerasimg')}, {tune.tuner} search with seed {tune.seed}: trial {int(trial)}, {shown}"
        )
        write_text(task.folder / FRONT / f"{trial}.json", best_spec_text(task, values, origin))
        rows.append({"trial": trial, "figures": figures, "values": values})
    table = [{"trial": row["trial"], **row["figures"], **row["values"]} for row in rows]
    write_text(task.folder / FRONT_TABLE, as_csv(table))
    return rows
