"""The files of a search: the journal, from which it resumes, a folder per trial, and the weights of the best trials.

journal.jsonl has a line for the start and a line for the end of each trial. Only the process that hands out trials
writes it. An incomplete line, from a killed process, is ignored.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kerasimg.escaping import csv_row
from kerasimg.files import no_link, read_object, to_json, write_text
from kerasimg.run_folder import HISTORY, SEARCH, read_history
from kerasimg.spec.document import Stage
from kerasimg.spec.metrics import best_by, keeps_best

JOURNAL, TABLE, TRIALS = "journal.jsonl", "trials.csv", "trials"
VALUES, OUTCOME = "values.json", "outcome.json"
CALL, SPACE, WINNER, BEST, ARRAYS = SEARCH, "space.json", "winner.json", "best.json", "arrays.npz"
FRONT, FRONT_TABLE = "front", "front.csv"
AUTO_RESULT = "result.json"


@dataclass(frozen=True)
class Order:
    """A trial to train."""

    trial: str
    values: Mapping[str, Any]
    """The values of the active dimensions, by name."""
    epochs: int | None = None
    """The epoch to stop before; None: the last epoch of the spec."""
    first_epoch: int = 0
    """Above 0: continue from the state of the trial `of` after this number of epochs."""
    of: str | None = None
    keep_state: bool = False
    """Whether to save the training state, from which another trial may continue."""
    seconds: float | None = None
    """Time that is left when it is handed out; None: no limit."""


@dataclass(frozen=True)
class Ended:
    """The result of a trial, all of its executions together."""

    status: Status
    score: float | None
    """The objective in the epoch that training keeps, averaged over the executions; None if there is none."""
    seconds: float
    curve: list[float] = field(default_factory=list)
    """The objective after each epoch of the first execution."""
    best_epoch: int | None = None
    """The epoch that the first execution keeps, from 1."""
    reason: str | None = None
    """Why it failed or is infeasible."""
    scores: list[float] = field(default_factory=list)
    """The score of each execution."""
    rows: list[Row] = field(default_factory=list)
    """One per epoch and execution."""
    figures: dict[str, float] = field(default_factory=dict)
    """Every objective after the first, averaged over the executions."""

    @property
    def worked(self) -> bool:
        """Whether it has a valid score."""
        return self.status in ("completed", "stopped") and self.score is not None


class Records:
    """The files of a search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self) -> list[dict[str, Any]]:
        """Returns the events of the journal, and removes an incomplete last line."""
        path = self.folder / JOURNAL
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line to the journal, and flush it to the disk."""
        with open(self.folder / JOURNAL, "a", encoding="utf-8", opener=no_link) as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def trial_folder(self, trial: str) -> Path:
        """Returns the folder of a trial."""
        return self.folder / TRIALS / trial

    def write_order(self, order: Order) -> None:
        """Write values.json of a trial."""
        self._write(order.trial, VALUES, to_json(asdict(order)) + "\n")

    def write_ended(self, trial: str, ended: Ended) -> None:
        """Write history.csv, then outcome.json, which marks the trial as ended."""
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
        """Returns the metrics of each epoch of a trial."""
        return read_history(self.trial_folder(trial) / HISTORY)

    def write_table(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write trials.csv."""
        write_text(self.folder / TABLE, as_csv(list(rows)))

    def _write(self, trial: str, name: str, text: str) -> None:
        folder = self.trial_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)


def as_csv(rows: list[Any]) -> str:
    """Returns rows as CSV text, with every column that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(csv_row(columns))
    writer.writerows(csv_row(row.get(column, "") for column in columns) for row in rows)
    return text.getvalue()


Status = Literal["completed", "stopped", "infeasible", "failed"]
"""completed: all its epochs were trained.  stopped: `after_epoch` ended it.  infeasible: its values give no valid
model, or one that is too large.  failed: an error was raised while it was trained."""

Row = dict[str, float]
"""An epoch: stage and epoch (from 1), seconds, learning_rate, then the metrics of Keras."""


@dataclass(frozen=True)
class Outcome:
    """The result of one execution of a trial."""

    status: Status
    logs: list[Row]
    """One row per epoch that this call has trained."""
    best: Row
    """The row of the epoch whose weights the trial keeps; empty if it has none, or one without the objective."""
    seconds: float
    reason: str | None = None
    """Why it failed or is infeasible."""
    weights: Path | None = None
    """The file with its weights, `.weights.h5`, for `build`; None if they are not saved."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Every objective after the first, that of a metric in the epoch that is kept."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Notes for the records: "shared", whether the compiled graph of an earlier trial was used."""


def kept_row(rows: Sequence[Row], stages: Sequence[Stage], figure: str) -> Row:
    """Returns the row of the epoch whose weights training keeps, in the last stage of these rows.

    It counts for a search, and not the epoch with the best objective: so `best.json`, trained, has the score that the
    search promised. Empty if that row does not have this figure, or as NaN.
    """
    if not rows:
        return {}
    of_stage = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    stage, kept = stages[int(rows[-1]["stage"]) - 1], of_stage[-1]
    if keeps_best(stage):
        goal = best_by(stage)
        kept = of_stage[goal.best_of([row.get(goal.figure, math.nan) for row in of_stage])]
    return {} if math.isnan(kept.get(figure, math.nan)) else kept


WEIGHTS = "trained.weights.h5"
SCORE = "trained.json"


def keep_best(
    folder: Path, trial_id: str, score: float, direction: str, most: int, save: Callable[[Path], None]
) -> Path | None:
    """Save the weights of a trial if it is among the `most` best so far, and remove those that no longer are.

    save: writes the weights to a path atomically. Returns the path, or None if the weights are not saved.
    """
    sign = -1.0 if direction == "min" else 1.0
    place = folder / trial_id
    scores = {path.parent: sign * known for path in folder.rglob(SCORE) if (known := _score(path)) is not None}
    scores.pop(place, None)
    better = [item for item in scores.values() if item >= sign * score]
    if len(better) >= most:
        return None
    place.mkdir(parents=True, exist_ok=True)
    save(place / WEIGHTS)
    (place / SCORE).write_text(json.dumps({"score": score}) + "\n", encoding="utf-8")
    for other in sorted(scores, key=lambda item: scores[item], reverse=True)[most - 1 :]:
        forget(other)
    return place / WEIGHTS


def forget(place: Path) -> None:
    """Remove the saved weights of a trial."""
    for name in (SCORE, WEIGHTS):
        with contextlib.suppress(OSError):
            (place / name).unlink()


def _score(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
