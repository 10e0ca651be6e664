"""ONNX: one .onnx file, written by tf2onnx, checked by ONNX's own checker."""

from __future__ import annotations

import json
from pathlib import Path

import keras

from kerasimg.deploy.exporting import Exporting
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.silence import silence
from kerasimg.errors import CallError

FILE = "model.onnx"
OPSET = 18
"""Of the operators: what ONNX Runtime 1.14 (2023) and later, and its version for browsers, know."""


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model.onnx`, float32, with the names of the classes in its metadata."""
    write_onnx(exporting, folder / FILE)
    return [ModelFile(path=FILE, runtime="onnx", precision="float32", input_dtype="float32", batch=exporting.batch)]


def write_onnx(exporting: Exporting, path: Path) -> None:
    """The model as an .onnx file."""
    if keras.backend.backend() != "tensorflow":
        raise CallError(f"ONNX is written through TensorFlow, and Keras runs on {keras.backend.backend()} here")
    with silence():
        import onnx

        exporting.model.export(
            path,
            format="onnx",
            input_signature=exporting.signature(exporting.batch),
            opset_version=OPSET,
            verbose=False,
        )
        model = onnx.load(path)
        about = {"name": exporting.name, "task": exporting.task, "classes": json.dumps(exporting.classes)}
        onnx.helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
