"""The calls of a frozen model as plain operations on constants, for inference alone.

Every batch normalization that directly follows a convolution or a dense layer is folded into its kernel, which is
exact except for rounding (Jacob et al. 2018, arXiv:1712.05877, section 3.2). Constants, because TensorFlow then lays
kernels out for the CPU once, and fuses convolution, bias and activation. No XLA there: on a CPU its
convolutions are many times slower. A layer without an entry in `LOWERED` is called itself, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from kerasimg.errors import CallError
from kerasimg.keras_internals import passes_training
from kerasimg.models.flat_graph import Call, FlatGraph
from kerasimg.models.split_model import DROPPING

Working = Literal["float32", "bfloat16"]
"""The type that values have between the layers."""

LAST = "channels_last"

Run = Callable[..., Any]
"""Tensors -> the tensor that comes out."""


class Scaling(NamedTuple):
    """A batch normalization at inference: x * scale + shift, per channel."""

    scale: np.ndarray
    shift: np.ndarray


def normalization_scaling(layer: keras.layers.BatchNormalization) -> Scaling:
    """The scale and shift of a batch normalization with its moving statistics, in float64."""
    mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * _array(layer.gamma)
    shift = -mean * scale
    return Scaling(scale, shift + _array(layer.beta) if layer.center else shift)


def is_normalization(call: Call) -> bool:
    """Whether a call is a batch normalization of the last axis."""
    layer = call.operation
    if type(layer) is not keras.layers.BatchNormalization or len(call.inputs) != 1:
        return False
    return bool(layer.axis in (-1, len(call.node.arguments.keras_tensors[0].shape) - 1))


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _constant(array: np.ndarray, working: str) -> Any:
    return ops.convert_to_tensor(array.astype(np.float32), dtype=working)


def _kernel_and_bias(
    kernel: np.ndarray, layer: Any, scaling: Scaling | None, per_channel: Sequence[int] = (-1,)
) -> tuple[np.ndarray, np.ndarray | None]:
    """A kernel and its bias with the normalization in them. per_channel: the shape of a scale against the kernel."""
    bias = _array(layer.bias) if layer.use_bias else None
    if scaling is None:
        return kernel, bias
    kernel = kernel * scaling.scale.reshape(per_channel)
    return kernel, scaling.shift if bias is None else bias * scaling.scale + scaling.shift


def _finish(outputs: Any, bias: np.ndarray | None, activation: Run) -> Any:
    # TensorFlow fuses the bias: Keras adds a vector by its BiasAdd.
    return activation(outputs if bias is None else ops.add(outputs, _constant(bias, outputs.dtype)))


def _conv(layer: Any, scaling: Scaling | None, working: Working) -> Run | None:
    activation = _activation(layer.activation)
    if layer.groups != 1 or layer.padding not in ("same", "valid") or activation is None:
        return None
    kernel, bias = _kernel_and_bias(_array(layer.kernel), layer, scaling)

    def run(x: Any) -> Any:
        held = _constant(kernel, working)
        y = ops.conv(ops.cast(x, working), held, layer.strides, layer.padding, LAST, layer.dilation_rate)
        return _finish(y, bias, activation)

    return run


def _by_depth(layer: Any, x: Any, kernel: np.ndarray, working: Working) -> Any:
    held = _constant(kernel, working)
    x = ops.cast(x, working)
    return ops.depthwise_conv(x, held, layer.strides, layer.padding, LAST, layer.dilation_rate)


def _depthwise(layer: Any, scaling: Scaling | None, working: Working) -> Run | None:
    activation = _activation(layer.activation)
    if layer.strides[0] != layer.strides[1] or layer.padding not in ("same", "valid") or activation is None:
        return None
    kernel = _array(layer.kernel)
    kernel, bias = _kernel_and_bias(kernel, layer, scaling, kernel.shape[2:])

    def run(x: Any) -> Any:
        y = _by_depth(layer, x, kernel, working)
        return _finish(y, bias, activation)

    return run


def _separable(layer: Any, scaling: Scaling | None, working: Working) -> Run | None:
    activation = _activation(layer.activation)
    if layer.strides[0] != layer.strides[1] or layer.padding not in ("same", "valid") or activation is None:
        return None
    depthwise = _array(layer.depthwise_kernel)
    pointwise, bias = _kernel_and_bias(_array(layer.pointwise_kernel), layer, scaling)

    def run(x: Any) -> Any:
        y = _by_depth(layer, x, depthwise, working)
        return _finish(ops.conv(y, _constant(pointwise, working), 1, "valid", LAST), bias, activation)

    return run


def _dense(layer: Any, scaling: Scaling | None, working: Working) -> Run | None:
    activation = _activation(layer.activation)
    if activation is None:
        return None
    kernel, bias = _kernel_and_bias(_array(layer.kernel), layer, scaling)

    def run(x: Any) -> Any:
        return _finish(ops.matmul(ops.cast(x, working), _constant(kernel, working)), bias, activation)

    return run


FOLDING: dict[type, Callable[[Any, Scaling | None, Working], Run | None]] = {
    keras.layers.Conv2D: _conv,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Dense: _dense,
}
"""Layers with a kernel that a batch normalization can become part of."""


def _normalization(call: Call, working: Working) -> Run | None:
    if not is_normalization(call):
        return None
    scale, shift = normalization_scaling(call.operation)

    def run(x: Any) -> Any:
        return ops.cast(x, working) * _constant(scale, working) + _constant(shift, working)

    return run


def _rescaling(call: Call, working: Working) -> Run:
    # In float32: bfloat16 holds the whole numbers of 0 to 255, but not what augmentation makes of them.
    layer = call.operation
    scale, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    return lambda x: x * _constant(scale, x.dtype) + _constant(offset, x.dtype)


def _standardizing(call: Call, working: Working) -> Run | None:
    layer = call.operation
    if layer.invert or layer.mean is None:
        return None
    mean, variance = (_array(value) for value in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return lambda x: (x - _constant(mean, x.dtype)) / _constant(deviation, x.dtype)


def _activating(call: Call, working: Working) -> Run | None:
    return _activation(call.operation.activation)


def _relu(call: Call, working: Working) -> Run | None:
    layer = call.operation
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        return None
    return ops.relu if layer.max_value is None else ops.relu6


def _pooling(name: str) -> Callable[[Call, Working], Run]:
    def make(call: Call, working: Working) -> Run:
        layer = call.operation
        pool = getattr(ops, name)
        return lambda x: pool(x, layer.pool_size, layer.strides, layer.padding, LAST)

    return make


def _global(name: str) -> Callable[[Call, Working], Run]:
    def make(call: Call, working: Working) -> Run:
        layer = call.operation
        reduce = getattr(ops, name)
        # Sums over many places want all their digits.
        return lambda x: reduce(ops.cast(x, "float32"), (1, 2), keepdims=layer.keepdims)

    return make


def _merging(name: str) -> Callable[[Call, Working], Run | None]:
    def make(call: Call, working: Working) -> Run | None:
        if len({len(tensor.shape) for tensor in call.node.arguments.keras_tensors}) != 1:
            return None
        operation = getattr(ops, name)

        def run(*tensors: Any) -> Any:
            result, *others = (ops.cast(tensor, working) for tensor in tensors)
            for other in others:
                result = operation(result, other)
            return result

        return run

    return make


def _concatenating(call: Call, working: Working) -> Run:
    return lambda *tensors: ops.concatenate([ops.cast(tensor, working) for tensor in tensors], call.operation.axis)


def _padding(call: Call, working: Working) -> Run:
    return lambda x: ops.pad(x, ((0, 0), *call.operation.padding, (0, 0)))


def _reshaping(call: Call, working: Working) -> Run | None:
    shape = call.node.outputs[0].shape[1:]
    return None if None in shape else lambda x: ops.reshape(x, (-1, *shape))


def _passing(call: Call, working: Working) -> Run:
    return lambda x: x


def _activation(function: Any) -> Run | None:
    """The activation as one operation; None for those without."""
    known: Mapping[Any, Run] = {
        keras.activations.linear: lambda x: x,
        keras.activations.relu: ops.relu,
        keras.activations.relu6: ops.relu6,
        keras.activations.sigmoid: ops.sigmoid,
        keras.activations.tanh: ops.tanh,
        keras.activations.silu: ops.silu,
        keras.activations.elu: ops.elu,
        keras.activations.gelu: lambda x: ops.gelu(x, approximate=False),
        keras.activations.hard_sigmoid: lambda x: ops.relu6(x + 3) / 6,
        keras.activations.hard_silu: lambda x: x * ops.relu6(x + 3) / 6,
    }
    return known.get(function)


LOWERED: dict[type, Callable[[Call, Working], Run | None]] = {
    **dict.fromkeys(FOLDING, _passing),
    **dict.fromkeys(DROPPING, _passing),
    keras.layers.Activation: _activating,
    keras.layers.Add: _merging("add"),
    keras.layers.AveragePooling2D: _pooling("average_pool"),
    keras.layers.BatchNormalization: _normalization,
    keras.layers.Concatenate: _concatenating,
    keras.layers.Flatten: _reshaping,
    keras.layers.GlobalAveragePooling2D: _global("mean"),
    keras.layers.GlobalMaxPooling2D: _global("max"),
    keras.layers.Identity: _passing,
    keras.layers.Maximum: _merging("maximum"),
    keras.layers.MaxPooling2D: _pooling("max_pool"),
    keras.layers.Multiply: _merging("multiply"),
    keras.layers.Normalization: _standardizing,
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Reshape: _reshaping,
    keras.layers.ZeroPadding2D: _padding,
}
"""Layer -> its form in plain operations, or None for one that is set in a way that has none."""


EXACT = 2
"""Layers with a kernel, from the image on, that stay in float32: what is lost there goes through all that follows. In
MobileNetV2 they cost up to a sixth of the speed and halve the difference (benchmarks/transfer.py --engines)."""


class Step(NamedTuple):
    """One operation of a program."""

    run: Run
    inputs: tuple[int, ...]
    output: int


class Program(NamedTuple):
    """The computation of a frozen model."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    folded: int
    """Batch normalizations that are part of a kernel now."""
    called: tuple[str, ...]
    """Layers that are called themselves, having no entry in LOWERED."""

    def __call__(self, images: Any) -> list[Any]:
        """Images (N, H, W, C), float32 0-255 -> the seam, float32."""
        values = {self.inputs[0]: images}
        for step in self.steps:
            values[step.output] = step.run(*(values[number] for number in step.inputs))
        return [ops.cast(values[number], "float32") for number in self.outputs]


def lower(graph: FlatGraph, working: Working = "float32") -> Program:
    """The program of a frozen model; CallError for several inputs."""
    if len(graph.inputs) != 1:
        raise CallError("a model with several inputs has no faster form")
    absorbed = _absorbed(graph)
    steps = []
    called = []
    kernels = 0
    for call in graph.calls:
        if any(call is normalization for normalization in absorbed.values()):
            continue
        folded = absorbed.get(id(call))
        scaling = None if folded is None else normalization_scaling(folded.operation)
        kernels += type(call.operation) in FOLDING
        run = _lowered(call, scaling, "float32" if kernels <= EXACT else working)
        if run is None:
            absorbed.pop(id(call), None)  # a layer that is called itself leaves its normalization to be one of its own
            folded = None
            run = _called(call, working)
            called.append(call.operation.name)
        steps.append(Step(run, call.inputs, (folded or call).outputs[0]))
    return Program(tuple(steps), graph.inputs, graph.outputs, len(absorbed), tuple(called))


def _absorbed(graph: FlatGraph) -> dict[int, Call]:
    """Calls with a kernel, by their id -> the batch normalization that becomes part of it."""
    consumers = graph.consumers()
    found = {}
    for call in graph.calls:
        if type(call.operation) not in FOLDING or call.operation.activation is not keras.activations.linear:
            continue
        output = call.outputs[0]
        after = consumers[output]
        if len(after) == 1 and output not in graph.outputs and is_normalization(after[0]):
            found[id(call)] = after[0]
    return found


def _lowered(call: Call, scaling: Scaling | None, working: Working) -> Run | None:
    """The operation by LOWERED; None where it has none for a layer set like this one."""
    make = LOWERED.get(type(call.operation))
    if make is None or getattr(call.operation, "data_format", "channels_last") != "channels_last":
        return None
    if _casts_oddly(call.operation):
        return None
    if type(call.operation) in FOLDING:
        return FOLDING[type(call.operation)](call.operation, scaling, working)
    return make(call, working)


def _casts_oddly(layer: Any) -> bool:
    """Whether a layer computes in a type that the program would not give it, or has its kernel in int8."""
    quantized = getattr(getattr(layer, "dtype_policy", None), "quantization_mode", None)
    return quantized or getattr(layer, "compute_dtype", "float32") not in ("float32", "bfloat16", "float16")


def _called(call: Call, working: Working) -> Run:
    """The layer itself, in float32, as in inference: augmentation would work otherwise."""
    layer = isinstance(call.operation, keras.layers.Layer)
    inference = {"training": False} if layer and passes_training(call.operation) else {}

    def run(*tensors: Any) -> Any:
        given = [ops.cast(tensor, "float32") if is_float(tensor) else tensor for tensor in tensors]
        (output,) = call.run(dict(zip(call.inputs, given, strict=True)), **inference)
        return ops.cast(output, working) if is_float(output) else output

    def is_float(tensor: Any) -> bool:
        return "float" in keras.backend.standardize_dtype(tensor.dtype)

    return run
