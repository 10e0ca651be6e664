"""What a model predicts, one row per picture: the decision, how sure it is, and the probabilities behind it.

The file is enough to compute every score again, to the last digit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.escaping import csv_cell, from_csv_cell
from kerasimg.results import Result
from kerasimg.spec.document import Task

THRESHOLD = 0.5
"""A label (multilabel) or the second class (binary) is predicted above it, unless others were chosen."""

_HEADER = ["file", "truth", "prediction", "confidence"]
_PREFIX = "prob:"
_EXTRA = "extra:"
# A file name that is not UTF-8 comes from the file system with surrogates, and is written as its own bytes.
_open = partial(open, encoding="utf-8", errors="surrogateescape", newline="")


@dataclass(frozen=True, repr=False, eq=False)
class Predictions(Result):
    """What `read_predictions` returns, in the shapes that `write_predictions` and `scores` take."""

    ids: list[str]
    truth: np.ndarray
    probabilities: np.ndarray
    classes: list[str]
    decision: np.ndarray
    """What was decided, in the shape of `truth`."""
    extras: dict[str, list[str]]
    """What a manifest says besides: column -> a text for each picture, "" where it says nothing."""


def two_columns(probabilities: np.ndarray) -> np.ndarray:
    """(N,) or (N, 1), the probability of the second class -> (N, 2), of both."""
    second = probabilities.reshape(-1, 1)
    return np.hstack([1 - second, second])


def decide(
    probabilities: ArrayLike, task: Task, thresholds: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The decision for each picture and how sure it is.

    probabilities: as in `scores`.
    thresholds: what a probability must exceed: of the second class (binary, 1) or of each label (multilabel, K).
        None: 0.5.
    Returns the class, (N,) integers, or for multilabel the labels, (N, K) of 0 and 1; and the confidence,
    (N,) in [0, 1]: the probability of what was decided, for multilabel of the least sure of its labels.
    """
    p = np.asarray(probabilities)
    # As float64, so that float32 probabilities are compared as exactly as the same ones in float64.
    above = np.asarray(THRESHOLD if thresholds is None else thresholds, dtype=np.float64)
    if task == "multilabel":
        held = p > above
        return held.astype(int), np.where(held, p, 1 - p).min(axis=1)
    if task == "binary":
        p = two_columns(p)
        decision = (p[:, 1] > above.reshape(-1)[0]).astype(int)
        return decision, p[np.arange(len(p)), decision]
    return p.argmax(axis=1), p.max(axis=1)


def write_predictions(
    path: str | PathLike[str],
    ids: Iterable[str],
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
    extras: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write one row per picture: file,truth,prediction,confidence, prob:NAME per class, extra:NAME per extra column.

    ids: N names of pictures.  truth, probabilities, classes, thresholds: as in `scores`.
    extras: column -> N values; what is neither text nor None is written as JSON.
    Probabilities are written as float32, in the fewest digits that read back as the same float32. Several
    labels stand in one cell, parted by "|"; a name with a "|" in it is quoted as CSV quotes. A text that a spreadsheet
    would take for a formula has a "'" before it.
    """
    p = np.asarray(probabilities, dtype=np.float32)
    decision, confidence = decide(p, task, thresholds)
    columns = two_columns(p) if task == "binary" else p
    extras = extras or {}
    others = zip(*extras.values(), strict=True) if extras else [()] * len(p)
    rows = zip(ids, np.asarray(truth), decision, confidence, columns, others, strict=True)
    cell = _labels if task == "multilabel" else _label
    with _open(path, "w") as file:
        table = csv.writer(file)
        table.writerow([*_HEADER, *(_PREFIX + name for name in classes), *(_EXTRA + name for name in extras)])
        for picture, true, decided, sure, row, other in rows:
            more = [csv_cell(value) if isinstance(value, str) else as_text(value) for value in other]
            said = [csv_cell(cell(true, classes)), csv_cell(cell(decided, classes)), sure, *row.astype(str), *more]
            table.writerow([csv_cell(str(picture)), *said])


def read_predictions(path: str | PathLike[str], task: Task) -> Predictions:
    """Read what `write_predictions` wrote: with binary probabilities as (N, 1)."""
    with _open(path) as file:
        header, *rows = csv.reader(file)
    first = len(_HEADER)
    last = first + sum(name.startswith(_PREFIX) for name in header[first:])
    classes = [name.removeprefix(_PREFIX) for name in header[first:last]]
    p = np.array([row[first:last] for row in rows]).astype(np.float32).reshape(len(rows), len(classes))
    truth, decision = (_numbers([from_csv_cell(row[place]) for row in rows], classes, task) for place in (1, 2))
    extras = {
        name.removeprefix(_EXTRA): [from_csv_cell(row[k]) for row in rows] for k, name in enumerate(header[last:], last)
    }
    ids = [from_csv_cell(row[0]) for row in rows]
    return Predictions(ids, truth, p[:, 1:] if task == "binary" else p, classes, decision, extras)


def as_text(value: Any) -> str:
    """A value of an extra column as text: None is "", what is no text is JSON."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _numbers(cells: list[str], classes: list[str], task: Task) -> np.ndarray:
    if task == "multilabel":
        labels = [_names(cell) for cell in cells]
        return np.array([[name in names for name in classes] for names in labels], dtype=np.float32)
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[cell] for cell in cells])


def _label(number: np.ndarray, classes: Sequence[str]) -> str:
    return classes[int(number)]


def _labels(row: np.ndarray, classes: Sequence[str]) -> str:
    """A row of 0 and 1 -> the names in one cell, itself a line of CSV with "|" for the comma."""
    cell = io.StringIO(newline="")
    csv.writer(cell, delimiter="|").writerow([name for name, on in zip(classes, row, strict=True) if on])
    return cell.getvalue().removesuffix("\r\n")


def _names(cell: str) -> set[str]:
    """The names in a cell that `_labels` made."""
    return set(next(csv.reader(io.StringIO(cell, newline=""), delimiter="|"), []))
