"""OpenVINO: an .xml file with its weights in a .bin file beside it, converted from the TensorFlow model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import keras

from kerasimg.deploy.exporting import Exporting
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.silence import silence
from kerasimg.errors import CallError


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model_<precision>.xml` and `.bin` for each that is asked for: float32, or float16 weights."""
    if keras.backend.backend() != "tensorflow":
        raise CallError(
            f"OpenVINO's files are written from TensorFlow, and Keras runs on {keras.backend.backend()} here"
        )
    with silence(), TemporaryDirectory() as scratch:
        import openvino

        exporting.model.export(
            scratch, format="tf_saved_model", input_signature=exporting.signature(exporting.batch), verbose=False
        )
        model = openvino.convert_model(scratch)
        model.reshape([exporting.batch or -1, *exporting.shape])
        made = []
        for precision in exporting.options.precisions:
            path = f"model_{precision}.xml"
            openvino.save_model(model, folder / path, compress_to_fp16=precision == "float16")
            made.append(_file(path, precision, exporting.batch))
    return made


def _file(path: str, precision: Precision, batch: int | None) -> ModelFile:
    return ModelFile(path=path, runtime="openvino", precision=precision, input_dtype="float32", batch=batch)
