"""Keras: the run's model as a .keras file for any backend, with the temperature in a separate file as in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Target
from kerasimg.errors import CallError
from kerasimg.run_folder import MODEL

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Options


class KerasRuntime(Runtime):
    """A model.keras file, opened by kerasimg; the number of threads is the backend's own."""

    kind = "keras"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        import keras

        from kerasimg.models.classifier import Classifier

        self.name = f"keras {keras.__version__} ({keras.backend.backend()})"
        with readable(path):
            self._classifier = Classifier.open(path)

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`."""
        answer = self._classifier.answer(pixels)
        return [answer.probabilities, *([] if answer.p_values is None else [answer.p_values[:, np.newaxis]])]


class Keras(Target):
    """The model as Keras saves it."""

    name, about = "keras", "model.keras unchanged, for Keras on any backend"
    runtime, file, p_values = KerasRuntime, MODEL, ("float32",)
    measured, needs_tensorflow = False, False
    snippets: ClassVar = {"Python": "keras.py.j2"}
    files: ClassVar = {"preprocess.py": "preprocess.py.j2"}

    def fit(self, options: Options) -> Options:
        """As `Target.fit`; there is no fixed batch."""
        if options.batch is not None:
            raise CallError("keras: model.keras takes any batch size; remove --batch")
        return super().fit(options)

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`: float32, without an optimizer."""
        from kerasimg.deploy.logits import in_float32

        replace(exporting.classifier, model=in_float32(exporting.classifier.model)).save(folder / MODEL)
        return self.describe(MODEL, precision, exporting)
