"""Classify images without labels, by a trained model or by an exported one (`Predictor`); needs no Keras itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kerasimg import log
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.images import Images, named_images
from kerasimg.data.items import ManyFaults
from kerasimg.data.readable import unreadable
from kerasimg.errors import CallError, Fault, listed
from kerasimg.evaluation.conformal import are_known, name_sets
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.models.keras_file import Answer
from kerasimg.results import Result
from kerasimg.spec.load import Spec
from kerasimg.spec.pack import SetRule

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
    known: bool | None = None
    """Whether the image is like the training images; None if the run has no rule for it (`kerasimg.known`)."""
    p_value: float | None = None
    """The share of images like the training images that are at least as unlike them as this one."""


class Answers(NamedTuple):
    """Predictions for the readable images, and the unreadable ones."""

    predictions: list[Prediction]
    faults: list[Fault]
    """One for each image that cannot be read: its name, and why."""


class UnreadableImages(ManyFaults):
    """Some images cannot be read; `predictions` has the results of the others."""

    predictions: Sequence[Prediction] = ()


class Predictor(Protocol):
    """A model that can be asked for probabilities, with all that their meaning depends on: a `Classifier`, for one."""

    @property
    def spec(self) -> Spec:
        """The spec, which says how an image is decoded and what the outputs mean."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """What a probability must exceed to be decided for."""

    @property
    def sets(self) -> SetRule | None:
        """The rule of prediction sets."""

    def answer(self, images: Any) -> Answer:
        """The probabilities of images (N, H, W, C), 0-255, and their p-values if there is a rule for them."""


def answer(classifier: Predictor, images: Images) -> Answers:
    """Classifies the readable images and lists the others.  images: as for `kerasimg.predict`."""
    chosen = named_images(images, classifier.spec.image.channels)
    if not chosen:
        given = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        paths = [os.fspath(each) for each in given if isinstance(each, str | os.PathLike)]
        where = f" in {listed(paths, 3)}" if paths else ""
        raise CallError(f"no images to predict{where}: no file there is named as an image (.jpg, .png, ...)")
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
        faults.insert(0, Fault("", "", unreadable(len(faults), total)))
    error = UnreadableImages(faults)
    error.predictions = tuple(answers.predictions)
    raise error


def _predict_batch(classifier: Predictor, names: Sequence[str], pixels: np.ndarray) -> list[Prediction]:
    task, classes = classifier.spec.task, classifier.classes
    probabilities, p_values, share, _ = classifier.answer(pixels.astype("float32"))
    decisions, confidences = decide(probabilities, task, classifier.thresholds)
    columns = two_columns(probabilities) if task == "binary" else probabilities
    rule = classifier.sets
    sets = [None] * len(names) if rule is None else name_sets(probabilities, rule, classes)
    known: list[tuple[bool | None, float | None]] = [(None, None)] * len(names)
    if p_values is not None:
        inside = are_known(p_values, share)
        known = [(bool(each), float(str(p))) for each, p in zip(inside, p_values, strict=True)]
    return [
        Prediction(
            name,
            tuple(label for label, held in zip(classes, decision, strict=True) if held)
            if task == "multilabel"
            else classes[int(decision)],
            float(confidence),
            {label: float(value) for label, value in zip(classes, row, strict=True)},
            names_in_set,
            *known_and_p,
        )
        for name, decision, confidence, row, names_in_set, known_and_p in zip(
            names, decisions, confidences, columns, sets, known, strict=True
        )
    ]
