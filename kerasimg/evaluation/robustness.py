"""`kerasimg.robustness`: the accuracy of a classifier on corrupted images (Hendrycks, Dietterich 2019)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.data.items import evenly_spaced
from kerasimg.data.loading import Loader
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, nearest
from kerasimg.evaluation.conformal import are_known
from kerasimg.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, describe
from kerasimg.evaluation.evaluate import choose_images, warn_of_trained
from kerasimg.evaluation.intervals import wilson
from kerasimg.evaluation.predictions import decide
from kerasimg.figures import robustness_figure, save_figure
from kerasimg.files import write_json
from kerasimg.log import progress
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import Robustness
from kerasimg.run_folder import RunFolder

IMAGES = 500
"""Most images by default: each is predicted 70 times."""
BATCH = 256


def robustness(
    run: ClassifierReference,
    *,
    corruptions: Sequence[str] | None = None,
    data: Data | None = None,
    part: str | None = None,
    images: int = IMAGES,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Robustness:
    """Measure the accuracy of a classifier on corrupted images: noise, blur, weather and digital corruptions.

    The corruptions are those of Hendrycks and Dietterich 2019 (arXiv:1903.12261) except frost, at severities 1 to 5,
    applied to the pixels that the model takes.

    Args:
        run: a `Run`, its folder, or a `model.keras` or `.kerasimg` file.
        corruptions: names of corruptions; None: all (`kerasimg.evaluation.corruptions.CORRUPTIONS`).
        data: labelled images; None: those of the run.
        part: the part of the images; None: test.
        images: number of images, evenly spaced.
        seed: of noise and the like.
        out: a file for the result as JSON. None: `evaluation/robustness.json` of the run, for its own images.

    Returns:
        A `Robustness`: the accuracy without corruption, and for each corruption and severity, with 95 % intervals.

    Raises:
        CallError: for an unknown corruption, or if there are no such images.

    Example:
        >>> kerasimg.robustness("runs/photos-1", corruptions=["contrast"], images=50).rows["contrast"][4]["severity"]
        5
    """
    names = list(dict.fromkeys(CORRUPTIONS if corruptions is None else corruptions))
    for name in names:
        if name not in CORRUPTIONS:
            raise CallError(
                f"no corruption '{name}'{nearest(name, CORRUPTIONS)} (corruptions: {', '.join(CORRUPTIONS)})"
            )
    if not names:
        raise CallError(f"corruptions: name one or more of {', '.join(CORRUPTIONS)}")
    if images < 1:
        raise CallError(f"images: expected 1 or more, got {images}")
    classifier = Classifier.open(run)
    asked = choose_images(classifier, data, part)
    warn_of_trained(classifier, asked, data)
    indices = asked.indices[evenly_spaced(len(asked.indices), images)]
    count = len(indices)
    truth = np.asarray(asked.source.label_ids(indices)).reshape(count, -1)
    loader = Loader(asked.source, indices, classifier.spec.image, None)
    pixels = np.concatenate([loader.load(places) for places in np.array_split(np.arange(count), -(-count // BATCH))])
    clean = _measure(classifier, pixels, truth)
    rows: dict[str, list[dict[str, Any]]] = {}
    total = len(names) * len(SEVERITIES)
    for place, name in enumerate(names):
        rows[name] = []
        for severity in SEVERITIES:
            progress(place * len(SEVERITIES) + severity, total)
            random = np.random.default_rng([seed, place, severity])
            changed = np.stack([corrupt(image, name, severity, random) for image in pixels])
            rows[name].append({"severity": severity, **_measure(classifier, changed, truth)})
    accuracies = [row["accuracy"] for own in rows.values() for row in own]
    content = {
        "model": classifier.identity(),
        "task": classifier.spec.task,
        "data": asked.source.where,
        "part": asked.part,
        "n": count,
        "seed": seed,
        "corruptions": describe(),
        "clean": clean,
        "mean": float(np.mean(accuracies)),
        "by_severity": [
            float(np.mean([own[severity - 1]["accuracy"] for own in rows.values()])) for severity in SEVERITIES
        ],
        "rows": rows,
    }
    if out is not None:
        write_json(Path(out), content)
    elif data is None and classifier.folder is not None:
        evaluation = RunFolder(classifier.folder).evaluation
        evaluation.make()
        write_json(evaluation.robustness_file, content)
        save_figure(robustness_figure(content), evaluation.robustness_figure)
    return Robustness.of(content)


def _measure(classifier: Classifier, pixels: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval; where the classifier has a rule for it, the share that is unknown."""
    answer = classifier.answer(pixels.astype(np.float32))
    decision, confidence = decide(answer.probabilities, classifier.spec.task, classifier.thresholds)
    correct = (decision.reshape(truth.shape) == truth).all(axis=1)
    result: dict[str, Any] = {
        "accuracy": float(correct.mean()),
        "interval": list(wilson(float(correct.mean()), len(correct))),
        "confidence": float(np.mean(confidence)),
    }
    if answer.p_values is not None:
        result["unknown"] = float((~are_known(answer.p_values, answer.share)).mean())
    return result
