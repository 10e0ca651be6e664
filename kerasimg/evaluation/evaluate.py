"""`kerasimg.evaluate`: a trained classifier on labelled pictures -> figures, and every prediction."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.data.check import OnBadImage, require_sound
from kerasimg.data.items import PARTS, ManyFaults
from kerasimg.data.pipeline import Targets, batches
from kerasimg.data.sources import Data, Source, open_source
from kerasimg.data.split import fingerprint
from kerasimg.errors import CallError, Fault, nearest
from kerasimg.evaluation.files import write_scores
from kerasimg.evaluation.predictions import write_predictions
from kerasimg.evaluation.scores import scores
from kerasimg.models.classifier import Classifier, ClassifierReference

BATCH_SIZE = 64

TARGETS: dict[str, Targets] = {"multiclass": "sparse", "binary": "binary", "multilabel": "multi_hot"}
"""Task -> the form of the labels; they are not used here, and the pipeline hands them on all the same."""


def evaluate(
    run: ClassifierReference,
    *,
    data: Data | None = None,
    part: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_bad_image: OnBadImage = "fail",
) -> dict[str, Any]:
    """The figures of a run on pictures (see `kerasimg.evaluation.scores`).

    run: a run, its folder, or a model.keras file.
    data: as for `train`; its classes are matched to the model's by name. None: the part that the run held out, and
    DataError when one of its files is not what it was.
    part: "train", "validation", "test" or "all". None: test, where the data has one, else all.
    out: folder for metrics.json, predictions.csv and figures. None: nowhere for other data than the run's own.
    """
    classifier = Classifier.open(run)
    if data is None:
        if part is not None:
            raise CallError("part: without data it is the run's own held-out part; name the data too")
        return _held_out(classifier, out)
    source = open_source(data, classifier.spec.task, classes=classifier.classes)
    indices, name = _chosen(source, part)
    source = require_sound(source.only(indices), on_bad_image)
    return judge(classifier, source, np.arange(len(source)), None if out is None else Path(out), part=name)


def judge(
    classifier: Classifier, source: Source, indices: Sequence[int] | np.ndarray, out: Path | None, *, part: str
) -> dict[str, Any]:
    """The figures on the pictures at `indices`, written to `out` with every prediction where one is given."""
    task = classifier.spec.task
    pictures = batches(
        source, indices, classifier.spec.image, batch_size=BATCH_SIZE, targets=TARGETS[task], cache=False
    )
    probabilities = classifier.probabilities(pictures)
    truth = source.label_ids(indices)
    found = {"data": source.where, "part": part, **scores(truth, probabilities, classifier.classes, task)}
    if out is not None:
        write_scores(out, found)
        ids = [source.items[index].id for index in indices]
        write_predictions(out / "predictions.csv", ids, truth, probabilities, classifier.classes, task)
    return found


def _chosen(source: Source, part: str | None) -> tuple[np.ndarray, str]:
    """The pictures of a part and its name."""
    if part is not None and part != "all" and part not in PARTS:
        raise CallError(f"no part '{part}'{nearest(part, PARTS)} (parts: train, validation, test, all)")
    there = {item.part for item in source.items}
    wanted = PARTS.get(part or "test")
    if wanted is None or (part is None and wanted not in there):
        return np.arange(len(source)), "all"
    if wanted not in there:
        names = ", ".join(sorted(filter(None, there))) or "none"
        raise CallError(f"the data in {source.where} has no {wanted} part (it has: {names})")
    return np.array([index for index, item in enumerate(source.items) if item.part == wanted]), wanted


def _held_out(classifier: Classifier, out: str | os.PathLike[str] | None) -> dict[str, Any]:
    folder = classifier.folder
    if folder is None or not (folder / "data.json").is_file():
        raise CallError("data: a model file does not know its held-out pictures; name the data, or the run's folder")
    record = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    if record["where"] == "arrays":
        raise CallError("data: the run was trained on arrays, which it did not keep; give them again")
    kept = {picture["id"]: picture for picture in record["pictures"]}
    parts = {picture["part"] for picture in record["pictures"]}
    held_out = next((part for part in ("test", "validation") if part in parts), None)
    if held_out is None:
        raise CallError("data: the run held out no pictures; name the data")
    source = open_source(record["where"], classifier.spec.task, classes=classifier.classes)
    wanted = {key for key, picture in kept.items() if picture["part"] == held_out}
    indices = np.array([index for index, item in enumerate(source.items) if item.id in wanted], dtype=np.int64)
    missing = sorted(wanted - {source.items[index].id for index in indices})
    faults = [Fault(record["where"], name, "was held out by the run and is no longer there") for name in missing]
    faults += [
        Fault(record["where"], item.id, "is not the file that the run held out: its content has changed")
        for item in (source.items[index] for index in indices)
        if fingerprint(item) != kept[item.id]["sha256"]
    ]
    if faults:
        raise ManyFaults(faults)
    return judge(classifier, source, indices, Path(out or folder / "evaluation"), part=held_out)
