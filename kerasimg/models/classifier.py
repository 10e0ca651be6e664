"""A trained model with all that its numbers mean: the spec, and the classes in the order of the outputs.

On disk it is one `.keras` file that Keras loads by itself; what Keras does not know of stands in it as one more
member, `kerasimg.json`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

import kerasimg.layers  # noqa: F401 - Keras finds the classes of a saved model among those that were imported
from kerasimg.catalog import find, load_to_build
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.files import replacing, to_json
from kerasimg.models.backbones import specs_beside, write_beside
from kerasimg.models.build import construct
from kerasimg.models.forward import answers
from kerasimg.models.outputs import as_probabilities, output_kind
from kerasimg.models.temperature import at_temperature
from kerasimg.run_folder import MODEL, RunFolder, RunReference, folder_of
from kerasimg.spec.load import Spec, load_document
from kerasimg.spec.pack import is_pack

MEMBER = "kerasimg.json"

ClassifierReference = RunReference
"""A run, a run's folder, a model.keras or .kerasimg file, a spec that brings its weights ("efficientnet_lite0"), or a
Classifier."""


@dataclass(frozen=True)
class Classifier:
    """A model that can be asked."""

    model: keras.Model
    spec: Spec
    classes: tuple[str, ...]
    """Names, in the order of the outputs; where the task is binary, the second is the one of the output."""
    folder: Path | None = None
    """The run's folder, if it has one."""
    temperature: float = 1.0
    """That the probabilities are told at (`kerasimg.calibrate`); 1 is as the model was trained."""
    thresholds: tuple[float, ...] | None = None
    """What a probability must exceed to be decided for (`kerasimg.choose_thresholds`): of the second class where the
    task is binary, of each label where it is multilabel. None: 0.5."""

    def save(self, path: Path) -> None:
        """Write the `.keras` file, without optimizer, so that it opens wherever Keras is."""
        plain = keras.Model(self.model.input, self.model.output, name=self.model.name)
        content = {
            "kerasimg": 1,
            "classes": list(self.classes),
            "spec": dict(self.spec.resolved),
            "beside": specs_beside(self.spec),
            "temperature": self.temperature,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
        }
        with replacing(path) as partial:
            plain.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(MEMBER, to_json(content))

    @staticmethod
    def open(ref: ClassifierReference) -> Classifier:
        """The classifier that a run, a folder or a file holds; CallError when there is none."""
        if isinstance(ref, Classifier):
            return ref
        path = folder_of(ref)
        if not path.exists() or path.suffix == ".json":
            return _pretrained(str(ref))
        if is_pack(str(path)):
            from kerasimg.models.packed import read  # which makes classifiers, too

            return read(path)
        file = model_file(path)
        content = _member(file)
        classes, document, beside = content["classes"], content["spec"], content["beside"]
        thresholds = content.get("thresholds")
        with TemporaryDirectory() as folder:
            write_beside(beside, Path(folder))
            spec = load_document(document, find, Path(folder))
        model = keras.models.load_model(file, compile=False)
        return Classifier(
            model,
            spec,
            tuple(classes),
            path if path.is_dir() else None,
            content.get("temperature", 1.0),
            None if thresholds is None else tuple(thresholds),
        )

    def probabilities(self, pictures: Any) -> np.ndarray:
        """(N, K) float32 for pictures (N, H, W, C), 0-255, or for batches of them as the pipeline gives."""
        kind = output_kind(self.model)
        task = self.spec.task
        return at_temperature(as_probabilities(answers(self.model, pictures), kind, task), self.temperature, task)


def model_file(ref: ClassifierReference) -> Path:
    """The `.keras` file of a run, a run's folder or the file itself; CallError when there is none."""
    path = folder_of(ref)
    file = RunFolder(path).model_file if path.is_dir() else path
    if not file.is_file():
        raise CallError(f"no trained model '{file}'; name a run's folder or a {MODEL} file")
    return file


def set_decisions(file: Path, temperature: float, thresholds: tuple[float, ...] | None) -> None:
    """Write a temperature and thresholds into a `.keras` file; the model in it stays as it was trained."""
    content = _member(file) | {
        "temperature": temperature,
        "thresholds": None if thresholds is None else list(thresholds),
    }
    with replacing(file) as partial, zipfile.ZipFile(file) as old, zipfile.ZipFile(partial, "w") as new:
        for member in old.infolist():
            if member.filename != MEMBER:
                with old.open(member) as source, new.open(member, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        new.writestr(MEMBER, to_json(content))


def _member(file: Path) -> dict[str, Any]:
    """What Keras does not know of a model."""
    try:
        with zipfile.ZipFile(file) as archive:
            content = dict(json.loads(archive.read(MEMBER)))
        _ = content["classes"], content["spec"], content["beside"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise CallError(f"'{file}' was not written by kerasimg: it says nothing of classes or pictures") from None
    return content


def _pretrained(ref: str) -> Classifier:
    """The classifier that a spec is by itself, with the weights and class names that it brings."""
    try:
        spec = load_to_build(ref)
    except CallError as error:
        raise CallError(f"no run, no model file and no spec '{ref}': {error}") from None
    own = spec.pretrained.imagenet
    if own is None or own.classes is None:
        raise CallError(f"'{spec.file}' has not been trained: it brings no weights with class names; train it first")
    names = json.loads((spec.folder / own.classes).read_text(encoding="utf-8"))
    model = construct(spec, weights="imagenet").model
    return Classifier(model, spec, tuple(names))


def check_outputs(model: keras.Model, spec: Spec, classes: tuple[str, ...]) -> None:
    """SpecError when the model's output cannot stand for these classes."""
    wanted = 1 if spec.task == "binary" else len(classes)
    found = tuple(model.output_shape[1:])
    if found != (wanted,):
        what = "1, the probability of the second class" if spec.task == "binary" else f"{wanted}, one for each class"
        shape = "x".join(map(str, found)) or "a scalar"
        message = f"the task '{spec.task}' and the data want an output of {what}; the last node gives {shape}"
        raise SpecError([Fault(spec.file, "model", message)])
