"""`kerasimg.measure`: parameters, multiply-adds, file size, and latency of a model on this machine, by runtime."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from kerasimg import log
from kerasimg.data.parallel import cores
from kerasimg.data.sources import Data
from kerasimg.deploy import litert_file
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export import call_in_tensorflow, write_bundle
from kerasimg.deploy.export_context import Exporting, Options, prepare
from kerasimg.deploy.logits import inference_model
from kerasimg.deploy.manifest import Precision
from kerasimg.deploy.parity import latency
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.targets import Target, open_runtime, target, targets
from kerasimg.errors import CallError, KerasimgError, counted, listed, needs
from kerasimg.log import Verbose
from kerasimg.models.classifier import ClassifierReference
from kerasimg.processor import processor_name
from kerasimg.results import Measurement
from kerasimg.run_folder import MODEL


@log.applies_verbose
def measure(
    run: ClassifierReference,
    to: str | Sequence[str] | None = None,
    *,
    precision: Precision | Sequence[Precision] | None = None,
    batch: int | None = None,
    data: Data | None = None,
    verbose: Verbose = 1,
) -> Measurement:
    """Measure the parameters, multiply-adds, file size and latency of a trained classifier on this machine.

    The classifier is exported into a temporary folder; the exports are not compared with it.

    Args:
        run: as for `kerasimg.export`.
        to: targets to measure. None: the installed ones.
        precision: precisions for every target. None: float32, and int8 where the target has it and there are
            training images.
        batch: fixed batch size. None: any.
        data: images for int8 calibration. None: the run's.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        A `Measurement` with a row per model.

    Raises:
        CallError: if a target is unknown or not installed, or none can be measured; one that cannot is warned of. On
            JAX or PyTorch also if the model is not stored in a file, because another process measures the exports.

    Example:
        >>> kerasimg.measure("runs/photos-1", "savedmodel", verbose=0).parameters
        62
    """
    requested = [to] if isinstance(to, str) else to
    if keras.backend.backend() != "tensorflow":
        return _measure_in_tensorflow(
            run, data, {"to": requested and list(requested), "precision": precision, "batch": batch}
        )
    exporting = prepare(run, data=data)
    if requested is None:
        chosen = [each for each in targets() if each.measured and not each.missing()]
    else:
        chosen = [target(name) for name in dict.fromkeys(requested)]
    rows, failed = [_as_keras(exporting)], list[KerasimgError]()
    with TemporaryDirectory() as folder:
        for each in chosen:
            errors: list[Exception] = []
            try:
                options = each.fit(Options(_precisions(exporting, each, precision), batch))
                (Path(folder) / each.name).mkdir()
                bundle, errors = write_bundle(replace(exporting, options=options), each, Path(folder) / each.name)
                rows += _rows(bundle)
            except KerasimgError as error:
                errors.append(error)
            for problem in errors:
                if not isinstance(problem, KerasimgError):
                    raise problem
                failed.append(problem)
    if failed and len(rows) == 1:
        raise CallError("\n".join(map(str, failed)))
    for problem in failed:
        log.warning(str(problem))
    content = {
        "name": exporting.name,
        "input": list(exporting.shape),
        "parameters": exporting.model.count_params(),
        "macs": macs(exporting.model),
        "machine": {"processor": processor_name(), "cores": cores(), "system": platform.system()},
        "runtimes": rows,
    }
    return Measurement.of(content)


def _measure_in_tensorflow(run: ClassifierReference, data: Data | None, arguments: Mapping[str, Any]) -> Measurement:
    """Measures the exports and multiply-adds in a process with TensorFlow, and `model.predict` in this one."""
    backend = keras.backend.backend()
    log.info(f"Keras runs on {backend} here; a TensorFlow process measures the exports")
    content = call_in_tensorflow(f"{__name__}:_measure_as_dict", run, data, arguments)
    content["runtimes"][0] = _as_keras(prepare(run, data=data))
    return Measurement.of(content)


def _measure_as_dict(**arguments: Any) -> dict[str, Any]:
    """Returns the result of `measure` as JSON-compatible data, for another process."""
    return measure(**arguments).to_dict()


def macs(model: keras.Model) -> int:
    """Counts the multiply-adds for one image in convolutions, dense layers and matrix products.

    They are counted in the TensorFlow graph of the model, so that custom layers count, too. Normalization, pooling and
    activations are not counted, as is usual in papers.
    """
    import tensorflow as tf

    signature = tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32)
    eager = tf.config.functions_run_eagerly()

    def forward(pixels: Any) -> Any:
        # Keras wraps grouped convolutions in a tf.function, whose output has no static shape. Running functions
        # eagerly during tracing inlines its operations into this graph.
        tf.config.run_functions_eagerly(True)
        try:
            return model(pixels, training=False)
        finally:
            tf.config.run_functions_eagerly(eager)

    graph = tf.function(tf.autograph.experimental.do_not_convert(forward)).get_concrete_function(signature).graph
    return sum(COUNTED[operation.type](operation) for operation in graph.get_operations() if operation.type in COUNTED)


def litert_figures(model: keras.Model, precision: Precision = "float32", calls: bool = True) -> dict[str, float]:
    """Measures the size (`litert_bytes`) and the latency (`latency_ms`) of a model as a .tflite file.

    Args:
        model: takes pixels (N, H, W, C), 0-255; trained or not.
        precision: float32, float16 or dynamic (int8 weights).
        calls: also measure the latency of one image, in milliseconds.

    Raises:
        CallError: if the precision is another, Keras does not run on TensorFlow, or LiteRT cannot run the model.
    """
    if precision in ("int8", "int16"):
        raise CallError(f"precision: {precision} needs images; measure dynamic, whose weights have the same size")
    if precision not in ("float32", "float16", "dynamic"):
        raise CallError(f"precision: expected float32, float16 or dynamic, got {precision}")
    if (backend := keras.backend.backend()) != "tensorflow":
        raise CallError(f"Keras runs on {backend}, and LiteRT files of models in memory need KERAS_BACKEND=tensorflow")
    import tensorflow as tf

    optimizations = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
    ops = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]}
    types = {"supported_types": [tf.float16]} if precision == "float16" else {}
    shape = model.inputs[0].shape[1:]
    with TemporaryDirectory() as folder, silence():
        path = Path(folder) / "model.tflite"
        inference_model(model, 1.0, "multiclass").export(
            path,
            format="litert",
            input_signature=[keras.InputSpec(shape=(1, *shape), dtype="float32")],
            verbose=False,
            optimizations=optimizations,
            target_spec={**ops, **types},
        )
        content = path.read_bytes()
    figures: dict[str, float] = {"litert_bytes": len(content)}
    if calls:
        figures["latency_ms"] = _p50_ms(content, tuple(shape))
    return figures


def litert_bytes(model: keras.Model, precision: Precision = "float32") -> int:
    """Returns the size of a model as a .tflite file, without class names; see `litert_figures`."""
    return int(litert_figures(model, precision, calls=False)["litert_bytes"])


def latency_ms(model: keras.Model, precision: Precision = "float32") -> float:
    """Returns the median latency of one image in LiteRT on all cores, in milliseconds; see `litert_figures`."""
    return litert_figures(model, precision)["latency_ms"]


def as_text(measurement: dict[str, Any]) -> str:
    """Formats the result of `measure` as a table."""
    height, width, channels = measurement["input"]
    machine = measurement["machine"]
    lines = [
        f"{measurement['name']}: {counted(measurement['parameters'], 'parameter')}, "
        f"{measurement['macs'] / 1e6:,.1f} million multiply-adds at {height} x {width} x {channels}",
        f"on {machine['processor']}, {counted(machine['cores'], 'core')}",
        "",
        f"{'target':12}{'precision':11}{'bytes':>12}{'p50 ms':>9}{'p95 ms':>9}{'images/s':>12}  runtime",
    ]
    for row in measurement["runtimes"]:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        lines.append(
            f"{row['target']:12}{row['precision']:11}{size:>12}{row['p50_ms']:9.3f}{row['p95_ms']:9.3f}"
            f"{row['per_second']:12,.0f}  {row['runtime']}"
        )
    return "\n".join(lines)


def _precisions(
    exporting: Exporting, chosen: Target, requested: Precision | Sequence[Precision] | None
) -> tuple[Precision, ...]:
    """Returns the precisions to measure; by default float32, and int8 where it can be written."""
    if requested is not None:
        return (requested,) if isinstance(requested, str) else tuple(requested)
    if chosen.measured and "int8" in chosen.precisions and exporting.training is not None:
        return (chosen.precisions[0], "int8")
    return ()


def _as_keras(exporting: Exporting) -> dict[str, Any]:
    def predict(pixels: np.ndarray) -> Any:
        return exporting.classifier.asked.predict(pixels.astype(np.float32), verbose=0)

    times = latency(predict, exporting.shape)
    runtime = f"keras {keras.__version__}, model.predict on {keras.backend.backend()}"
    return {
        "target": "(the run)",
        "precision": "float32",
        "runtime": runtime,
        "bytes": _run_bytes(exporting),
    } | times._asdict()


def _run_bytes(exporting: Exporting) -> int | None:
    file = None if exporting.run is None else exporting.run / MODEL
    return None if file is None or not file.is_file() else file.stat().st_size


def _rows(bundle: Bundle) -> Iterator[dict[str, Any]]:
    for model in bundle.models:
        runtime = open_runtime(bundle, model)
        times = latency(runtime, bundle.shape, model.batch)
        yield {
            "target": bundle.manifest.target,
            "precision": model.precision,
            "runtime": runtime.name,
            "bytes": bundle.model_bytes(model),
        } | times._asdict()
        runtime.close()


def _p50_ms(content: bytes, shape: tuple[int, ...]) -> float:
    """Returns the median latency of one image in LiteRT, in milliseconds."""
    flex = sorted(name for name in litert_file.operations(content) if name.startswith(litert_file.FLEX))
    if flex:
        raise CallError(f"LiteRT cannot run {listed(flex)}, so it cannot time the model; measure its size only")
    with needs("litert", "ai_edge_litert"), silence():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content, num_threads=cores())
        interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]

    def predict(pixels: np.ndarray) -> None:
        interpreter.set_tensor(place, pixels.astype(np.float32))
        interpreter.invoke()

    return latency(predict, shape, 1).p50_ms  # type: ignore[arg-type]


def _convolution(operation: Any) -> int:
    """Returns the number of output values times the kernel size."""
    kernel = operation.inputs[1].shape  # the sides, input channels of a group, output channels
    return math.prod(operation.outputs[0].shape) * math.prod(kernel[:-1])


def _depthwise(operation: Any) -> int:
    """Returns the number of output values times the kernel size.

    A dilated one is computed on a batch of padded parts of the image; what is cropped afterwards does not count.
    """
    output = operation.outputs[0]
    cropped = [reader.outputs[0] for reader in output.consumers() if reader.type == "BatchToSpaceND"]
    return math.prod((cropped or [output])[0].shape) * math.prod(operation.inputs[1].shape[:2])


def _transposed(operation: Any) -> int:
    """Returns the number of input values times the kernel size."""
    kernel = operation.inputs[1].shape  # the sides, output channels, input channels
    return math.prod(operation.inputs[2].shape) * math.prod(kernel[:-1])


def _product(operation: Any) -> int:
    left = operation.inputs[0].shape
    try:
        transposed = operation.get_attr("transpose_a")
    except ValueError:
        transposed = operation.get_attr("adj_x")
    return math.prod(operation.outputs[0].shape) * left[-2 if transposed else -1]


def _einsum(operation: Any) -> int:
    """Returns the product of the sizes of all indices."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        letters_only = term.replace("...", "")
        rest = len(tensor.shape) - len(letters_only)
        before = term.index("...") if "..." in term else 0
        letters = [*letters_only[:before], *(f"...{k}" for k in range(rest)), *letters_only[before:]]
        sizes |= dict(zip(letters, tensor.shape, strict=True))
    return math.prod(sizes.values()) if len(terms) > 1 else 0


COUNTED: dict[str, Callable[[Any], int]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3D": _convolution,
    "Conv3DBackpropInputV2": _transposed,
    "MatMul": _product,
    "BatchMatMulV2": _product,
    "Einsum": _einsum,
}
"""TensorFlow operation type -> the function that counts its multiply-adds."""
