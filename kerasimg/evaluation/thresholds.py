"""`kerasimg.choose_thresholds`: decision thresholds for binary and multilabel models, chosen on validation images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.sources import Data
from kerasimg.errors import CallError, GateError, counted, nearest
from kerasimg.evaluation.calibrate import decide_by
from kerasimg.evaluation.evaluate import choose_images, predicted, warn_of_trained
from kerasimg.evaluation.predictions import THRESHOLD
from kerasimg.files import write_json
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.keras_file import model_file
from kerasimg.results import Thresholds
from kerasimg.run_folder import RunFolder

AIMS = ("f1", "youden", "cost", "precision>=P", "recall>=R")


class Counts(NamedTuple):
    """True and false positives at each of M thresholds."""

    thresholds: np.ndarray
    hits: np.ndarray
    false_alarms: np.ndarray
    positives: int
    negatives: int


class Choice(NamedTuple):
    """A threshold and its metrics on the images that it was chosen on."""

    threshold: float
    met: bool
    """Whether the aim is met; else it is the threshold that comes nearest."""
    precision: float
    recall: float
    f1: float
    support: int


def choose_thresholds(
    run: ClassifierReference,
    aim: str = "f1",
    *,
    data: Data | None = None,
    part: str | None = None,
    false_positive: float = 1.0,
    false_negative: float = 1.0,
    undo: bool = False,
) -> Thresholds:
    """Choose the decision threshold of each label of a binary or multilabel classifier.

    The thresholds are stored in the model file, so every later prediction, evaluation and export uses them.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        aim: "f1"; "precision>=0.95", the highest recall with that precision; "recall>=0.9", the highest precision with
            that recall; "youden", the highest true less false positive rate; "cost", the lowest cost.
        data: labelled images to choose by; None: those of the run.
        part: the part to choose by; None: validation.
        false_positive: cost of a false positive, for "cost".
        false_negative: cost of a false negative, for "cost".
        undo: restore thresholds of 0.5 instead.

    Returns:
        The `Thresholds`, with precision, recall and F1 of each label.

    Raises:
        GateError: if no label can meet the aim.
        CallError: for a multiclass classifier, which has no thresholds.

    Example:
        >>> kerasimg.choose_thresholds("runs/binary-1", "f1").aim
        'f1'
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    task = classifier.spec.task
    if task == "multiclass":
        raise CallError("thresholds: the task 'multiclass' has none: the most likely class is predicted")
    best = _aim(aim, false_positive, false_negative)
    labels = classifier.classes[1:] if task == "binary" else classifier.classes
    if undo:
        RunFolder(file.parent).thresholds_file.unlink(missing_ok=True)
        decide_by(classifier, replace(classifier, thresholds=None), file)
        return Thresholds.of({"thresholds": dict.fromkeys(labels, THRESHOLD)})
    asked = choose_images(classifier, data, part, otherwise="validation")
    warn_of_trained(classifier, asked, data)
    truth = asked.source.label_ids(asked.indices).reshape(len(asked.indices), -1)
    p = predicted(replace(classifier, thresholds=None), asked.source, asked.indices).reshape(len(truth), -1)
    chosen = {label: choose(truth[:, k], p[:, k], best) for k, label in enumerate(labels)}
    if not any(one.met for one in chosen.values()):
        reached = "; ".join(
            f"'{label}' reaches precision {one.precision:.3f}, recall {one.recall:.3f}"
            for label, one in list(chosen.items())[:12]
        )
        raise GateError(
            f"the aim '{aim}' cannot be met on the {counted(len(truth), 'image')} of {asked.source.where} "
            f"({asked.part}): {reached}. Nothing was changed; ask for less"
        )
    content: dict[str, Any] = {
        "aim": aim,
        **({"false_positive": false_positive, "false_negative": false_negative} if aim == "cost" else {}),
        "fitted_on": {"data": asked.source.where, "part": asked.part, "n": len(truth)},
        "thresholds": {label: one.threshold for label, one in chosen.items()},
        "labels": {label: one._asdict() for label, one in chosen.items()},
    }
    thresholds = tuple(one.threshold for one in chosen.values())
    changed = replace(classifier, thresholds=thresholds)
    content["model"] = changed.identity()
    write_json(RunFolder(file.parent).thresholds_file, content)
    decide_by(classifier, changed, file)
    return Thresholds.of(content)


Aim = Callable[[Counts], tuple[np.ndarray, np.ndarray]]
"""Counts of M thresholds -> how good each is, the more the better, and whether it meets the aim, (M,) each."""


def choose(truth: ArrayLike, probabilities: ArrayLike, aim: Aim) -> Choice:
    """The best threshold of one label; of equally good ones, the nearest to 0.5.

    truth: (N,) of 0 and 1.  probabilities: (N,).
    """
    y, p = np.asarray(truth).astype(int).reshape(-1), np.asarray(probabilities, dtype=np.float32).reshape(-1)
    counts = _counts(y, p)
    good, met = aim(counts)
    met = met & (counts.positives > 0)
    if met.any():
        good = np.where(met, good, -np.inf)
    ties = np.flatnonzero(good == good.max())
    best = ties[np.argmin(np.abs(counts.thresholds[ties] - THRESHOLD))]
    threshold = float(counts.thresholds[best]) if counts.positives else THRESHOLD
    hits, said = int((y[p > threshold] == 1).sum()), int((p > threshold).sum())
    return Choice(
        threshold,
        bool(met.any()),
        hits / said if said else 0.0,
        hits / counts.positives if counts.positives else 0.0,
        2 * hits / (said + counts.positives) if said + counts.positives else 0.0,
        counts.positives,
    )


def _counts(truth: np.ndarray, p: np.ndarray) -> Counts:
    """At a threshold between any two neighbouring probabilities, at 0, and at the highest, above which nothing is."""
    order = np.argsort(-p, kind="stable")
    values = p[order]
    last = np.append(values[1:] != values[:-1], True)
    hits = np.cumsum(truth[order])[last]
    said = np.flatnonzero(last) + 1
    distinct = values[last]
    below = np.append(distinct[1:], np.float32(0))
    # Halfway, so that the next digit decides nothing; two neighbours in float32 have nothing between them.
    middle = ((distinct.astype(np.float64) + below) / 2).astype(np.float32)
    middle = np.where(middle < distinct, middle, below)
    middle[-1] = 0
    thresholds = np.append(distinct[0], middle).astype(np.float64)
    hits, said = np.append(0, hits), np.append(0, said)
    positives = int(truth.sum())
    if distinct[-1] == 0:  # a probability of 0 is above no threshold
        thresholds, hits, said = thresholds[:-1], hits[:-1], said[:-1]
    return Counts(thresholds, hits, said - hits, positives, len(truth) - positives)


def _aim(name: str, false_positive: float, false_negative: float) -> Aim:
    """Looks up the function of an aim by name; CallError for an unknown one."""
    if bound := re.fullmatch(r"(precision|recall)\s*>=\s*(\d*\.?\d+)", name.strip()):
        least = float(bound[2])
        if not 0 < least <= 1:
            raise CallError(f"aim '{name}': expected a share above 0 and up to 1, got {bound[2]}")
        return _at_least(bound[1], least)
    if name == "cost":
        if min(false_positive, false_negative) < 0 or false_positive + false_negative == 0:
            raise CallError("aim 'cost': expected two costs of 0 or more, at least one above 0")
        return lambda c: _met(-(false_positive * c.false_alarms + false_negative * (c.positives - c.hits)))
    if name == "f1":
        return lambda c: _met(2 * c.hits / np.maximum(c.hits + c.false_alarms + c.positives, 1))
    if name == "youden":
        return lambda c: _met(c.hits / max(c.positives, 1) - c.false_alarms / max(c.negatives, 1))
    raise CallError(f"no aim '{name}'{nearest(name, AIMS)} (aims: {', '.join(AIMS)})")


def _met(good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return good, np.ones(len(good), dtype=bool)


def _at_least(which: str, least: float) -> Aim:
    """As much of the other as there is with at least so much of one; where there is none, the most of that one."""

    def aim(c: Counts) -> tuple[np.ndarray, np.ndarray]:
        precision = c.hits / np.maximum(c.hits + c.false_alarms, 1)
        recall = c.hits / max(c.positives, 1)
        bound, other = (precision, recall) if which == "precision" else (recall, precision)
        met = (bound >= least) & (c.hits > 0)
        # Both are multiples of 1 / N or more, so the other only decides between equals.
        return (other + bound * 1e-9 if met.any() else bound + other * 1e-9), met

    return aim
