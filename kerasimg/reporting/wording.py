"""Metrics and names as a report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kerasimg.results import figure_words

SPACE = "\u00a0"
"""Between a number and its unit, which stay in one line."""
SHARES = ("accuracy", "f1", "precision", "recall", "roc_auc")
HEADLINE = {
    "multiclass": (
        *("accuracy", "balanced_accuracy", "top_5_accuracy", "macro_f1"),
        *("log_loss", "brier_score", "calibration_error"),
    ),
    "binary": (
        *("accuracy", "roc_auc", "average_precision", "f1", "precision", "recall"),
        *("brier_score", "calibration_error"),
    ),
    "multilabel": ("subset_accuracy", "mean_average_precision", "macro_f1", "micro_f1", "hamming_loss", "brier_score"),
}
"""Task -> its metrics, the most important first."""

MEANINGS = {
    "accuracy": "share of the images that are classified correctly",
    "balanced_accuracy": "mean of the recall of every class",
    "top_5_accuracy": "the class is among the five most likely",
    "macro_f1": "precision and recall in one, mean over the classes",
    "micro_f1": "precision and recall in one, over all labels",
    "f1": "precision and recall in one",
    "precision": "share of the predictions of the class that are correct",
    "recall": "share of the images of the class that are predicted as it",
    "log_loss": "penalty for confident errors; 0 is best",
    "brier_score": "mean squared error of the probabilities; 0 is best",
    "calibration_error": "difference between confidence and accuracy",
    "roc_auc": "chance that an image of the class is ranked above another",
    "average_precision": "area under precision and recall",
    "mean_average_precision": "area under precision and recall, mean over the labels",
    "subset_accuracy": "share of the images with every label correct",
    "hamming_loss": "share of the labels that are wrong",
}


class Headline(NamedTuple):
    """One figure with its interval."""

    key: str
    name: str
    value: str
    interval: str
    """Such as "71.2 to 79.8 %"; "" where none was found."""
    meaning: str


def headline(scores: Mapping[str, Any]) -> list[Headline]:
    """The metrics of a task that were computed, the most important first."""
    intervals = scores.get("intervals") or {}
    found = []
    for key in HEADLINE[scores["task"]]:
        if scores.get(key) is None:
            continue
        pair = intervals.get(key)
        found.append(Headline(key, words(key), number(scores[key], key), _interval(pair, key), MEANINGS.get(key, "")))
    return found


def _interval(pair: Any, key: str) -> str:
    if not pair or None in pair:
        return ""
    low, high = (number(value, key).removesuffix(f"{SPACE}%") for value in pair)
    return f"{low} to {high}" + (f"{SPACE}%" if _is_share(key) else "")


def number(value: float | None, key: str = "") -> str:
    """A figure in as many digits as mean something: "75.6 %", "0.049"."""
    if value is None:
        return "–"
    return percent(value, 1) if _is_share(key) else f"{value:.3f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def words(name: str) -> str:
    """A name of the program as a person writes it: "Macro F1"."""
    said = figure_words(name)
    return said[:1].upper() + said[1:]


def _is_share(key: str) -> bool:
    return key.endswith(SHARES) and key != "roc_auc"
