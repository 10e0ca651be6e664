"""Results by slice: the figures for each value of a manifest's extra columns (camera, site, year ...)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.readers.soft_labels import PREFIX
from kerasimg.data.source import Source
from kerasimg.evaluation.intervals import intervals
from kerasimg.evaluation.predictions import as_text
from kerasimg.evaluation.scores import scores
from kerasimg.spec.document import Task

VALUES = 20
"""A column of more values is cut at its quartiles where all of them are numbers, and else left out."""
SMALL = 30
"""A slice of fewer images is marked as small: its figures say little."""


def extra_columns(source: Source, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
    """The extra columns of a manifest, besides labels and split: column -> a value for each image, or None."""
    extras = [source.items[index].extras for index in indices]
    names = dict.fromkeys(name for extra in extras for name in extra if not name.startswith(PREFIX))
    return {name: [extra.get(name) for extra in extras] for name in names}


def slices(
    extras: Mapping[str, Sequence[Any]],
    truth: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The headline figures and their intervals for each value of each extra column.

    extras: column -> N values.  The rest: as in `scores`.
    Returns `slices`, a list of {column, rows}, a row being {value, n, small, figures, intervals}; and
    `slices_left_out`, a list of {column, values}, of columns with one value or too many.
    """
    truth, p = np.asarray(truth), np.asarray(probabilities)
    content: list[dict[str, Any]] = []
    left_out = []
    for column, values in extras.items():
        texts, order = _groups(values)
        if not 2 <= len(order) <= VALUES:
            left_out.append({"column": column, "values": len(order)})
            continue
        rows = []
        for value in order:
            chosen = np.array([text == value for text in texts])
            within = None if groups is None else groups[chosen]
            rows.append({"value": value, **_row(truth[chosen], p[chosen], classes, task, thresholds, within)})
        content.append({"column": column, "rows": rows})
    return {"slices": content, "slices_left_out": left_out}


def _row(
    truth: np.ndarray,
    p: np.ndarray,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None,
    groups: np.ndarray | None,
) -> dict[str, Any]:
    found = scores(truth, p, classes, task, thresholds)
    reach = intervals(found, truth, p, task, thresholds, groups=groups)
    figures = {name: found[name] for name in reach}
    return {"n": len(truth), "small": len(truth) < SMALL, "figures": figures, "intervals": reach}


def _groups(values: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The slice of each image, and the slices: most images first, or quartiles in ascending order."""
    texts = [as_text(value) for value in values]
    counts = Counter(texts)
    if len(counts) <= VALUES or (numbers := _numbers(texts)) is None:
        return texts, sorted(counts, key=lambda text: (-counts[text], text))
    edges = np.unique(np.nanquantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    # A quarter holds its upper edge; the first holds its lower edge as well.
    places = np.clip(np.searchsorted(edges, numbers) - 1, 0, len(names) - 1)
    texts = ["" if np.isnan(number) else names[place] for number, place in zip(numbers, places, strict=True)]
    return texts, [name for name in [*names, ""] if name in texts]


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The texts as finite numbers, NaN for "", where all of them are."""
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return numbers if np.isfinite([number for number, text in zip(numbers, texts, strict=True) if text]).all() else None
