"""How far images are from the training images, by the p-values of `kerasimg.evaluation.known`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import betaincinv, kolmogorov

from kerasimg.errors import counted
from kerasimg.escaping import command
from kerasimg.evaluation.conformal import are_known
from kerasimg.evaluation.intervals import wilson

LEAST_OF_SHARE = 5
"""The number of held-out images times the share from which on a rule is fitted: 100 images for 5 %."""
BINS = (0.2, 0.4, 0.6, 0.8)
"""Edges, besides the share of false alarms, between the p-values that are compared."""


def promise(n: int, share: float) -> tuple[float, float]:
    """The range of the share of false alarms for 95 % of choices of the n images that set the limit: a Beta law."""
    k = math.floor(round((n + 1) * share, 9))
    if k == 0:
        return 0.0, 0.0
    # scipy.stats has these laws by name; to import it takes 0.3 s, in every command.
    low, high = betaincinv(k, n + 1 - k, (0.025, 0.975)).tolist()
    return low, high


def broken_promise(row: Mapping[str, Any], held: int, run: object) -> str:
    """What to do where more images are flagged as unknown than was promised; empty if the interval allows the promise.

    row: "n", "share", "unknown", "interval" and "expected" (of `promise`).  held: number of images that set the limit.
    run: for the command.
    """
    share, unknown, (low, high), (least, most) = (row[key] for key in ("share", "unknown", "interval", "expected"))
    if low <= share:
        return ""
    text = (
        f"{unknown:.1%} of {counted(row['n'], 'image')} are flagged as unknown, not {share:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}). "
    )
    if low > most:
        text += (
            f"The {counted(held, 'validation image')} that set the limit allow at most {most:.1%}: these images differ "
            "from them (another camera, place or time?); train and validate on images like these"
        )
    else:
        text += (
            f"The {counted(held, 'validation image')} that set the limit allow {least:.1%} to {most:.1%}; more of them "
            "(fit.validation_split) come closer to the promise"
        )
    stricter = math.floor(1000 * share * share / unknown) / 1000
    if stricter and held * stricter >= LEAST_OF_SHARE:
        stricter_one = command("run", "known", run, "--share", f"{stricter:g}")
        text += f". To flag about {share:.1%} of such images: {stricter_one} (its promise is then {stricter:.1%})"
    return text


def measure_shift(
    p_values: np.ndarray,
    correct: np.ndarray,
    share: float,
    held: int,
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How far images are from those that set the limit, and how much of a change of accuracy comes from it.

    Of images like those, p-values are even between 0 and 1: `distance` is the largest difference of the distributions,
    `p_value` its Kolmogorov-Smirnov test. `change` splits the change of accuracy since the `reference`, the same
    figures of the run's own images: `by_shift` is what follows from more or fewer images in each bin of p-values,
    `rest` from other accuracies within the bins.

    held: number of images that set the limit.
    """
    away = ~are_known(p_values, share)
    ordered, steps = np.sort(p_values), np.arange(len(p_values) + 1) / len(p_values)
    distance = float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
    # Two samples are compared: these images, and those that set the limit.
    size = len(p_values) * held / (len(p_values) + held)
    edges = [0.0, *sorted({share, *BINS}), 1.0]
    places = np.clip(np.searchsorted(edges, p_values) - 1, 0, len(edges) - 2)
    bins = [
        {"to": edges[number + 1], "n": int((places == number).sum()), "correct": int(correct[places == number].sum())}
        for number in range(len(edges) - 1)
    ]
    result: dict[str, Any] = {
        "share": share,
        "n": len(p_values),
        "held": held,
        "expected": list(promise(held, share)),
        "unknown": float(away.mean()),
        "interval": list(wilson(float(away.mean()), len(away))),
        "distance": distance,
        "p_value": float(kolmogorov(np.sqrt(size) * distance)),
        "accuracy_known": float(correct[~away].mean()) if (~away).any() else None,
        "accuracy_unknown": float(correct[away].mean()) if away.any() else None,
        "bins": bins,
    }
    before = [] if reference is None else reference.get("bins", [])
    if before and [row["to"] for row in before] == [row["to"] for row in bins]:
        total = sum(row["n"] for row in before)
        accuracy = sum(row["correct"] for row in before) / total
        # A bin without images before has no accuracy to expect; it counts to the rest, as the overall accuracy.
        expected = sum(
            now["n"] / len(p_values) * (old["correct"] / old["n"] if old["n"] else accuracy)
            for now, old in zip(bins, before, strict=True)
        )
        now_accuracy = float(correct.mean())
        result["change"] = {
            "accuracy_before": accuracy,
            "accuracy": now_accuracy,
            "by_shift": expected - accuracy,
            "rest": now_accuracy - expected,
        }
    return result
