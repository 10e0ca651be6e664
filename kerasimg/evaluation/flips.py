"""`kerasimg.flips`: average a classifier's answers over each image and its mirror image, where that gains.

The decision is stored in the `.keras` file beside the classes; the model in it stays as it was trained. It costs a
second forward pass for each image, in every prediction and export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.source import Source
from kerasimg.data.sources import Data
from kerasimg.evaluation.calibrate import decide_by
from kerasimg.evaluation.evaluate import choose_images, predicted, warn_of_trained
from kerasimg.evaluation.intervals import interval, resampled
from kerasimg.evaluation.scores import scores
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.keras_file import model_file
from kerasimg.results import Flips
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Task

FIGURE: Final[Mapping[Task, str]] = {"multiclass": "accuracy", "binary": "accuracy", "multilabel": "macro_f1"}
"""Task -> the figure by which models are compared."""


def flips(run: ClassifierReference, *, data: Data | None = None, part: str | None = None, undo: bool = False) -> Flips:
    """Average the answers of a trained classifier over each image and its mirror image, if that gains.

    It is applied if the 95 % interval of the gain, on the same images without and with it, is above zero. It is stored
    in the model file, so every later prediction, evaluation and export does it, and takes twice the time.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        data: labelled images to decide on; None: those of the run.
        part: the part to decide on; None: validation.
        undo: answer by the image alone again.

    Returns:
        The `Flips`: whether it is applied, and the figure without and with it.

    Example:
        >>> kerasimg.flips("runs/photos-1", undo=True).applied
        False
    """
    file = model_file(run)
    classifier = Classifier.open(run)
    content: dict[str, Any] = {"applied": False}
    if not undo:
        asked = choose_images(classifier, data, part, otherwise="validation")
        warn_of_trained(classifier, asked, data)
        content = decide(classifier, asked.source, asked.indices)
        content |= {"data": asked.source.where, "part": asked.part}
    changed = replace(classifier, flips=content["applied"])
    if changed.flips != classifier.flips:
        RunFolder(file.parent).evaluation.speed_file.unlink(missing_ok=True)
        decide_by(classifier, changed, file)
    return Flips.of(content)


def decide(classifier: Classifier, source: Source, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """What `compare` finds of a classifier on the images at `indices`."""
    without, both = (predicted(replace(classifier, flips=flipped), source, indices) for flipped in (False, True))
    truth, thresholds = source.label_ids(indices), classifier.thresholds
    return compare(truth, without, both, classifier.classes, classifier.spec.task, thresholds)


def compare(
    truth: ArrayLike,
    without: np.ndarray,
    both: np.ndarray,
    classes: Sequence[str],
    task: Task,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Whether to flip, the figure without and with it, and the paired 95 % interval of the gain.

    truth, thresholds: as in `scores`.  without, both: probabilities of the image, and averaged.
    """
    name = FIGURE[task]
    before, after = (float(scores(truth, p, classes, task, thresholds)[name]) for p in (without, both))
    reach = gain_interval(truth, both, without, after - before, task, thresholds)
    found = {"figure": name, "before": before, "after": after, "gain": after - before, "interval": reach}
    return {"applied": reach is not None and reach[0] > 0, **found, "n": len(without)}


def gain_interval(
    truth: ArrayLike,
    best: np.ndarray,
    other: np.ndarray,
    gain: float,
    task: Task,
    thresholds: Sequence[float] | None = None,
) -> list[float] | None:
    """The paired 95 % interval of how much higher the figure of the best is on the same images; None if it never is."""
    draws = [resampled(truth, p, task, thresholds)[FIGURE[task]] for p in (best, other)]
    return interval(draws[0] - draws[1], gain)
