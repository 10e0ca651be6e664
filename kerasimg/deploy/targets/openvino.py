"""OpenVINO: an .xml file with its weights in a .bin file beside it, read from TensorFlow's SavedModel."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import OUTPUTS, ModelFile, Precision
from kerasimg.deploy.quantization import keep_in_float32
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import CallError, needs

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Fallback, Options


class OpenVINORuntime(Runtime):
    """An .xml file, with its .bin beside it, in OpenVINO, on the CPU."""

    kind, package = "openvino", "openvino"

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        with needs("openvino", "openvino"):
            import openvino
        self.name = f"openvino {version('openvino')}"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 on CPUs that support it, which differs by about 0.01.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or cores(),
        }
        with readable(path):
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._requests = threading.local()

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        outputs = self._requests.own.infer([pixels], share_inputs=True)
        return [np.array(outputs[place]) for place in self._compiled.outputs]


class OpenVINO(Target):
    """OpenVINO, for CPUs of Intel and others."""

    name, about = "openvino", "an .xml and a .bin file, for OpenVINO"
    runtime, file = OpenVINORuntime, "model_{precision}.xml"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16", "int8", "int4")
    p_values: ClassVar[tuple[Precision, ...]] = ("float32", "float16")
    packages, extra = ("openvino",), "openvino"
    snippets: ClassVar = {"Python": "openvino.py.j2", "C++": "openvino.cpp.j2"}
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
        """As `Target.convert`; float16 applies to the weights; NNCF quantizes to int8. OpenVINO compiles the model."""
        import openvino

        from kerasimg.keras_internals import exportable_operations

        with TemporaryDirectory() as scratch:
            with exportable_operations():
                model.export(scratch, format="tf_saved_model", input_signature=signature, verbose=False)
            # `openvino.convert_model` reads the same, but first reports to its makers over the network, for seconds.
            converted = openvino.Core().read_model(scratch)
            sizes = [[options.batch or -1, *tensor.shape[1:]] for tensor in model.inputs]
            if len(sizes) == 1:
                converted.reshape(sizes[0])
            if isinstance(model.output, dict):
                results = [converted.output(name).get_node() for name in OUTPUTS if name in model.output]
                converted = openvino.Model(results, converted.get_parameters(), converted.get_friendly_name())
            if precision == "int8":
                converted = _quantize(converted, list(images()), options.fallback)
            elif precision == "int4":
                converted = _with_int4_weights(converted, options.fallback)
            openvino.Core().compile_model(converted, "CPU")
            openvino.save_model(converted, path, compress_to_fp16=precision == "float16")

    def fit(self, options: Options) -> Options:
        """As `Target.fit`; int8 and int4 need NNCF."""
        if {"int8", "int4"} & set(options.precisions) and find_spec("nncf") is None:
            raise CallError(f'{self.name}: int8 and int4 need nncf: pip install "kerasimg[{self.extra}]"')
        return super().fit(options)


def _quantize(model: Any, samples: Sequence[Sequence[np.ndarray]], fallback: Fallback | None) -> Any:
    """Quantizes by NNCF; operations that change too many decisions stay in float32."""
    nncf = _nncf()
    from openvino._offline_transformations import compress_quantize_weights_transformation

    quantized = nncf.quantize(
        model,
        nncf.Dataset([sample if len(sample) > 1 else sample[0] for sample in samples]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # By default the ranges are the means over the images, which clips.
            activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
            backend_params={"compress_weights": False},
            # Weights of 7 bits in all layers, not only in the first: see the quantizer of `onnx`.
            overflow_fix=nncf.quantization.advanced_parameters.OverflowFix.ENABLE,
        ),
    )

    def make(kept: Sequence[str]) -> Any:
        """Removes the quantization of the inputs and weights of some operations."""
        made = quantized.clone()
        for operation in made.get_ordered_ops():
            if operation.get_friendly_name() in kept:
                for entry in operation.inputs():
                    source = entry.get_source_output().get_node()
                    if source.get_type_name() == FAKE:
                        entry.replace_source_output(source.input(0).get_source_output())
        return made

    if fallback is not None:
        operations = [each.get_friendly_name() for each in quantized.get_ordered_ops() if _reads_quantized(each)]
        strict = replace(fallback, agree=max(fallback.agree, AGREE))
        if operations:
            quantized = keep_in_float32(make, _run, operations, model, strict, threshold=0.5, small=0)
    compress_quantize_weights_transformation(quantized)
    return quantized


def _with_int4_weights(model: Any, fallback: Fallback | None) -> Any:
    """Compresses weights by NNCF: dense layers to int4, convolutions to int8, one scale per output channel.

    Operations that change too many decisions keep their weights in float32.
    """
    nncf = _nncf()
    operations = [
        each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() in WITH_COMPRESSED_WEIGHTS
    ]

    def make(kept: Sequence[str] = ()) -> Any:
        if set(operations) <= set(kept):
            return model
        return nncf.compress_weights(
            model.clone(),
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=-1,
            all_layers=True,
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False) if kept else None,
        )

    if fallback is None or not operations:
        return make()
    return keep_in_float32(make, _run, operations, model, fallback, threshold=0.5)


def _nncf() -> Any:
    # NNCF reports to its makers over the network unless this variable is set.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level also changes handlers, which others share
    return nncf


def _run(model: Any, batches: Sequence[np.ndarray]) -> np.ndarray:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(pixels)[0] for pixels in batches])


WITH_COMPRESSED_WEIGHTS = ("MatMul", "Convolution", "GroupConvolution")
AGREE = 0.995
"""Share of images that an int8 model must decide as in float32. NNCF's differs more on other images than on these: with
the share of the other targets, a hard case lost 0.7 points of accuracy."""
FAKE = "FakeQuantize"
"""OpenVINO's operation that rounds values to the steps of int8."""


def _reads_quantized(operation: Any) -> bool:
    sources = [entry.get_source_output().get_node().get_type_name() for entry in operation.inputs()]
    return FAKE in sources and operation.get_type_name() != FAKE
