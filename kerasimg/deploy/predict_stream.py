"""Classifies images one after another: each prediction is written, sorted and passed on before the next image comes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kerasimg import log
from kerasimg.data.frames import Frame
from kerasimg.errors import CallError, Fault
from kerasimg.escaping import csv_row
from kerasimg.evaluation.predict import BATCH_SIZE, Prediction, Predictor, answer

FORMS = (".csv", ".jsonl")
NONE = "none of the labels"
"""The folder of images for which no label of a multilabel model holds."""
UNKNOWN = "none of these"
"""The folder of images unlike the training images, for a run with a rule for them."""


def predict_frames(
    predictor: Predictor, frames: Iterable[Frame | None], *, batch: int = BATCH_SIZE
) -> Iterator[tuple[Frame, Prediction | Fault]]:
    """Classifies the images of a stream, in order.

    Args:
        predictor: as `open_predictor` returns it.
        frames: the images; None: nothing is waiting, so classify what has come.
        batch: images per call of the model, at most; 1 for a live stream.

    Yields:
        Each image with its prediction, or with why it cannot be read.
    """
    waiting: list[Frame] = []
    done = 0
    for frame in frames:
        if frame is not None:
            waiting.append(frame)
        if waiting and (frame is None or len(waiting) >= batch):
            yield from _predict(predictor, waiting)
            done += len(waiting)
            if waiting[-1].total:
                log.progress(done, max(done, waiting[-1].total))
            waiting = []
    if waiting:
        yield from _predict(predictor, waiting)


def _predict(predictor: Predictor, frames: Sequence[Frame]) -> Iterator[tuple[Frame, Prediction | Fault]]:
    answers = answer(predictor, [frame.image for frame in frames])
    predictions, faults = iter(answers.predictions), iter(answers.faults)
    unreadable = [fault.file for fault in answers.faults]
    for place, frame in enumerate(frames):
        name = frame.image if isinstance(frame.image, str) else f"[{place}]"
        if name in unreadable:
            unreadable.remove(name)
            yield frame, next(faults)._replace(file=frame.name)
        else:
            yield frame, replace(next(predictions), file=frame.name)


class PredictionFile(AbstractContextManager["PredictionFile"]):
    """A .csv or .jsonl file with a row per image, each on the disk before the next image is classified.

    Args:
        path: the file; one that exists is replaced.
        classes: class names, for the columns of a CSV.

    Raises:
        CallError: for another extension, or a folder that does not exist.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        if path.suffix.lower() not in FORMS:
            raise CallError(f"--out: expected a name that ends in {' or '.join(FORMS)}, got '{path}'")
        if not path.parent.is_dir():
            raise CallError(f"--out: no folder '{path.parent}'; create it first")
        self._classes = classes
        self._file = path.open("w", encoding="utf-8", newline="")
        self._is_csv = path.suffix.lower() == ".csv"
        if self._is_csv:
            self._row(["file", "label", "confidence", "set", "known", "p_value", *(f"p:{name}" for name in classes)])

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        if self._is_csv:
            shares = (prediction.probabilities[name] for name in self._classes)
            known = "" if prediction.known is None else str(prediction.known).lower()
            p_value = "" if prediction.p_value is None else prediction.p_value
            cells = [prediction.file, _joined(prediction.label), prediction.confidence, _joined(prediction.set or ())]
            self._row([*cells, known, p_value, *shares])
        else:
            self._file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")
        self._file.flush()

    def _row(self, cells: Sequence[Any]) -> None:
        csv.writer(self._file, lineterminator="\n").writerow(csv_row(cells))


class SortedFolder:
    """A folder with a folder per class, into which images are copied; nothing is replaced.

    Args:
        folder: it is made if it does not exist.
        classes: class names.

    Raises:
        CallError: if two classes would have the same folder.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        self._names = {name: _folder_name(name) for name in (*classes, NONE, UNKNOWN)}
        for name, other in self._names.items():
            twins = [each for each, own in self._names.items() if own.lower() == other.lower() and each != name]
            if twins:
                raise CallError(f"--sort-into: the classes '{name}' and '{twins[0]}' would have the same folder")

    def add(self, frame: Frame, prediction: Prediction) -> list[Path]:
        """Copy an image into the folder of each of its labels, or into that of unknown images; returns the copies."""
        labels = (prediction.label,) if isinstance(prediction.label, str) else prediction.label or (NONE,)
        if prediction.known is False:
            labels = (UNKNOWN,)
        return [self._copy(frame, self._folder / self._names[label]) for label in labels]

    def _copy(self, frame: Frame, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(frame.image, str):
            target = _free(folder / os.path.basename(frame.image))
            shutil.copy2(frame.image, target)
        elif isinstance(frame.image, bytes):
            target = _free(folder / (_folder_name(frame.name.rsplit("/", 1)[-1].partition("?")[0])))
            target.write_bytes(frame.image)
        else:
            target = _free(folder / f"{_folder_name(os.path.basename(frame.name))}.jpg")
            PIL.Image.fromarray(np.asarray(frame.image)).save(target, quality=95)
        return target


def _joined(label: str | tuple[str, ...]) -> str:
    return label if isinstance(label, str) else "|".join(label)


def _folder_name(name: str) -> str:
    """A name as that of a file or folder on every system; it never leads to another folder."""
    return re.sub(r'[/\\<>:"|?*\x00-\x1f\x7f]', "_", name).strip(". ")[:120] or "_"


def _free(path: Path) -> Path:
    """The path, with a number before its extension if it exists."""
    free, counter = path, 1
    while free.exists():
        counter += 1
        free = path.with_name(f"{path.stem}-{counter}{path.suffix}")
    return free
