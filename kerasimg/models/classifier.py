"""A trained model with all that its numbers mean: the spec, and the classes in the order of the outputs.

On disk it is one `.keras` file that Keras loads by itself; what Keras does not know of stands in it as one more
member, `kerasimg.json`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasimg.catalog import load
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.models.outputs import as_probabilities, output_kind
from kerasimg.spec.load import Spec

MEMBER = "kerasimg.json"
MODEL_FILE = "model.keras"

ClassifierReference = Any
"""A run, a run's folder, a model.keras file, or a Classifier."""


@dataclass(frozen=True)
class Classifier:
    """A model that can be asked."""

    model: keras.Model
    spec: Spec
    classes: tuple[str, ...]
    """Names, in the order of the outputs; where the task is binary, the second is the one of the output."""
    folder: Path | None = None
    """The run's folder, if it has one."""

    def save(self, path: Path) -> None:
        """Write the `.keras` file, without optimizer, so that it opens wherever Keras is."""
        plain = keras.Model(self.model.inputs, self.model.outputs, name=self.model.name)
        content = {"kerasimg": 1, "classes": list(self.classes), "spec": dict(self.spec.resolved)}
        partial = path.with_name(f".{path.name}")
        plain.save(partial.with_suffix(".keras"))
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(MEMBER, json.dumps(content, ensure_ascii=False, indent=2))
        partial.replace(path)

    @staticmethod
    def open(ref: ClassifierReference) -> Classifier:
        """The classifier that a run, a folder or a file holds; CallError when there is none."""
        if isinstance(ref, Classifier):
            return ref
        path = Path(getattr(ref, "folder", ref))
        file = path / MODEL_FILE if path.is_dir() else path
        if not file.is_file():
            raise CallError(f"no trained model '{file}'; name a run's folder or a {MODEL_FILE} file")
        try:
            with zipfile.ZipFile(file) as archive:
                content = json.loads(archive.read(MEMBER))
        except (zipfile.BadZipFile, KeyError):
            raise CallError(f"'{file}' was not written by kerasimg: it says nothing of classes or pictures") from None
        spec = load(content["spec"])
        model = keras.models.load_model(file, compile=False)
        return Classifier(model, spec, tuple(content["classes"]), path if path.is_dir() else None)

    def probabilities(self, batches: Iterable[Any]) -> np.ndarray:
        """(N, K) float32 for batches of pictures (N, H, W, C), 0-255, or of (pictures, ...) as the pipeline gives."""
        kind = output_kind(self.model)
        outputs = self.model.predict(batches, verbose=0)
        return as_probabilities(np.asarray(outputs), kind, self.spec.task)


def check_outputs(model: keras.Model, spec: Spec, classes: tuple[str, ...]) -> None:
    """SpecError when the model's output cannot stand for these classes."""
    wanted = 1 if spec.task == "binary" else len(classes)
    found = tuple(model.output_shape[1:])
    if found != (wanted,):
        what = "1, the probability of the second class" if spec.task == "binary" else f"{wanted}, one for each class"
        shape = "x".join(map(str, found)) or "a scalar"
        message = f"the task '{spec.task}' and the data want an output of {what}; the last node gives {shape}"
        raise SpecError([Fault(spec.file, "model", message)])
