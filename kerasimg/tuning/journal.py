"""The files of a search: a journal, from which it resumes, a folder per trial, the weights of the best trials.

journal.jsonl has a line for the start and a line for the end of each trial, written by the one process that hands out
trials. An incomplete line, from a killed process, is ignored.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kerasimg.escaping import csv_row
from kerasimg.files import read_object, to_json, write_text
from kerasimg.run_folder import HISTORY, read_history
from kerasimg.spec.metrics import Goal

JOURNAL, TABLE, TRIALS = "journal.jsonl", "trials.csv", "trials"
VALUES, OUTCOME = "values.json", "outcome.json"
CALL, SPACE, WINNER, BEST, ARRAYS = "search.json", "space.json", "winner.json", "best.json", "arrays.npz"


@dataclass(frozen=True)
class Order:
    """A trial that is to be trained."""

    trial: str
    values: Mapping[str, Any]
    """Of the search values that count."""
    epochs: int | None = None
    """The epoch to stop before; None: the spec's end."""
    first_epoch: int = 0
    """Above 0: goes on from what another trial, `of`, stood at after so many epochs."""
    of: str | None = None
    keep_state: bool = False
    """Whether another trial may go on from it."""


@dataclass(frozen=True)
class Ended:
    """The result of a trial, all of its executions together."""

    status: Status
    score: float | None
    """The mean, over the executions, of the best figure of any epoch; None where there is none."""
    seconds: float
    curve: list[float] = field(default_factory=list)
    """The objective after each epoch of the first execution."""
    best_epoch: int | None = None
    """Of the first execution, from 1."""
    reason: str | None = None
    """Why it failed, or is infeasible."""
    scores: list[float] = field(default_factory=list)
    """Of each execution."""
    rows: list[Row] = field(default_factory=list)
    """One per epoch and execution."""

    @property
    def worked(self) -> bool:
        """Whether it has a valid score."""
        return self.status in ("completed", "stopped") and self.score is not None


class Records:
    """The files of a search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self) -> list[dict[str, Any]]:
        """The journal; a line that is not whole is removed from it."""
        path = self.folder / JOURNAL
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line to the journal, and bring it to the disk."""
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def trial_folder(self, trial: str) -> Path:
        """The folder of a trial."""
        return self.folder / TRIALS / trial

    def write_order(self, order: Order) -> None:
        """Write values.json of a trial."""
        self._write(order.trial, VALUES, to_json(asdict(order)) + "\n")

    def write_ended(self, trial: str, ended: Ended) -> None:
        """Write history.csv, then outcome.json: a trial that has one needs not be trained again."""
        if ended.rows:
            self._write(trial, HISTORY, as_csv(ended.rows))
        content = asdict(ended)
        content["epochs"] = len(ended.curve)
        del content["rows"]
        self._write(trial, OUTCOME, to_json(content) + "\n")

    def read_ended(self, trial: str) -> Ended | None:
        """Return the result of a trial; None if it has not ended."""
        path = self.trial_folder(trial) / OUTCOME
        if not path.is_file():
            return None
        content = read_object(path)
        del content["epochs"]
        return Ended(**content, rows=self.history(trial))

    def history(self, trial: str) -> list[Row]:
        """The epochs of a trial."""
        return read_history(self.trial_folder(trial) / HISTORY)

    def write_table(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write trials.csv."""
        write_text(self.folder / TABLE, as_csv(list(rows)))

    def _write(self, trial: str, name: str, text: str) -> None:
        folder = self.trial_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)


def as_csv(rows: list[Any]) -> str:
    """Rows as text, with every column that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(csv_row(columns))
    writer.writerows(csv_row(row.get(column, "") for column in columns) for row in rows)
    return text.getvalue()


Status = Literal["completed", "stopped", "infeasible", "failed"]
"""completed: all its epochs were trained.  stopped: `after_epoch` ended it.  infeasible: its values make no model, or
one that is too large.  failed: something went wrong while it was trained."""

Row = dict[str, float]
"""An epoch: stage and epoch (from 1), seconds, learning_rate, then what Keras measured."""


@dataclass(frozen=True)
class Outcome:
    """A trial, trained or not."""

    status: Status
    logs: list[Row]
    """One row per epoch that this call has trained."""
    best: Row
    """The row with the best objective, among all epochs of the trial; empty where there is none."""
    seconds: float
    reason: str | None = None
    """Why it is infeasible, or has failed."""
    weights: Path | None = None
    """Its weights, a `.weights.h5` that `build` takes; None where they are not kept."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, for the records: "shared", whether an earlier trial's compiled graph was taken."""


def best_row(rows: Sequence[Row], goal: Goal) -> Row:
    """The row with the best figure, the first of equal ones; empty where no row has it as a number."""
    known = [row for row in rows if row.get(goal.figure, float("nan")) == row.get(goal.figure)]
    return known[goal.best_of([row[goal.figure] for row in known])] if known else {}


WEIGHTS = "trained.weights.h5"
SCORE = "trained.json"


def keep_best(
    folder: Path, trial_id: str, score: float, direction: str, most: int, save: Callable[[Path], None]
) -> Path | None:
    """Keep the weights of a trial that is among the best so far, and no longer those that it drives out.

    save: writes them to a path, whole or not at all.  The path where they are kept; None where they are not.
    """
    sign = -1.0 if direction == "min" else 1.0
    place = folder / trial_id
    there = {path.parent: sign * known for path in folder.rglob(SCORE) if (known := _score(path)) is not None}
    there.pop(place, None)
    better = [one for one in there.values() if one >= sign * score]
    if len(better) >= most:
        return None
    place.mkdir(parents=True, exist_ok=True)
    save(place / WEIGHTS)
    (place / SCORE).write_text(json.dumps({"score": score}) + "\n", encoding="utf-8")
    for other in sorted(there, key=lambda one: there[one], reverse=True)[most - 1 :]:
        forget(other)
    return place / WEIGHTS


def forget(place: Path) -> None:
    """Remove what was kept in the folder of a trial."""
    for name in (SCORE, WEIGHTS):
        with contextlib.suppress(OSError):
            (place / name).unlink()


def _score(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
