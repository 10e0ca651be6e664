"""Builds the predictions in a response: the decision, its confidence, and the most likely classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.evaluation.conformal import are_known, name_sets
from kerasimg.evaluation.measures import most_likely_first
from kerasimg.evaluation.predictions import THRESHOLD, decide, two_columns
from kerasimg.models.keras_file import Answer


def columns(bundle: Bundle, probabilities: np.ndarray) -> np.ndarray:
    """Returns probabilities as (N, K) with one column per class; a binary model has a single output."""
    return two_columns(probabilities) if bundle.task == "binary" else probabilities


def predictions(bundle: Bundle, ids: list[str], given: Answer, top: int) -> list[dict[str, Any]]:
    """Builds a prediction for each image, most likely classes first.

    Args:
        bundle: the served export bundle.
        ids: the name of each image.
        given: the model's probabilities, (N, K), or (N, 1) for a binary task, and its p-values if it gives them.
        top: number of classes to list.
    """
    probabilities, p_values, share, _ = given
    decisions, confidences = decide(probabilities, bundle.task, bundle.thresholds)
    rows = columns(bundle, probabilities)
    rule = bundle.manifest.sets
    sets = [None] * len(ids) if rule is None else name_sets(probabilities, rule, bundle.classes)
    answers = []
    for place, (name, decision, confidence, row, members) in enumerate(
        zip(ids, decisions, confidences, rows, sets, strict=True)
    ):
        ranked = most_likely_first(row)
        order = ranked[:top]
        answer: dict[str, Any] = {"id": name}
        if bundle.task == "multilabel":
            answer["labels"] = [bundle.classes[k] for k in ranked if decision[k]]
        else:
            answer["label"] = bundle.classes[int(decision)]
        answer["confidence"] = _shortest_float(confidence)
        if members is not None:
            answer["set"] = list(members)
        if p_values is not None:
            answer["known"] = bool(are_known(p_values[place], share))
            answer["p_value"] = _shortest_float(p_values[place])
        answer["classes"] = [_class(bundle, int(k), row, decision) for k in order]
        answers.append(answer)
    return answers


def labels(bundle: Bundle, probabilities: np.ndarray) -> list[str]:
    """Returns the label decided for each image; the labels of a multilabel task are joined by "|"."""
    decisions, _ = decide(probabilities, bundle.task, bundle.thresholds)
    if bundle.task == "multilabel":
        return ["|".join(name for name, holds in zip(bundle.classes, row, strict=True) if holds) for row in decisions]
    return [bundle.classes[int(decision)] for decision in decisions]


def thresholds(bundle: Bundle) -> list[float] | None:
    """Returns the decision threshold of each class; None if the most likely class wins."""
    if bundle.task == "multiclass":
        return None
    count = 1 if bundle.task == "binary" else len(bundle.classes)
    return list(bundle.thresholds) if bundle.thresholds else [THRESHOLD] * count


def _class(bundle: Bundle, index: int, row: np.ndarray, decision: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {"name": bundle.classes[index], "probability": _shortest_float(row[index])}
    if bundle.task == "multilabel":
        answers["threshold"] = bundle.thresholds[index] if bundle.thresholds else THRESHOLD
        answers["holds"] = bool(decision[index])
    return answers


def _shortest_float(value: Any) -> float:
    """Returns a float32 with the fewest digits that parse back to the same value."""
    return float(str(np.float32(value)))
