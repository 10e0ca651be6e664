"""ONNX: one .onnx file, written by tf2onnx, checked by ONNX's own checker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.unsupported import named, signature_of
from kerasimg.errors import CallError
from kerasimg.keras_internals import exportable_operations

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
    import onnx

    with named("onnx", exporting.model, _try), silence(lambda error: True):
        convert(exporting.model, exporting.signature(exporting.batch), path)
    model = onnx.load(path)
    about = {"name": exporting.name, "task": exporting.task, "classes": json.dumps(exporting.classes)}
    onnx.helper.set_model_props(model, about)
    onnx.save(model, path)


def convert(model: keras.Model, signature: Sequence[Any], path: Path) -> None:
    """Write any Keras model as an .onnx file that ONNX's checker and ONNX Runtime accept."""
    import onnx
    import onnxruntime

    with exportable_operations():
        model.export(path, format="onnx", input_signature=signature, opset_version=OPSET, verbose=False)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _try(model: keras.Model) -> None:
    with TemporaryDirectory() as scratch:
        convert(model, signature_of(model), Path(scratch) / FILE)
