"""LiteRT: one .tflite file for each precision, with the names of the classes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from kerasimg.deploy import litert_file
from kerasimg.deploy.export_context import Exporting, Options
from kerasimg.deploy.manifest import InputType, ModelFile, Precision
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.unsupported import named, signature_of
from kerasimg.errors import CallError, KerasimgError
from kerasimg.files import to_json

ZERO_POINT: dict[InputType, int] = {"uint8": 0, "int8": -128}
"""Input of integers -> the one that stands for a pixel of 0, the step being 1."""


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model_<precision>.tflite` for each that is asked for; CallError for what cannot be written."""
    return [write_one(exporting, folder, precision) for precision in exporting.options.precisions]


def write_one(exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
    """One of them."""
    content = convert(exporting, precision, exporting.batch)
    if precision == "int8":
        _, activation = exporting.logits
        content = litert_file.with_activation(content, activation)
    path = f"model_{precision}.tflite"
    (folder / path).write_bytes(litert_file.with_members(content, _members(exporting)))
    taken: InputType = exporting.options.input_dtype if precision == "int8" else "float32"
    return ModelFile(path=path, runtime="litert", precision=precision, input_dtype=taken, batch=exporting.batch)


def convert(exporting: Exporting, precision: Precision, batch: int | None) -> bytes:
    """The model as a .tflite file's content; of int8 up to its logits, which are float32."""
    if keras.backend.backend() != "tensorflow":
        raise CallError(f"LiteRT is written by TensorFlow, and Keras runs on {keras.backend.backend()} here")
    settings = settings_of(precision, lambda: exporting.representative(batch), exporting.options)
    model = exporting.logits[0] if precision == "int8" else exporting.model
    advice = "take another target"
    if not exporting.options.allow_flex:
        advice = (
            "allow TensorFlow's own (--allow-flex), which only runs where the Flex delegate is, or take another target"
        )
    with named("litert", model, lambda part: _try(part, precision, settings, exporting.options.allow_flex), advice):
        content = written(model, exporting.signature(batch), settings)
        if not exporting.options.allow_flex:
            open_content(content)
    if precision == "int8":
        _check_input(content, exporting.options.input_dtype)
    return content


def settings_of(
    precision: Precision, images: Callable[[], Iterator[np.ndarray]], options: Options | None = None
) -> dict[str, Any]:
    """The settings of TensorFlow's converter for a precision.

    images: what the ranges of int8 are taken from.  options: None: a model whose input and output are float32.
    """
    import tensorflow as tf

    lite = tf.lite
    by_precision: dict[Precision, dict[str, Any]] = {
        "float32": {},
        "float16": {"optimizations": [lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}},
        "dynamic": {"optimizations": [lite.Optimize.DEFAULT]},
        "int8": {
            "optimizations": [lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([batch] for batch in images()),
        },
    }
    settings = by_precision[precision]
    if precision == "int8" and options is not None:
        settings["inference_input_type"] = tf.uint8 if options.input_dtype == "uint8" else tf.int8
    ops = [lite.OpsSet.TFLITE_BUILTINS] + [lite.OpsSet.TFLITE_BUILTINS_INT8] * (precision == "int8")
    if options is not None and options.allow_flex:
        ops.append(lite.OpsSet.SELECT_TF_OPS)
    settings["target_spec"] = {**settings.get("target_spec", {}), "supported_ops": ops}
    return settings


def written(model: keras.Model, signature: list[Any], settings: dict[str, Any]) -> bytes:
    """Any Keras model as a .tflite file's content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        with silence(lambda error: True):
            model.export(path, format="litert", input_signature=signature, verbose=False, **settings)
        return path.read_bytes()


def open_content(content: bytes) -> None:
    """Let LiteRT prepare a model, with the delegate that it takes by itself; RuntimeError where it cannot."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # the target "web" does without it
        from tensorflow.lite import Interpreter
    with silence(lambda error: True):
        Interpreter(model_content=content).allocate_tensors()


def _try(model: keras.Model, precision: Precision, settings: dict[str, Any], flex: bool) -> None:
    """Convert a model of one layer, on random values where its ranges are needed."""
    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]
    settings = dict(settings)
    if precision == "int8":
        drawn = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in shapes]
        settings["representative_dataset"] = lambda: iter([drawn])
        del settings["inference_input_type"]
    content = written(model, signature_of(model), settings)
    if not flex:
        open_content(content)


def _check_input(content: bytes, taken: InputType) -> None:
    """That the model takes pixels as they are."""
    found = litert_file.quantized_input(content)
    wanted = (1.0, ZERO_POINT[taken])
    if found is None or not np.isclose(found[0], 1.0, rtol=1e-6) or found[1] != wanted[1]:
        raise KerasimgError(f"int8: expected an input of scale and zero point {wanted}, the converter made {found}")


def _members(exporting: Exporting) -> dict[str, str]:
    """What travels in the file."""
    labels = "".join(name.replace("\n", " ") + "\n" for name in exporting.classes)
    about = {
        "name": exporting.name,
        "task": exporting.task,
        "image": exporting.image.model_dump(mode="json"),
        "thresholds": exporting.classifier.thresholds,
    }
    return {"labels.txt": labels, "kerasimg.json": to_json(about)}
