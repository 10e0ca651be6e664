"""What is told of an image: the decision, how sure it is, and the likeliest classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.evaluation.measures import most_likely_first
from kerasimg.evaluation.predictions import THRESHOLD, decide, two_columns


def columns(bundle: Bundle, probabilities: np.ndarray) -> np.ndarray:
    """(N, K), one for each class, also where the task is binary and the model gives one."""
    return two_columns(probabilities) if bundle.task == "binary" else probabilities


def predictions(bundle: Bundle, ids: list[str], probabilities: np.ndarray, top: int) -> list[dict[str, Any]]:
    """A prediction for each image, the likeliest classes first.

    probabilities: (N, K) as the model gives them, (N, 1) where the task is binary.  top: how many classes to list.
    """
    decisions, confidences = decide(probabilities, bundle.task, bundle.thresholds)
    rows = columns(bundle, probabilities)
    told = []
    for name, decision, confidence, row in zip(ids, decisions, confidences, rows, strict=True):
        ranked = most_likely_first(row)
        order = ranked[:top]
        one: dict[str, Any] = {"id": name}
        if bundle.task == "multilabel":
            one["labels"] = [bundle.classes[k] for k in ranked if decision[k]]
        else:
            one["label"] = bundle.classes[int(decision)]
        one["confidence"] = _figure(confidence)
        one["classes"] = [_class(bundle, int(k), row, decision) for k in order]
        told.append(one)
    return told


def labels(bundle: Bundle, probabilities: np.ndarray) -> list[str]:
    """What is decided for each image; several labels are parted by "|"."""
    decisions, _ = decide(probabilities, bundle.task, bundle.thresholds)
    if bundle.task == "multilabel":
        return ["|".join(name for name, held in zip(bundle.classes, row, strict=True) if held) for row in decisions]
    return [bundle.classes[int(decision)] for decision in decisions]


def thresholds(bundle: Bundle) -> list[float] | None:
    """What a probability must exceed to be decided for; None where the likeliest class is taken."""
    if bundle.task == "multiclass":
        return None
    count = 1 if bundle.task == "binary" else len(bundle.classes)
    return list(bundle.thresholds) if bundle.thresholds else [THRESHOLD] * count


def _class(bundle: Bundle, place: int, row: np.ndarray, decision: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"name": bundle.classes[place], "probability": _figure(row[place])}
    if bundle.task == "multilabel":
        told["threshold"] = bundle.thresholds[place] if bundle.thresholds else THRESHOLD
        told["holds"] = bool(decision[place])
    return told


def _figure(value: Any) -> float:
    """A float32 in the fewest digits that read back as the same."""
    return float(str(np.float32(value)))
