"""`kerasimg.prediction_sets`: sets of classes that hold the true one at a stated rate, by split conformal prediction.

The rule (`conformal.py`) is chosen on images that the model was not fitted to, and stored in the model file, in packs
and in export bundles. It assumes nothing about the model, but that later images come from where these come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from scipy.special import betaincinv

from kerasimg.data.sources import Data
from kerasimg.errors import CallError, counted, nearest
from kerasimg.evaluation.conformal import SCORES, choose_rule, class_columns, limit_rank, set_members
from kerasimg.evaluation.evaluate import choose_images, held_out, predicted, warn_of_trained
from kerasimg.evaluation.intervals import wilson
from kerasimg.files import write_json
from kerasimg.log import warning
from kerasimg.models.classifier import Classifier, ClassifierReference, set_decisions
from kerasimg.models.keras_file import model_file
from kerasimg.results import PredictionSets
from kerasimg.run_folder import RunFolder
from kerasimg.spec.pack import SetRule

ANSWERED = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of images that are answered, at which the risk-coverage curve is stored."""


def prediction_sets(
    run: ClassifierReference,
    coverage: float = 0.95,
    *,
    method: str = "lac",
    per_class: bool = False,
    data: Data | None = None,
    part: str | None = None,
    undo: bool = False,
) -> PredictionSets:
    """Choose a rule that turns probabilities into sets of classes, which hold the true class at the stated rate.

    The rule is stored in the model file: from then on `predict`, the server and exports give a set for each image. The
    most likely class is always in the set.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        coverage: the share of images whose set is to hold the true class, between 0 and 1.
        method: "lac", the smallest sets (Sadinle et al. 2019, 10.1080/01621459.2017.1395341); "aps", sets that are
            larger for harder images (Romano et al. 2020, arXiv:2006.02544); "raps", the same with a penalty on large
            sets (Angelopoulos et al. 2021, arXiv:2009.14193). None of them draws at random.
        per_class: whether the share is to hold for each class by itself; it takes more images.
        data: labelled images to choose by; None: those of the run.
        part: the part to choose by; None: validation.
        undo: remove the rule instead.

    Returns:
        The `PredictionSets`: the rule, and on the run's test images the share of sets that hold the true class with a
        95 % interval, their sizes, each class, and the error if the least confident images are left unanswered.

    Raises:
        CallError: for a multilabel classifier, whose answer is a set already, or an argument out of range.

    Example:
        >>> kerasimg.prediction_sets("runs/photos-1", 0.9).rule["method"]
        'lac'
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    if classifier.spec.task == "multilabel":
        raise CallError("sets: the task 'multilabel' has none: its answer is a set of labels already")
    if undo:
        RunFolder(file.parent).sets_file.unlink(missing_ok=True)
        set_decisions(file, replace(classifier, sets=None))
        return PredictionSets.of({"rule": None})
    if not 0 < coverage < 1:
        raise CallError(f"coverage: expected a share between 0 and 1, got {coverage:g}")
    if method not in SCORES:
        raise CallError(f"no method '{method}'{nearest(method, SCORES)} (methods: {', '.join(SCORES)})")
    chosen = choose_images(classifier, data, part, otherwise="validation")
    warn_of_trained(classifier, chosen, data)
    truth, p = chosen.source.label_ids(chosen.indices), predicted(classifier, chosen.source, chosen.indices)
    rule = choose_rule(truth, class_columns(p), coverage, method, per_class)
    counts = np.bincount(truth, minlength=len(classifier.classes)) if per_class else np.array([len(truth)])
    result: dict[str, Any] = {
        "rule": rule.model_dump(),
        "chosen_on": {"data": chosen.source.where, "part": chosen.part, "n": len(truth)},
        "expected": _expected(int(counts.min()), coverage),
        "parts": {},
    }
    if notes := _of_few(counts, coverage, classifier.classes if per_class else ()):
        result["warnings"] = notes
    for note in notes:
        warning(note)
    test = held_out(classifier, chosen, data)
    if test is not None:
        truth, p = test.source.label_ids(test.indices), predicted(classifier, test.source, test.indices)
        result["parts"][test.part] = measure_sets(truth, class_columns(p), rule, classifier.classes)
    changed = replace(classifier, sets=rule)
    result["model"] = changed.identity()
    write_json(RunFolder(file.parent).sets_file, result)
    set_decisions(file, changed)
    return PredictionSets.of(result)


def measure_sets(truth: np.ndarray, p: np.ndarray, rule: SetRule, classes: Sequence[str]) -> dict[str, Any]:
    """What sets hold on labelled images: coverage, sizes, each class, and the error of the most confident answers."""
    members = set_members(p, rule)
    held, sizes = members[np.arange(len(truth)), truth], members.sum(axis=1)
    rows = []
    for number, name in enumerate(classes):
        own = held[truth == number]
        if len(own):
            low, high = wilson(float(own.mean()), len(own))
            below = high < rule.coverage
            rows.append(
                {"class": name, "n": len(own), "coverage": float(own.mean()), "interval": [low, high], "below": below}
            )
    return {
        "n": len(truth),
        "coverage": float(held.mean()),
        "interval": wilson(float(held.mean()), len(truth)),
        "mean_size": float(sizes.mean()),
        "sizes": {str(size): int(count) for size, count in enumerate(np.bincount(sizes)) if count},
        "classes": sorted(rows, key=lambda row: row["coverage"]),
        "risk_coverage": risk_coverage(truth, p),
    }


def risk_coverage(truth: np.ndarray, p: np.ndarray) -> list[dict[str, float]]:
    """The error if only the most confident images are answered: one row for each share in ANSWERED.

    `confidence` is what the least confident of the answered images has (El-Yaniv, Wiener 2010).
    """
    confidence, wrong = p.max(axis=1), p.argmax(axis=1) != truth
    errors, sorted_confidence = errors_among(wrong, confidence), -np.sort(-confidence)
    counts = [max(1, round(share * len(truth))) for share in ANSWERED]
    return [
        {
            "answered": share,
            "error": float(errors[count - 1] / count),
            "confidence": float(sorted_confidence[count - 1]),
        }
        for share, count in zip(ANSWERED, counts, strict=True)
    ]


def errors_among(wrong: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """(N,) how many of the 1, 2, ... N most confident images are wrong.

    Images of equal confidence, as quantized models give many, share their errors evenly: whichever of them is taken
    first, that many are wrong on average. The order of the images, which is often that of the classes, plays no part.
    """
    _, place = np.unique(-confidence, return_inverse=True)
    shares = np.bincount(place, wrong) / np.bincount(place)
    return np.asarray(np.cumsum(shares[np.sort(place)]))


def _expected(n: int, coverage: float) -> list[float]:
    """The range in which the coverage of n images lies in 95 % of choices of the n images: a Beta law."""
    k = limit_rank(n, coverage)
    if k > n:
        return [1.0, 1.0]
    return cast(list[float], betaincinv(k, n + 1 - k, (0.025, 0.975)).tolist())


def _of_few(counts: np.ndarray, coverage: float, classes: Sequence[str]) -> list[str]:
    """A warning if there are too few images for a limit."""
    least = math.ceil(round(coverage / (1 - coverage), 9))
    few = np.flatnonzero(counts < least)
    if not len(few):
        return []
    if not classes:
        return [
            f"chosen on {counted(counts[0], 'image')}; a coverage of {coverage:g} needs {least}: sets hold every class;"
            " ask for less (--coverage), or give more images (--data)"
        ]
    names = ", ".join(f"{classes[k]} ({counts[k]})" for k in few[:10]) + (" ..." if len(few) > 10 else "")
    return [f"a coverage of {coverage:g} needs {counted(least, 'image')} of each class; always in the set: {names}"]
