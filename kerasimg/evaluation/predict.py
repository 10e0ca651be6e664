"""`kerasimg.predict`: a trained classifier on pictures without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.check import OnBadImage
from kerasimg.data.decode import decode
from kerasimg.data.items import ManyFaults
from kerasimg.data.parallel import Progress
from kerasimg.data.picture import BadImage
from kerasimg.data.readers.folders import collect
from kerasimg.errors import CallError, Fault
from kerasimg.evaluation.predictions import decide, two_columns
from kerasimg.models.classifier import Classifier, ClassifierReference

BATCH_SIZE = 64
WITHOUT_THEM = "repair or remove them, or go on without them: --on-bad-image skip"


class Prediction(NamedTuple):
    """What a classifier says of one picture."""

    file: str
    """Its path, or its place among the arrays: "[3]"."""
    label: str | tuple[str, ...]
    """The class; where the task is multilabel, every class that holds."""
    confidence: float
    """Probability of the label; where there are several or none, of the least sure decision."""
    probabilities: dict[str, float]
    """Of every class."""


def predict(
    run: ClassifierReference,
    pictures: str | os.PathLike[str] | Sequence[Any] | np.ndarray,
    *,
    on_bad_image: OnBadImage = "fail",
    progress: Progress | None = None,
) -> list[Prediction]:
    """What a classifier says of each picture, in their order.

    run: a run, its folder, or a model.keras file.
    pictures: the path of a picture, of a folder (all pictures below it), a list of them, or an array (N, H, W, C).
    on_bad_image: "fail": a DataError names every unreadable picture; "skip": they are left out.
    progress: called with how many pictures are done, and of how many.
    """
    classifier = Classifier.open(run)
    chosen = list(named_pictures(pictures))
    if not chosen:
        raise CallError("no pictures to predict")
    made: list[Prediction] = []
    faults: list[Fault] = []
    for start in range(0, len(chosen), BATCH_SIZE):
        names, pixels = [], []
        for done, (name, picture) in enumerate(chosen[start : start + BATCH_SIZE], start):
            if progress:
                progress(done, len(chosen))
            try:
                pixels.append(decode(picture, classifier.spec.image))
                names.append(name)
            except BadImage as error:
                faults.append(Fault(name, "", error.reason))
        if names and (on_bad_image == "skip" or not faults):
            made += _predict_batch(classifier, names, np.stack(pixels))
    if faults and (on_bad_image == "fail" or not made):
        if len(faults) < len(chosen):
            told = f"{len(faults):,} of {len(chosen):,} pictures cannot be read (below); {WITHOUT_THEM}"
            faults.insert(0, Fault("", "", told))
        raise ManyFaults(faults)
    return made


def _predict_batch(classifier: Classifier, names: Sequence[str], pixels: np.ndarray) -> list[Prediction]:
    task, classes = classifier.spec.task, classifier.classes
    probabilities = classifier.probabilities(pixels.astype("float32"))
    decisions, confidences = decide(probabilities, task, classifier.thresholds)
    columns = two_columns(probabilities) if task == "binary" else probabilities
    return [
        Prediction(
            name,
            tuple(label for label, held in zip(classes, decision, strict=True) if held)
            if task == "multilabel"
            else classes[int(decision)],
            float(confidence),
            {label: float(value) for label, value in zip(classes, row, strict=True)},
        )
        for name, decision, confidence, row in zip(names, decisions, confidences, columns, strict=True)
    ]


def named_pictures(given: Any) -> Iterator[tuple[str, Any]]:
    """Each picture with its name.  given: as for `predict`."""
    if isinstance(given, np.ndarray):
        for index, picture in enumerate(given):
            yield f"[{index}]", picture
        return
    for one in [given] if isinstance(given, (str, os.PathLike)) else given:
        if isinstance(one, np.ndarray):
            yield "[array]", one
            continue
        path = Path(one)
        if path.is_dir():
            yield from ((file, file) for file in sorted(collect(str(path))[0]))
        else:
            yield str(path), str(path)
