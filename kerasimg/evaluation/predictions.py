"""The predictions of a model, one row per image: prediction, confidence and probabilities.

The file is enough to compute every score again, to the last digit. Of more than `MANY_CLASSES` classes it names the
`LISTED` most likely, and a .safetensors file beside it holds the probabilities of the `STORED` most likely, of the true
class, and the mean of all others: then the Brier score and the areas are approximate, all other scores exact.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.escaping import csv_cell, from_csv_cell
from kerasimg.evaluation.measures import most_likely_first
from kerasimg.files import damaged, replacing
from kerasimg.results import Result
from kerasimg.spec.document import Task

THRESHOLD = 0.5
"""A label (multilabel) or the second class (binary) is predicted above it, unless others were chosen."""

MANY_CLASSES = 256
"""With more classes, files hold no number for each pair of an image and a class, or of two classes."""
STORED = 100
"""Of many classes: how many probabilities are stored for an image."""
LISTED = 5
"""Of many classes: how many are named for an image."""

_TOP = ("top:", "top_prob:")
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
    """What a manifest says besides: column -> a text for each image, "" where it says nothing."""


def two_columns(probabilities: np.ndarray) -> np.ndarray:
    """(N,) or (N, 1), the probability of the second class -> (N, 2), of both."""
    second = probabilities.reshape(-1, 1)
    return np.hstack([1 - second, second])


def decide(
    probabilities: ArrayLike, task: Task, thresholds: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each image and its confidence.

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
    """Write one row per image: file,truth,prediction,confidence, prob:NAME per class, extra:NAME per extra column.

    ids: N names of images.  truth, probabilities, classes, thresholds: as in `scores`.
    extras: column -> N values; what is neither text nor None is written as JSON.
    Probabilities are written as float32, in the fewest digits that read back as the same float32. Several
    labels stand in one cell, parted by "|"; a name with a "|" in it is quoted as CSV quotes. A text that a spreadsheet
    would take for a formula has a "'" before it. Of more than `MANY_CLASSES` classes there are top:1, top_prob:1, ...
    instead, and the probabilities are in a file of the same name that ends in .safetensors.
    """
    p = np.asarray(probabilities, dtype=np.float32)
    decision, confidence = decide(p, task, thresholds)
    if many := len(classes) > MANY_CLASSES:
        arrays = {"probabilities": p} if task == "multilabel" else _sparse(np.asarray(truth), p)
        _write_arrays(path, arrays, classes)
    columns: Iterable[Iterable[str]] = (
        _listed(p, classes) if many else _texts(two_columns(p) if task == "binary" else p)
    )
    names = (
        [f"{each}{place + 1}" for place in range(LISTED) for each in _TOP] if many else [_PREFIX + c for c in classes]
    )
    extras = extras or {}
    others = zip(*extras.values(), strict=True) if extras else [()] * len(p)
    rows = zip(ids, np.asarray(truth), decision, confidence, columns, others, strict=True)
    cell = _labels if task == "multilabel" else _label
    with _open(path, "w") as file:
        table = csv.writer(file)
        table.writerow([*_HEADER, *names, *(_EXTRA + name for name in extras)])
        for image, true, decided, sure, row, other in rows:
            more = [csv_cell(value) if isinstance(value, str) else as_text(value) for value in other]
            said = [csv_cell(cell(true, classes)), csv_cell(cell(decided, classes)), sure, *row, *more]
            table.writerow([csv_cell(str(image)), *said])


def read_predictions(path: str | PathLike[str], task: Task) -> Predictions:
    """Read what `write_predictions` wrote: with binary probabilities as (N, 1)."""
    with _open(path) as file:
        header, *rows = csv.reader(file)
    first = len(_HEADER)
    last = first + sum(name.startswith((_PREFIX, *_TOP)) for name in header[first:])
    many = header[first:last] and header[first].startswith(_TOP)
    arrays, classes = _read_arrays(path) if many else ({}, [name.removeprefix(_PREFIX) for name in header[first:last]])
    truth, decision = (_numbers([from_csv_cell(row[place]) for row in rows], classes, task) for place in (1, 2))
    if many:
        p = arrays["probabilities"] if task == "multilabel" else _dense(truth, arrays, len(classes))
    else:
        p = np.array([row[first:last] for row in rows]).astype(np.float32).reshape(len(rows), len(classes))
    extras = {
        name.removeprefix(_EXTRA): [from_csv_cell(row[k]) for row in rows] for k, name in enumerate(header[last:], last)
    }
    ids = [from_csv_cell(row[0]) for row in rows]
    return Predictions(ids, truth, p[:, 1:] if task == "binary" else p, classes, decision, extras)


def _texts(p: np.ndarray) -> Iterator[Iterable[str]]:
    """Each row in the fewest digits."""
    return (row.astype(str) for row in p)


def _listed(p: np.ndarray, classes: Sequence[str]) -> Iterator[list[str]]:
    """Name and probability of the most likely classes of each image."""
    for row in p:
        top = most_likely_first(row)[:LISTED]
        yield [text for k in top for text in (csv_cell(classes[k]), str(row[k]))]


def _sparse(truth: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """The probabilities of the most likely classes, of the true one, and the mean of all others, image by image."""
    # Of equal ones the first, as everywhere: quantized models give many, and the decision must be among them.
    top = most_likely_first(p)[:, :STORED].astype(np.int32)
    of_top, of_truth = np.take_along_axis(p, top, 1), p[np.arange(len(p)), truth]
    outside = (top != truth[:, np.newaxis]).all(axis=1)
    sums = p.sum(axis=1, dtype=np.float64) - of_top.sum(axis=1, dtype=np.float64) - np.where(outside, of_truth, 0)
    rest = np.clip(sums / (p.shape[1] - STORED - outside), 0, of_top.min(axis=1)).astype(np.float32)
    return {"top_classes": top, "top_probabilities": of_top, "truth_probability": of_truth, "other_probability": rest}


def _dense(truth: np.ndarray, arrays: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """(N, K) float32 from what `_sparse` gave."""
    p = np.repeat(arrays["other_probability"][:, np.newaxis], classes, axis=1)
    np.put_along_axis(p, arrays["top_classes"].astype(np.int64), arrays["top_probabilities"], 1)
    p[np.arange(len(p)), truth] = arrays["truth_probability"]
    return p


def _arrays_file(path: str | PathLike[str]) -> Path:
    return Path(path).with_suffix(".safetensors")


def _write_arrays(path: str | PathLike[str], arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    from safetensors.numpy import save_file

    names = json.dumps(list(classes), ensure_ascii=True)
    with replacing(_arrays_file(path)) as partial:
        save_file({name: np.ascontiguousarray(each) for name, each in arrays.items()}, partial, {"classes": names})


def _read_arrays(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    from safetensors import SafetensorError, safe_open

    file = _arrays_file(path)
    try:
        with safe_open(file, "np") as content:
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # it has no iterator
            return arrays, json.loads(content.metadata()["classes"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, error) from None


def as_text(value: Any) -> str:
    """A value of an extra column as text: None is "", other values are JSON."""
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
