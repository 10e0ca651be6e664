"""What became of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kerasimg.spec.figures import Goal

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
