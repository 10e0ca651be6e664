"""What a model predicts, one row per picture: the decision, how sure it is, and the probabilities behind it.

The file is enough to compute every score again, to the last digit.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import partial
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.spec.document import Task

THRESHOLD = 0.5
"""A label (multilabel) or the second class (binary) is predicted above it."""

_HEADER = ["file", "truth", "prediction", "confidence"]
_PREFIX = "prob:"
# A file name that is not UTF-8 comes from the file system with surrogates, and is written as its own bytes.
_open = partial(open, encoding="utf-8", errors="surrogateescape", newline="")


class Predictions(NamedTuple):
    """What `read_predictions` returns, in the shapes that `write_predictions` and `scores` take."""

    ids: list[str]
    truth: np.ndarray
    probabilities: np.ndarray
    classes: list[str]


def two_columns(probabilities: np.ndarray) -> np.ndarray:
    """(N,) or (N, 1), the probability of the second class -> (N, 2), of both."""
    second = probabilities.reshape(-1, 1)
    return np.hstack([1 - second, second])


def decide(probabilities: ArrayLike, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The decision for each picture and how sure it is.

    probabilities: as in `scores`.
    Returns the class, (N,) integers, or for multilabel the labels, (N, K) of 0 and 1; and the confidence,
    (N,) in [0, 1]: the probability of what was decided, for multilabel of the least sure of its labels.
    """
    p = np.asarray(probabilities)
    if task == "multilabel":
        return (p > THRESHOLD).astype(int), np.maximum(p, 1 - p).min(axis=1)
    if task == "binary":
        p = two_columns(p)
    return p.argmax(axis=1), p.max(axis=1)


def write_predictions(
    path: str | PathLike[str],
    ids: Iterable[str],
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
) -> None:
    """Write one row per picture: file,truth,prediction,confidence and a column prob:NAME per class.

    ids: N names of pictures.  truth, probabilities, classes: as in `scores`.
    Probabilities are written as float32, in the fewest digits that read back as the same float32. Several
    labels stand in one cell, parted by "|"; a name with a "|" in it is quoted as CSV quotes.
    """
    p = np.asarray(probabilities, dtype=np.float32)
    decision, confidence = decide(p, task)
    columns = two_columns(p) if task == "binary" else p
    rows = zip(ids, np.asarray(truth), decision, confidence, columns, strict=True)
    cell = _labels if task == "multilabel" else _label
    with _open(path, "w") as file:
        table = csv.writer(file)
        table.writerow([*_HEADER, *(_PREFIX + name for name in classes)])
        for picture, true, decided, sure, row in rows:
            table.writerow([picture, cell(true, classes), cell(decided, classes), sure, *row.astype(str)])


def read_predictions(path: str | PathLike[str], task: Task) -> Predictions:
    """Read what `write_predictions` wrote: equal ids, truth, probabilities (binary as (N, 1)) and classes."""
    with _open(path) as file:
        header, *rows = csv.reader(file)
    first = len(_HEADER)
    classes = [name.removeprefix(_PREFIX) for name in header[first:]]
    p = np.array([row[first:] for row in rows]).astype(np.float32)
    if task == "multilabel":
        labels = [_names(row[1]) for row in rows]
        truth = np.array([[name in names for name in classes] for names in labels], dtype=np.float32)
    else:
        numbers = {name: number for number, name in enumerate(classes)}
        truth = np.array([numbers[row[1]] for row in rows])
    return Predictions([row[0] for row in rows], truth, p[:, 1:] if task == "binary" else p, classes)


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
