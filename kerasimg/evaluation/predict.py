"""`kerasimg.predict`: classifies images without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kerasimg import log
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.images import Images, named_images
from kerasimg.data.items import ManyFaults
from kerasimg.data.readable import LEAVE_OUT, OnBadImage
from kerasimg.errors import CallError, Fault
from kerasimg.evaluation.conformal import name_sets
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.log import Verbose
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import Result, Results

BATCH_SIZE = 64


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """The classification of one image.

    Example:
        >>> [prediction] = kerasimg.predict("runs/photos-1", "photo.jpg", verbose=0)
        >>> round(sum(prediction.probabilities.values()), 3)
        1.0
    """

    file: str
    """Its path, or its place among the arrays: "[3]"."""
    label: str | tuple[str, ...]
    """The class; where the task is multilabel, every class that holds."""
    confidence: float
    """Probability of the label; where there are several or none, of the least sure decision."""
    probabilities: dict[str, float]
    """Of every class."""
    set: tuple[str, ...] | None = None
    """The prediction set, most likely first; None if the run has no rule for one (`kerasimg.prediction_sets`)."""


class Answers(NamedTuple):
    """Predictions for the readable images, and the unreadable ones."""

    predictions: list[Prediction]
    faults: list[Fault]
    """One for each image that cannot be read: its name, and why."""


class UnreadableImages(ManyFaults):
    """Some images cannot be read; `predictions` has the results of the others."""

    predictions: Sequence[Prediction] = ()


@log.applies_verbose
def predict(
    run: ClassifierReference, images: Images, *, on_bad_image: OnBadImage = "fail", verbose: Verbose = 1
) -> Results[Prediction]:
    """Classify images.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        images: the path of an image or of a folder (all images below it), an image as bytes, `PIL.Image` or array
            (H, W, C), several images as an array (N, H, W, C), or a list of any of these.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        verbose: 0, 1 or 2.

    Returns:
        One `Prediction` per image, in order.

    Raises:
        DataError: if an image cannot be read.
        CallError: if there is no trained model, or no image.

    Example:
        >>> [prediction] = kerasimg.predict("runs/photos-1", "photo.jpg")
        >>> prediction.label in ("cat", "dog")
        True
    """
    answers = answer(run, images)
    skip = on_bad_image == "skip" and answers.predictions
    return Results(answers.predictions if skip else require_all(answers))


def answer(run: ClassifierReference, images: Images) -> Answers:
    """Classifies the readable images and lists the others.  Arguments as for `predict`."""
    classifier = Classifier.open(run)
    chosen = named_images(images, classifier.spec.image.channels)
    if not chosen:
        raise CallError("no images to predict")
    answers = Answers([], [])
    for start in range(0, len(chosen), BATCH_SIZE):
        names, pixels = [], []
        for done, image in enumerate(chosen[start : start + BATCH_SIZE], start):
            log.progress(done, len(chosen))
            try:
                pixels.append(decode(image.read(), classifier.spec.image))
                names.append(image.name)
            except BadImage as error:
                answers.faults.append(Fault(image.name, "", error.reason))
        if names:
            answers.predictions.extend(_predict_batch(classifier, names, np.stack(pixels)))
    return answers


def require_all(answers: Answers) -> list[Prediction]:
    """The predictions; an `UnreadableImages` where an image could not be read."""
    faults = list(answers.faults)
    if not faults:
        return answers.predictions
    if answers.predictions:
        total = len(faults) + len(answers.predictions)
        faults.insert(0, Fault("", "", f"{len(faults):,} of {total:,} images cannot be read (below); {LEAVE_OUT}"))
    error = UnreadableImages(faults)
    error.predictions = tuple(answers.predictions)
    raise error


def _predict_batch(classifier: Classifier, names: Sequence[str], pixels: np.ndarray) -> list[Prediction]:
    task, classes = classifier.spec.task, classifier.classes
    probabilities = classifier.probabilities(pixels.astype("float32"))
    decisions, confidences = decide(probabilities, task, classifier.thresholds)
    columns = two_columns(probabilities) if task == "binary" else probabilities
    rule = classifier.sets
    sets = [None] * len(names) if rule is None else name_sets(probabilities, rule, classes)
    return [
        Prediction(
            name,
            tuple(label for label, held in zip(classes, decision, strict=True) if held)
            if task == "multilabel"
            else classes[int(decision)],
            float(confidence),
            {label: float(value) for label, value in zip(classes, row, strict=True)},
            names_in_set,
        )
        for name, decision, confidence, row, names_in_set in zip(
            names, decisions, confidences, columns, sets, strict=True
        )
    ]
