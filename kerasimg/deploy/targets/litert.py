"""LiteRT: one .tflite file for each precision, with the names of the classes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import OUTPUTS, InputType, ModelFile, Precision
from kerasimg.deploy.quantization import quantize
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import KerasimgError, needs
from kerasimg.files import to_json

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Options

ZERO_POINT: dict[InputType, int] = {"uint8": 0, "int8": -128}
"""Integer input type -> the value of a black pixel; the step is 1."""


class LiteRTRuntime(Runtime):
    """A .tflite file in LiteRT; an interpreter answers one call at a time."""

    kind, package, parallel = "litert", "ai-edge-litert", False

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        with needs("litert", "ai_edge_litert"):
            from ai_edge_litert.interpreter import Interpreter
        self.name = f"ai-edge-litert {version('ai-edge-litert')}"
        # LiteRT logs from C++ which delegate it made.
        with readable(path), silence(lambda error: True):
            self._interpreter = Interpreter(str(path), num_threads=threads or cores())
            (self._input,) = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
            self._resize(model.batch or 1)

    def _resize(self, size: int) -> None:
        self._interpreter.resize_tensor_input(self._input["index"], [size, *self._input["shape"][1:]])
        self._interpreter.allocate_tensors()
        self._size = size

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`; another number of images than in the last call costs a tenth of a millisecond more."""
        if len(pixels) != self._size:
            self._resize(len(pixels))
        self._interpreter.set_tensor(self._input["index"], pixels)
        self._interpreter.invoke()
        return [self._read(each) for each in self._outputs]

    def _read(self, output: Mapping[str, Any]) -> np.ndarray:
        values: np.ndarray = self._interpreter.get_tensor(output["index"])
        if values.dtype == np.float32:
            return values
        scale, zero = output["quantization"]
        return np.asarray((values.astype(np.float32) - zero) * np.float32(scale))


INTEGERS: tuple[Precision, ...] = ("int8", "int16")
"""Precisions whose values are integers, which cannot hold the logarithms behind a temperature or a flip."""


class LiteRT(Target):
    """TensorFlow Lite, now LiteRT: flatbuffers for phones, boards, servers."""

    name, about = "litert", "a .tflite file, for LiteRT on servers, phones and boards"
    runtime: ClassVar[type[Runtime]] = LiteRTRuntime
    file = "model_{precision}.tflite"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16", "int16", "dynamic", "int8")
    p_values: ClassVar[tuple[Precision, ...]] = ("float32", "float16", "dynamic")
    packages: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    extra = "litert"
    snippets: ClassVar = {
        "Python": "litert.py.j2",
        "C++": "litert.cpp.j2",
        "Kotlin": "litert.kt.j2",
        "Swift": "litert.swift.j2",
        "JavaScript": "litert.js.j2",
    }
    files: ClassVar = {"preprocess.py": "preprocess.py.j2"}

    def convert(
        self,
        model: keras.Model,
        signature: Sequence[Any],
        path: Path,
        precision: Precision,
        options: Options,
        images: Images,
    ) -> None:
        """As `Target.convert`; an int8 model has float32 outputs and inputs of type `options.input_dtype`."""
        from kerasimg.deploy import litert_file

        with TemporaryDirectory() as scratch, ExitStack() as stack:
            if precision == "int8":
                from kerasimg.keras_internals import int8_quantizer, separate_int8_ranges

                samples = list(images())
                stack.enter_context(separate_int8_ranges())
                stack.enter_context(int8_quantizer(partial(quantize, samples=samples, fallback=options.fallback)))
                images = partial(iter, samples[:1])  # the converter's own ranges are replaced
            file = Path(scratch) / "model.tflite"
            model.export(
                file,
                format="litert",
                input_signature=signature,
                verbose=False,
                **converter_settings(precision, options, images),
            )
            content = file.read_bytes()
        if isinstance(model.output, dict):
            content = litert_file.order_outputs(content, [name for name in OUTPUTS if name in model.output])
        if not options.allow_flex:
            _open(content)
        path.write_bytes(content)

    def model_of(self, exporting: Exporting, precision: Precision) -> keras.Model:
        """As `Target.model_of`; a model of integers outputs logits, and a float32 activation is added later."""
        return exporting.logits[0] if precision in INTEGERS else super().model_of(exporting, precision)

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`."""
        from kerasimg.deploy import litert_file

        path = self.path_of(precision)
        content = self.content(exporting, precision)
        (folder / path).write_bytes(litert_file.append_members(content, _members(exporting)))
        return self.describe(path, precision, exporting)

    def content(self, exporting: Exporting, precision: Precision) -> bytes:
        """Returns a .tflite file from pixels to probabilities."""
        from kerasimg.deploy import litert_file

        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.tflite"
            self.convert_exporting(exporting, path, precision)
            content = path.read_bytes()
        if precision not in INTEGERS:
            return content
        if precision == "int8":
            _check_input(litert_file.quantized_input(content), exporting.options.input_dtype)
        return litert_file.add_activation(content, exporting.logits[1])

    def describe(self, path: str, precision: Precision, exporting: Exporting) -> ModelFile:
        """As `Target.describe`."""
        dtype: InputType = exporting.options.input_dtype if precision == "int8" else "float32"
        return super().describe(path, precision, exporting).model_copy(update={"input_dtype": dtype})

    def advice(self, options: Options) -> str:
        """As `Target.advice`."""
        if options.allow_flex or self.name != LiteRT.name:
            return "use another target"
        return "allow TensorFlow operations (--allow-flex), which need the Flex delegate, or use another target"


def converter_settings(precision: Precision, options: Options, images: Images) -> dict[str, Any]:
    """Returns the settings of TensorFlow's converter for a precision."""
    import tensorflow as tf

    lite = tf.lite
    by_precision: dict[Precision, dict[str, Any]] = {
        "float32": {},
        "float16": {"optimizations": [lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}},
        "int16": {"optimizations": [lite.Optimize.DEFAULT], "representative_dataset": images},
        "dynamic": {"optimizations": [lite.Optimize.DEFAULT]},
        "int8": {
            "optimizations": [lite.Optimize.DEFAULT],
            "representative_dataset": images,
            "inference_input_type": {"uint8": tf.uint8, "int8": tf.int8, "float32": tf.float32}[options.input_dtype],
        },
    }
    settings = by_precision[precision]
    ops = [lite.OpsSet.TFLITE_BUILTINS]
    if precision == "int8":
        ops.append(lite.OpsSet.TFLITE_BUILTINS_INT8)
    elif precision == "int16":
        ops.insert(0, lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8)
    if options.allow_flex:
        ops.append(lite.OpsSet.SELECT_TF_OPS)
    settings["target_spec"] = {**settings.get("target_spec", {}), "supported_ops": ops}
    return settings


def _open(content: bytes) -> None:
    """Checks that LiteRT can prepare a model; raises RuntimeError otherwise."""
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(model_content=content).allocate_tensors()


def _check_input(quantization: tuple[float, int] | None, dtype: InputType) -> None:
    """Raises a KerasimgError unless the model takes raw pixels."""
    expected = (1.0, ZERO_POINT[dtype])
    if quantization is None or not np.isclose(quantization[0], 1.0, rtol=1e-6) or quantization[1] != expected[1]:
        raise KerasimgError(
            f"int8: expected an input of scale and zero point {expected}, the converter wrote {quantization}"
        )


def _members(exporting: Exporting) -> dict[str, str]:
    """Returns the metadata files to append to the model."""
    labels = "".join(name.replace("\n", " ") + "\n" for name in exporting.classes)
    about = {
        "name": exporting.name,
        "task": exporting.task,
        "image": exporting.image.model_dump(mode="json"),
        "thresholds": exporting.classifier.thresholds,
        "sets": _dumped(exporting.classifier.sets),
        "known": _dumped(exporting.known),
    }
    return {"labels.txt": labels, "kerasimg.json": to_json(about)}


def _dumped(rule: BaseModel | None) -> Any:
    return None if rule is None else rule.model_dump(mode="json")
