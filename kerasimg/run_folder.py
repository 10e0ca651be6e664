"""The run folder: the names of its files, and a typed reader and writer for each. No other module knows the names.

The folder is `runs/<name>-<k>/`:

    spec.json           the spec, resolved
    first_spec.json     the spec that `train` made from the images, where none was given
    classes.json        the class names, in the order of the outputs
    data.json           the split: each image with its part, labels and SHA-256
    environment.json    versions, backend, machine, command
    training.json       the call, the settings of each stage, when it finished
    history.csv         one row per epoch
    checkpoints/        what `resume` needs; empty when the run has finished
    tensorboard/        event files, if asked for
    tracking.json       the run in MLflow, Weights & Biases or trackio, if asked for
    model.keras         the trained model
    calibration.json    how `calibrate` chose the temperature
    thresholds.json     how `choose_thresholds` chose the thresholds
    sets.json           the rule of prediction sets and its coverage
    known.json          the rule that finds unknown images and its false alarms
    added/              the files as they were before each class that `add_class` added
    evaluation/         metrics, predictions and figures (`EvaluationFolder`)
    report.html         the report
    MODEL_CARD.md       the model card
    export/<target>/    export bundles
"""

from __future__ import annotations

import csv
import json
import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from kerasimg.errors import CallError, listed, nearest, nearest_path
from kerasimg.escaping import command, from_csv_cell
from kerasimg.files import damaged, is_locked, read_json, write_json, write_text
from kerasimg.spec.reader import shown

SPEC = "spec.json"
FIRST_SPEC = "first_spec.json"
CLASSES = "classes.json"
ADDED = "added"
DATA = "data.json"
ENVIRONMENT = "environment.json"
TRAINING = "training.json"
HISTORY = "history.csv"
CHECKPOINTS = "checkpoints"
CHECKPOINT = "resume.ckpt"
TENSORBOARD = "tensorboard"
TRACKING = "tracking.json"
MODEL = "model.keras"
CALIBRATION = "calibration.json"
THRESHOLDS = "thresholds.json"
SETS = "sets.json"
KNOWN = "known.json"
EVALUATION = "evaluation"
REPORT = "report.html"
CARD = "MODEL_CARD.md"
EXPORT = "export"

METRICS = "metrics.json"
SEARCH, AUTO = "search.json", "auto.json"
"""In the folder of a search, and of an `auto`."""
CURVES = "curves.json"
PREDICTIONS = "predictions.csv"
LABEL_ERRORS = "label_errors.json"
SPEED = "speed.json"
CONFUSION_FIGURE = "confusion.png"
CALIBRATION_FIGURE = "calibration.png"
CURVES_FIGURE = "curves.png"


@runtime_checkable
class HasFolder(Protocol):
    """An object with a run folder: a `Run`, a `Classifier`."""

    @property
    def folder(self) -> Path | None:
        """The run folder; None for a classifier without a run."""


RunReference = str | os.PathLike[str] | HasFolder
"""A run, or the path of its folder."""


class ImageRecord(TypedDict):
    """One image of a run, in `data.json`."""

    id: str
    part: str
    labels: list[str]
    sha256: str
    group: NotRequired[str]


class DataRecord(TypedDict):
    """The content of `data.json`."""

    where: str
    task: str
    classes: list[str]
    skipped: list[dict[str, Any]]
    images: list[ImageRecord]


def folder_of(run: RunReference) -> Path:
    """The folder of a run.

    Args:
        run: a run, a classifier that belongs to one, or a path.

    Returns:
        The folder's path. A path that is given is returned as it is, whether a run is there or not.

    Raises:
        CallError: if a classifier belongs to no run, or `run` is neither a run nor a path.
    """
    if isinstance(run, str | os.PathLike):
        return Path(run)
    if not isinstance(run, HasFolder):
        raise CallError(f"expected a run or the path of its folder, got {type(run).__name__}")
    if run.folder is None:
        raise CallError("the classifier belongs to no run folder; name the folder of a run")
    return run.folder


@dataclass(frozen=True)
class EvaluationFolder:
    """The output folder of `evaluate` for one part of the data: `evaluation/` of a run, or another folder."""

    path: Path

    @property
    def metrics_file(self) -> Path:
        """Every figure, with intervals."""
        return self.path / METRICS

    @property
    def curves_file(self) -> Path:
        """ROC and precision-recall curves per class."""
        return self.path / CURVES

    @property
    def predictions_file(self) -> Path:
        """One row per image."""
        return self.path / PREDICTIONS

    @property
    def label_errors_file(self) -> Path:
        """The file of `label_errors`."""
        return self.path / LABEL_ERRORS

    @property
    def speed_file(self) -> Path:
        """Milliseconds per image, as the report measured them."""
        return self.path / SPEED

    @property
    def robustness_file(self) -> Path:
        """Accuracy on corrupted images."""
        return self.path / "robustness.json"

    @property
    def robustness_figure(self) -> Path:
        """The same as a drawing."""
        return self.path / "robustness.png"

    @property
    def confusion_figure(self) -> Path:
        """The confusion matrix as an image."""
        return self.path / CONFUSION_FIGURE

    @property
    def calibration_figure(self) -> Path:
        """The reliability diagram."""
        return self.path / CALIBRATION_FIGURE

    @property
    def curves_figure(self) -> Path:
        """ROC and precision-recall curves as an image."""
        return self.path / CURVES_FIGURE

    def make(self) -> None:
        """Make the folder if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)

    def metrics(self) -> dict[str, Any] | None:
        """The figures; None if nothing was evaluated yet."""
        return _object(self.metrics_file)

    def write_metrics(self, scores: Mapping[str, Any]) -> None:
        """Write the figures; a row of the confusion matrix is one line."""
        self.make()
        write_text(self.metrics_file, scores_as_json(scores))

    def curves(self) -> dict[str, Any] | None:
        """The curves; None if there are none."""
        return _object(self.curves_file)

    def write_curves(self, curves: Mapping[str, Any]) -> None:
        """Write the curves."""
        self.make()
        write_text(self.curves_file, json.dumps(curves, ensure_ascii=False, allow_nan=False))

    def write_label_errors(self, content: Mapping[str, Any]) -> None:
        """Write what `label_errors` suspects."""
        self.make()
        write_json(self.label_errors_file, content)

    def write_speed(self, content: Mapping[str, Any]) -> None:
        """Write the measured speed."""
        self.make()
        write_json(self.speed_file, content)

    def speed(self) -> dict[str, Any] | None:
        """The measured speed; None if it was not measured, or the file is damaged, so that it is measured again."""
        try:
            return _object(self.speed_file)
        except CallError:
            return None


@dataclass(frozen=True)
class RunFolder(os.PathLike[str]):
    """The files of one run. Every reader returns None if the run does not have the file yet.

    A file that is not as kerasimg wrote it raises a CallError that names it.

    Example:
        >>> RunFolder.open("runs/photos-1").classes()
        ['cat', 'dog']
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    @staticmethod
    def of(run: RunReference) -> RunFolder:
        """The files of a run or of a path, whether a run is there or not."""
        return RunFolder(folder_of(run))

    @staticmethod
    def open(run: RunReference) -> RunFolder:
        """The files of a run.

        Raises:
            CallError: if the folder holds no run.
        """
        files = RunFolder.of(run)
        if not files.is_run:
            raise not_a_folder_of("a run", files.path, SPEC)
        return files

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run; that of a search, which has a spec, too, does not."""
        return self.spec_file.is_file() and not (self.path / SEARCH).is_file()

    @property
    def finished(self) -> bool:
        """Whether the training is complete, with the evaluation."""
        return bool((self.training() or {"finished": True})["finished"])

    @property
    def interrupted(self) -> str | None:
        """Why a run has no results, and what to do; None if it is finished, or no run."""
        if not self.is_run or self.finished:
            return None
        if is_locked(self.path):
            so_far = command("run", "history", self.path)
            return f"'{self.path}' has no results yet: another process is training it; its curves so far: {so_far}"
        return f"'{self.path}' has no results: its training was interrupted; to continue it: {self.resume}"

    @property
    def resume(self) -> str:
        """The command that continues the training."""
        return command("train", "--resume", self.path)

    @property
    def spec_file(self) -> Path:
        """The resolved spec."""
        return self.path / SPEC

    @property
    def first_spec_file(self) -> Path:
        """The spec that was made from the images, where none was given."""
        return self.path / FIRST_SPEC

    @property
    def history_file(self) -> Path:
        """One row per epoch."""
        return self.path / HISTORY

    @property
    def checkpoint_file(self) -> Path:
        """The checkpoint of an interrupted training; it is removed when the run is finished."""
        return self.path / CHECKPOINTS / CHECKPOINT

    def stage_weights_file(self, stage: int) -> Path:
        """The weights at the end of a stage, counted from 1."""
        return self.path / CHECKPOINTS / f"stage-{stage}.weights.h5"

    @property
    def tensorboard_folder(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / TENSORBOARD

    @property
    def model_file(self) -> Path:
        """The trained model."""
        return self.path / MODEL

    @property
    def calibration_file(self) -> Path:
        """The record of the calibration."""
        return self.path / CALIBRATION

    @property
    def thresholds_file(self) -> Path:
        """The record of the choice of thresholds."""
        return self.path / THRESHOLDS

    @property
    def sets_file(self) -> Path:
        """The record of the rule of prediction sets."""
        return self.path / SETS

    @property
    def known_file(self) -> Path:
        """The record of the rule that finds unknown images."""
        return self.path / KNOWN

    @property
    def evaluation(self) -> EvaluationFolder:
        """The evaluation of the held-out part."""
        return EvaluationFolder(self.path / EVALUATION)

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / REPORT

    @property
    def card_file(self) -> Path:
        """The model card."""
        return self.path / CARD

    @property
    def exports(self) -> Path:
        """The folder that holds a bundle per target."""
        return self.path / EXPORT

    @property
    def classes_file(self) -> Path:
        """The class names."""
        return self.path / CLASSES

    def added_folder(self, number: int) -> Path:
        """The files as they were before a class was added; number: 1 is the first that was."""
        return self.path / ADDED / str(number)

    def added(self) -> list[Path]:
        """The folders of `added_folder`, in the order in which the classes were added."""
        folders = [path for path in (self.path / ADDED).glob("*") if path.name.isdecimal()]
        return sorted(folders, key=lambda path: int(path.name))

    def required(self, name: str) -> Any:
        """The content of a JSON file that must be there.

        Raises:
            CallError: if the run does not have it yet.
        """
        path = self.path / name
        if not path.is_file():
            raise CallError(self.interrupted or f"the run '{self.path}' has no {name}")
        return read_json(path)

    def spec(self) -> dict[str, Any] | None:
        """The resolved spec, as JSON."""
        return _object(self.spec_file)

    def write_spec(self, resolved: Mapping[str, Any]) -> None:
        """Write the resolved spec, laid out for a reader."""
        from kerasimg.spec.formatting import dumps

        write_text(self.spec_file, dumps(resolved))

    def write_first_spec(self, document: Mapping[str, Any]) -> None:
        """Write the spec that was made from the images, with its comments."""
        from kerasimg.spec.formatting import dumps

        write_text(self.first_spec_file, dumps(document))

    def classes(self) -> list[str] | None:
        """The class names, in the order of the outputs."""
        path = self.path / CLASSES
        content = _content(path)
        if not isinstance(content, list | None):
            raise damaged(path, "a JSON list was expected")
        return content

    def write_classes(self, classes: Sequence[str]) -> None:
        """Write the class names."""
        write_json(self.path / CLASSES, list(classes))

    def data(self) -> DataRecord | None:
        """The split: each image with its part, labels and SHA-256."""
        path = self.path / DATA
        content = _object(path)
        if content is not None and not {"where", "images"} <= content.keys():
            raise damaged(path, "it does not say where the images are")
        return content  # type: ignore[return-value]  # checked as far as another version may differ

    def write_data(self, record: Mapping[str, Any]) -> None:
        """Write the split, as `kerasimg.data.split.record` returns it."""
        write_json(self.path / DATA, record)

    def environment(self) -> dict[str, Any] | None:
        """Versions, backend, machine and command."""
        return _object(self.path / ENVIRONMENT)

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Write versions, backend, machine and command."""
        write_json(self.path / ENVIRONMENT, facts)

    def training(self) -> dict[str, Any] | None:
        """The call, the settings of each stage, and when the training finished (`finished`)."""
        return _object(self.path / TRAINING)

    def write_training(self, notes: Mapping[str, Any]) -> None:
        """Write the call, the settings of each stage, and when the training finished."""
        write_json(self.path / TRAINING, notes)

    def tracking(self) -> dict[str, Any] | None:
        """Tracker -> which of its runs this one is, and the last epoch that it has."""
        return _object(self.path / TRACKING)

    def write_tracking(self, state: Mapping[str, Any]) -> None:
        """Write the state of the trackers."""
        write_json(self.path / TRACKING, state)

    def history(self) -> list[dict[str, float]]:
        """One row per epoch: stage, epoch, seconds, learning_rate, then the metrics. Empty before the first epoch."""
        return read_history(self.history_file)


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history.csv; empty if there is no file.

    Raises:
        CallError: if the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [{from_csv_cell(key or ""): float(value) for key, value in row.items() if value} for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, csv.Error) as error:
        raise damaged(path, error) from None


def scores_as_json(scores: Mapping[str, Any]) -> str:
    """Scores as JSON for a reader: indented by 2, a row of the confusion matrix on one line."""
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    # A string of JSON holds no line break, so this meets rows of counts only.
    return re.sub(r"\[\n[\d,\s]+\]", lambda row: re.sub(r"\n\s*", " ", row[0]), text) + "\n"


def _content(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _object(path: Path) -> dict[str, Any] | None:
    content = _content(path)
    if not isinstance(content, dict | None):
        raise damaged(path, "a JSON object was expected")
    return content


def kind_of(folder: Path) -> tuple[str, str] | None:
    """What a folder is ("a run", "a search" or "an auto"), and the command that continues it; None for any other."""
    marks = ((AUTO, "an auto", "auto"), (SEARCH, "a search", "tune"), (TRAINING, "a run", "train"))
    found = ((of, command(verb, "--resume", folder)) for name, of, verb in marks if (folder / name).is_file())
    return next(found, None)


def not_a_folder_of(expected: str, folder: Path, mark: str) -> CallError:
    """The error for a folder that is of another kind than a command expects.  mark: the file that is missing."""
    why = f"it holds no {mark}" if folder.exists() else f"it does not exist{nearest_path(str(folder))}"
    if (found := kind_of(folder)) is not None and found[0] != expected:
        why = f"it is {found[0]}; to continue it: {found[1]}"
    return CallError(f"'{folder}' is not the folder of {expected}: {why}")


def check_classifier(ref: str | os.PathLike[str]) -> None:
    """Raises a CallError, with what may be meant, if a name is no file, no folder and no spec of the zoo."""
    from kerasimg.catalog import in_zoo, nearest_spec  # `kerasimg --help` does without the spec language

    text = os.fspath(ref)
    if os.path.isfile(text) and (mimetypes.guess_type(text)[0] or "").startswith("image/"):
        raise CallError(f"{shown(text)} is an image; the run comes first: RUN IMAGE")
    if os.path.exists(text) or in_zoo(text) is not None:
        return
    runs = [path.parent.as_posix() for path in sorted(Path("runs").glob(f"*/{MODEL}"))]
    hint = nearest(f"runs/{Path(text).name}", runs) or nearest_path(text) or nearest_spec(text)
    there = f"; runs here: {listed(runs, 8)}" if runs and not hint else ""
    raise CallError(f"no run, no model file and no spec {shown(text)}{hint}{there}")
