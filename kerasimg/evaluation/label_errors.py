"""Images whose label is likely wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

A class is believed of an image where its probability is at least the mean that the class has over the images
labelled so; of several such classes, the most likely. An image for which another class is believed than its label is
suspect. The probabilities must come from a model that was not trained on the images: a network memorizes wrong
labels as it does right ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.data.sources import Data
from kerasimg.errors import CallError
from kerasimg.evaluation.evaluate import choose_images, own_record, predicted, warn_of_trained
from kerasimg.evaluation.predictions import two_columns
from kerasimg.files import write_json
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import LabelErrors
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Task

ROUNDING = 1e-6
"""Tolerance below the mean probability of a class, for rounding."""


def label_errors(
    run: ClassifierReference,
    *,
    data: Data | None = None,
    part: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> LabelErrors:
    """Find images whose labels are probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        data: labelled images that the run was not trained on; None: its validation and test parts.
        part: the part of the data.
        out: a file for the result as JSON. None: `evaluation/label_errors.json` of the run, for its own images.

    Returns:
        The `LabelErrors`, the most likely first.

    Raises:
        CallError: if the run held out no images.

    Example:
        >>> kerasimg.label_errors("runs/photos-1").n
        12
    """
    classifier = Classifier.open(run)
    parts = [part]
    if data is None and part is None:
        there = {image["part"] for image in own_record(classifier)["images"]}
        parts = [name for name in ("validation", "test") if name in there]
        if not parts:
            raise CallError("data: the run held out no images; name the data")
    asked = [choose_images(classifier, data, name) for name in parts]
    for chosen in asked:
        warn_of_trained(classifier, chosen, data)
    truth = np.concatenate([one.source.label_ids(one.indices) for one in asked])
    p = np.concatenate([predicted(classifier, one.source, one.indices) for one in asked])
    ids = [one.source.items[index].id for one in asked for index in one.indices]
    part_of = dict(zip(ids, (one.part for one in asked for _ in one.indices), strict=True))
    rows = find_label_errors(ids, truth, p, classifier.classes, classifier.spec.task)
    depends_on = {key: value for key, value in classifier.identity().items() if key != "thresholds"}
    content = {
        "model": depends_on,
        "n": len(ids),
        "found": len(rows),
        "rows": [{**row, "part": part_of[row["file"]]} for row in rows],
    }
    if out is None and data is None and classifier.folder is not None:
        RunFolder(classifier.folder).evaluation.write_label_errors(content)
    elif out is not None:
        write_json(Path(out), content)
    return LabelErrors.of(content)


def find_label_errors(
    ids: Sequence[str], truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], task: Task
) -> list[dict[str, Any]]:
    """The suspect labels among N predictions, the most likely error first.

    ids: N names of images.  truth, probabilities, classes: as in `scores`; from a model that has not seen them.
    Returns rows {file, given, suggested, p_given, p_suggested, margin}, margin being p_given - p_suggested, in [-1, 1].
    A label that is still the likelier of the two is not listed. Where the task is multilabel each label is a question
    of its own, given and suggested are "NAME" or "not NAME", and an image may stand in several rows.
    """
    y, p = np.asarray(truth).astype(int), np.asarray(probabilities, dtype=np.float64)
    questions: list[tuple[np.ndarray, np.ndarray, tuple[str, ...]]]
    if task == "multilabel":
        questions = [(y[:, k], two_columns(p[:, k]), (f"not {name}", name)) for k, name in enumerate(classes)]
    else:
        questions = [(y.reshape(-1), two_columns(p) if task == "binary" else p, tuple(classes))]
    rows: list[dict[str, Any]] = []
    for given, columns, names in questions:
        believed = believed_classes(given, columns)
        for row in np.flatnonzero((believed >= 0) & (believed != given)):
            old, new = given[row], believed[row]
            p_given, p_suggested = float(columns[row, old]), float(columns[row, new])
            if p_given < p_suggested:
                rows.append(
                    {
                        "file": ids[int(row)],
                        "given": names[old],
                        "suggested": names[new],
                        "p_given": p_given,
                        "p_suggested": p_suggested,
                        "margin": p_given - p_suggested,
                    }
                )
    return sorted(rows, key=lambda row: (row["margin"], row["file"]))


def believed_classes(given: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The class that is believed of each image, (N,), -1 where none is.

    given: (N,) class numbers.  p: (N, K).  A class that no image is labelled with is believed of none.
    """
    means = np.array([p[given == k, k].mean() if (given == k).any() else np.inf for k in range(p.shape[1])])
    confident = p >= means - ROUNDING
    most_likely = np.where(confident, p, -1).argmax(axis=1)
    return np.where(confident.any(axis=1), most_likely, -1)


def confident_joint(given: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(K, K) counts: of the images labelled i (row), how many are believed to be of class j (column)."""
    k = p.shape[1]
    believed = believed_classes(given, p)
    known = believed >= 0
    return np.bincount(given[known] * k + believed[known], minlength=k * k).reshape(k, k)
