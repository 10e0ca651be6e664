"""Summaries of history.csv: each stage with its epochs, its best epoch and its duration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasimg.errors import CallError
from kerasimg.escaping import one_line
from kerasimg.evaluation.score_table import output
from kerasimg.results import epoch_figure, figure_words
from kerasimg.run_folder import RunFolder
from kerasimg.spec.metrics import NO_FIGURES, Goal, goals_in

Rows = Sequence[Mapping[str, float]]
"""A row per epoch: stage, epoch, seconds, learning_rate, then what Keras measured."""


class StageSummary(NamedTuple):
    """One stage, as it was trained."""

    stage: int
    first: int
    last: int
    """Epochs, counted over all stages from 1."""
    seconds: float
    watched: str
    """The figure that the best epoch is the best by."""
    best: int
    figures: Mapping[str, float]
    """Of the best epoch."""


def read_goals(folder: Path) -> dict[int, Goal]:
    """Stage (from 1) of a run -> what its best epoch is chosen by; none where there is no readable spec."""
    try:
        return goals_in(RunFolder(folder).spec() or {})
    except (CallError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def read_task(folder: Path) -> str:
    """The task of a run; multiclass where there is no readable spec."""
    return str((RunFolder(folder).spec() or {}).get("task", "multiclass"))


def stage_summaries(rows: Rows, goals: Mapping[int, Goal] | None = None) -> list[StageSummary]:
    """Each stage of a history, in order.

    goals: stage (from 1) -> what its best epoch is chosen by, as `read_goals` gives them. The best epoch of another
    stage is that with the least loss on the validation part, or, where there is none, on the training part.
    """
    stages: dict[int, list[Mapping[str, float]]] = {}
    for row in rows:
        stages.setdefault(int(row["stage"]), []).append(row)
    summaries = []
    for stage, epochs in stages.items():
        goal = (goals or {}).get(stage, Goal("val_loss", "min"))
        if not all(goal.figure in row for row in epochs):
            goal = Goal("loss", "min")
        best = epochs[goal.best_of([row.get(goal.figure, math.nan) for row in epochs])]
        numbers = [int(row["epoch"]) for row in epochs]
        seconds = sum(row.get("seconds", 0.0) for row in epochs)
        figures = {key: value for key, value in best.items() if key not in NO_FIGURES}
        summaries.append(
            StageSummary(stage, min(numbers), max(numbers), seconds, goal.figure, int(best["epoch"]), figures)
        )
    return summaries


def duration(seconds: float) -> str:
    """A duration in short: "48 s", "12 min", "3 h 20 min"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def print_stages(
    rows: Rows, goals: Mapping[int, Goal] | None = None, console: Console | None = None, task: str = "multiclass"
) -> None:
    """Print a line per stage: its epochs, how long they took, and its best epoch's figures on the validation part.

    Where there is none, on the training part.

    rows: `Run.history`.  goals: as for `stage_summaries`.  console: standard output by default.  task: of the run.
    """
    summaries = stage_summaries(rows, goals)
    if not summaries:
        return
    console = console or output()
    names = list(dict.fromkeys(name for each in summaries for name in each.figures))
    names = [name for name in names if name.startswith("val_")] or names
    table = Table(title="Stages, each with its best epoch", title_justify="left")
    table.box = box.SIMPLE_HEAD if console.is_terminal else None
    for column in ("stage", "epochs", "time", "best"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in names:
        column = figure_words(epoch_figure(name.removeprefix("val_"), task))
        table.add_column(Text(one_line(column)), justify="right", overflow="fold")
    for each in summaries:
        epochs = f"{each.first}-{each.last}" if each.last > each.first else str(each.first)
        figures = [f"{each.figures[name]:.4f}" if name in each.figures else "-" for name in names]
        table.add_row(str(each.stage), epochs, duration(each.seconds), str(each.best), *figures)
    console.print(table)
    console.print()
