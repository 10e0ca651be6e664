"""OpenVINO: an .xml file with its weights in a .bin file beside it, converted from the TensorFlow model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.unsupported import named, signature_of
from kerasimg.errors import CallError
from kerasimg.keras_internals import exportable_operations


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model_<precision>.xml` and `.bin` for each that is asked for: float32, or float16 weights."""
    if keras.backend.backend() != "tensorflow":
        raise CallError(
            f"OpenVINO's files are written from TensorFlow, and Keras runs on {keras.backend.backend()} here"
        )
    import openvino

    with TemporaryDirectory() as scratch:
        with named("openvino", exporting.model, _try), silence(lambda error: True):
            model = convert(exporting.model, exporting.signature(exporting.batch), scratch)
            model.reshape([exporting.batch or -1, *exporting.shape])
        made = []
        for precision in exporting.options.precisions:
            path = f"model_{precision}.xml"
            openvino.save_model(model, folder / path, compress_to_fp16=precision == "float16")
            made.append(_file(path, precision, exporting.batch))
    return made


def convert(model: keras.Model, signature: Sequence[Any], scratch: str) -> Any:
    """Any Keras model as OpenVINO's; `scratch` is an empty folder that must outlive it. Its CPU plugin accepts it."""
    import openvino

    with exportable_operations():
        model.export(scratch, format="tf_saved_model", input_signature=signature, verbose=False)
    converted = openvino.convert_model(scratch)
    openvino.Core().compile_model(converted, "CPU")
    return converted


def _try(model: keras.Model) -> None:
    with TemporaryDirectory() as scratch:
        convert(model, signature_of(model), scratch)


def _file(path: str, precision: Precision, batch: int | None) -> ModelFile:
    return ModelFile(path=path, runtime="openvino", precision=precision, input_dtype="float32", batch=batch)
