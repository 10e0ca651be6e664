"""TensorFlow's SavedModel, as TensorFlow Serving takes it: the endpoint `serving_default`, float32 pixels of 0-255."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import keras

from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.unsupported import named, signature_of
from kerasimg.errors import CallError

FOLDER = "saved_model"


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """The folder `saved_model`."""
    if keras.backend.backend() != "tensorflow":
        raise CallError(f"a SavedModel is written by TensorFlow, and Keras runs on {keras.backend.backend()} here")
    with named("savedmodel", exporting.model, _try), silence(lambda error: True):
        exporting.model.export(
            folder / FOLDER,
            format="tf_saved_model",
            input_signature=exporting.signature(exporting.batch),
            verbose=False,
        )
    return [
        ModelFile(path=FOLDER, runtime="tensorflow", precision="float32", input_dtype="float32", batch=exporting.batch)
    ]


def _try(model: keras.Model) -> None:
    with TemporaryDirectory() as scratch:
        model.export(scratch, format="tf_saved_model", input_signature=signature_of(model), verbose=False)
