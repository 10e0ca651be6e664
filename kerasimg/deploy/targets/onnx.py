"""ONNX: one .onnx file for each precision, written by tf2onnx, checked by ONNX's own checker."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import OUTPUTS, ModelFile, Precision
from kerasimg.deploy.quantization import keep_in_float32
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.runtimes import NotHere, Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.errors import needs

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Fallback, Options

OPSET = 18
"""Operator set; supported by ONNX Runtime 1.14 (2023) and later, and by its version for browsers."""


GPU_PROVIDERS = (
    *("CUDAExecutionProvider", "MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    *("DmlExecutionProvider", "CoreMLExecutionProvider", "WebGpuExecutionProvider"),
)
"""Execution providers of ONNX Runtime that compute on a GPU, in the order of preference."""


class OnnxRuntime(Runtime):
    """A .onnx file in ONNX Runtime, on the CPU or on a GPU."""

    kind, package = "onnx", "onnxruntime"
    devices = ("cpu", "gpu")

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None, device: str = "cpu") -> None:
        super().__init__(path, model, threads)
        with needs("onnx", "onnxruntime"):
            import onnxruntime
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3
        # By default the threads wait in a loop for more work, and take the CPUs from whoever decodes images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        if device == "gpu":
            providers = [name for name in GPU_PROVIDERS if name in onnxruntime.get_available_providers()] + providers
            if len(providers) == 1:
                raise NotHere(_no_gpu(self.name, onnxruntime.get_available_providers()))
        with readable(path):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            (self._input,) = (each.name for each in self._session.get_inputs())
        if device == "gpu" and self._session.get_providers()[0] not in GPU_PROVIDERS:
            # ONNX Runtime falls back to the CPU if a library of the provider is missing, and continues.
            raise NotHere(_no_gpu(self.name, self._session.get_providers()))

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`."""
        return self._session.run(None, {self._input: pixels})


def _no_gpu(name: str, providers: Sequence[str]) -> str:
    return (
        f"device gpu: {name} has no provider for a GPU that starts here ({', '.join(providers)} does); install "
        "onnxruntime-gpu for CUDA, onnxruntime-directml for Windows, or use the device cpu"
    )


class Onnx(Target):
    """ONNX, for ONNX Runtime on any system."""

    name, about = "onnx", "an .onnx file, for ONNX Runtime"
    runtime, file = OnnxRuntime, "model_{precision}.onnx"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16", "int8", "int4")
    p_values: ClassVar[tuple[Precision, ...]] = ("float32", "float16")
    packages, extra = ("onnx", "tf2onnx", "onnxruntime"), "onnx"
    snippets: ClassVar = {"Python": "onnx.py.j2", "C++": "onnx.cpp.j2"}
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
        """As `Target.convert`; float16 and int4 are of the weights. ONNX's checker and ONNX Runtime accept the file."""
        import onnx
        import onnxruntime

        from kerasimg.keras_internals import exportable_operations, number_names_from_the_start

        number_names_from_the_start()
        with exportable_operations():
            model.export(path, format="onnx", input_signature=signature, opset_version=OPSET, verbose=False)
        written = onnx.load(path)
        if isinstance(model.output, dict):
            outputs = sorted(written.graph.output, key=lambda each: OUTPUTS.index(each.name))
            del written.graph.output[:]
            written.graph.output.extend(outputs)
        written.graph.doc_string = ""  # it holds a number that TensorFlow gives to each function
        onnx.save(_with_float16_weights(written) if precision == "float16" else written, path)
        if precision == "int8":
            with silence(lambda error: True):
                onnx.save(_quantize(path, list(images()), options.fallback), path)
        elif precision == "int4":
            onnx.save(_with_int4_weights(written, options.fallback), path)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def path_of(self, precision: Precision) -> str:
        """As `Target.path_of`: `model.onnx` in float32."""
        return "model.onnx" if precision == "float32" else super().path_of(precision)

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`, with the names of the classes in the file's metadata."""
        import onnx

        described = super().write(exporting, folder, precision)
        model = onnx.load(folder / described.path)
        about = {"name": exporting.name, "task": exporting.task, "classes": json.dumps(exporting.classes)}
        onnx.helper.set_model_props(model, about)
        onnx.save(model, folder / described.path)
        return described


LARGEST_FLOAT16 = 65504.0
SMALLEST_ARRAY = 64
"""Arrays with fewer values stay in float32."""
NOT_QUANTIZED = ("Softmax", "Sigmoid", "LogSoftmax")
"""Operations whose outputs stay in float32: a quantized softmax has steps of 1/256."""


def _with_float16_weights(model: Any) -> Any:
    """Stores the weights in float16; runtimes convert them to float32 when they open the file."""
    import onnx

    graph = model.graph
    casts = []
    for array in list(graph.initializer):
        values = onnx.numpy_helper.to_array(array)
        if values.dtype != np.float32 or values.size < SMALLEST_ARRAY or np.abs(values).max() > LARGEST_FLOAT16:
            continue
        name = f"{array.name}_float16"
        casts.append(onnx.helper.make_node("Cast", [name], [array.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(array)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float16), name))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


INT4_OPSET, INT4_IR = 21, 10
"""The first operator set and file format with int4; ONNX Runtime 1.18 and later read them."""
BLOCK = 32
"""Neighbouring weights of an output channel that share a scale in int4."""
SMALLEST_INT4 = 1024
"""Arrays with fewer weights stay in float32, and so do those of depthwise layers, of which each output has a few."""


def _with_int4_weights(model: Any, fallback: Fallback | None) -> Any:
    """Stores weights in int4, in blocks that ONNX Runtime computes with as they are (MatMulNBits) or converts.

    Weights that change too many decisions stay in float32.
    """
    import onnx
    import onnxruntime

    arrays = {each.name: each for each in model.graph.initializer}
    axes = {"Conv": 1, "MatMul": 0, "Gemm": 0}
    operations = {
        node.input[1]: axes[node.op_type]
        for node in model.graph.node
        if node.op_type in axes and node.input[1] in arrays and _is_large(arrays[node.input[1]], axes[node.op_type])
    }

    def make(kept: Sequence[str] = ()) -> Any:
        """Stores all weights in int4 except those with the names `kept`."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        nodes = []
        for array in list(copy.graph.initializer):
            if (axis := operations.get(array.name)) is None or array.name in kept:
                continue
            values, scales, block = _int4(onnx.numpy_helper.to_array(array), axis)
            stored, scale = f"{array.name}_int4", f"{array.name}_scale"
            copy.graph.initializer.remove(array)
            copy.graph.initializer.append(
                onnx.helper.make_tensor(stored, onnx.TensorProto.INT4, values.shape, values.ravel().tolist())
            )
            copy.graph.initializer.append(onnx.numpy_helper.from_array(scales, scale))
            nodes.append(
                onnx.helper.make_node("DequantizeLinear", [stored, scale], [array.name], axis=axis, block_size=block)
            )
        if nodes:
            nodes += copy.graph.node
            del copy.graph.node[:]
            copy.graph.node.extend(nodes)
        return copy

    def run(each: Any, batches: Sequence[np.ndarray]) -> np.ndarray:
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: pixels})[0] for pixels in batches])

    model = onnx.version_converter.convert_version(model, INT4_OPSET)
    model.ir_version = INT4_IR
    if fallback is None or not operations:
        return make()
    return keep_in_float32(make, run, list(operations), model, fallback, threshold=0.5)


def _is_large(array: Any, axis: int) -> bool:
    return len(array.dims) > axis and array.dims[axis] >= BLOCK // 2 and math.prod(array.dims) >= SMALLEST_INT4


def _int4(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rounds weights to -7..7 times a scale for each block along an axis; returns both, and the size of a block."""
    moved = np.moveaxis(weights, axis, 0)
    block = min(BLOCK, len(moved))
    scales = np.maximum.reduceat(np.abs(moved), np.arange(0, len(moved), block)) / 7
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = np.rint(moved / scales.repeat(block, axis=0)[: len(moved)]).astype(np.int8)
    return np.moveaxis(values, 0, axis), np.ascontiguousarray(np.moveaxis(scales, 0, axis)), block


def _quantize(path: Path, samples: Sequence[Sequence[np.ndarray]], fallback: Fallback | None) -> Any:
    """Quantizes by ONNX Runtime: per channel, with QuantizeLinear and DequantizeLinear operations."""
    import onnx
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quant_pre_process(path, folder / "prepared.onnx", skip_symbolic_shape=True)
        prepared = onnx.load(folder / "prepared.onnx")
        kinds = [kind for kind in QDQRegistry if kind not in NOT_QUANTIZED]
        names = [each.name for each in prepared.graph.input]
        calibrator = create_calibrator(
            folder / "prepared.onnx", kinds, augmented_model_path=str(folder / "augmented.onnx")
        )
        calibrator.collect_data(_Reader([dict(zip(names, sample, strict=True)) for sample in samples]))
        ranges = calibrator.compute_data()
        del calibrator

    def make(kept: Sequence[str] = ()) -> bytes:
        """Quantizes all operations except those with the names `kept`."""
        copy = onnx.ModelProto()
        copy.CopyFrom(prepared)
        quantizer = QDQQuantizer(
            copy,
            True,
            True,  # weights of 7 bits: of 8, CPUs with AVX2 and without VNNI cut sums of two products off at 16 bits
            quantization.QuantType.QInt8,
            quantization.QuantType.QUInt8,
            ranges,
            [],
            list(kept),
            kinds,
            {"WeightSymmetric": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return bytes(quantizer.model.model.SerializeToString())

    def run(content: bytes, batches: Sequence[np.ndarray]) -> np.ndarray:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {names[0]: pixels})[0] for pixels in batches])

    operations = [node.name for node in prepared.graph.node if node.op_type in kinds]
    if fallback is None or not operations:
        return onnx.load_from_string(make())
    return onnx.load_from_string(
        keep_in_float32(make, run, operations, prepared.SerializeToString(), fallback, threshold=0.5)
    )


class _Reader:
    """What ONNX Runtime reads calibration inputs from."""

    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next inputs, or None after the last."""
        return next(self._inputs, None)
