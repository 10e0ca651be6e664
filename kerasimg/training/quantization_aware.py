"""Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877): a model trains with the rounding of int8.

`with_rounding` rebuilds a model from its own layers. Kernels are rounded to 127 steps on each side of zero, one scale
per output channel; values that an int8 runtime stores are rounded to 256 steps between the least and the greatest of
the batch. The gradient passes the rounding unchanged. The variables are those of the model, and there are no others,
so that what is saved, resumed and exported is the plain model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from kerasimg.errors import Fault, SpecError
from kerasimg.models.flat_graph import Call, flatten
from kerasimg.models.split_model import rebuild
from kerasimg.spec.load import Spec
from kerasimg.training.features import wants_features

OUTPUT_AXES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "Dense"), (-1,)),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), (-2, -1)),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose"), (-2,)),
}
"""Layer with a kernel -> the axes of the kernel that number its output channels."""
FUSED = ("relu", "relu6")
"""Activations that an int8 runtime applies before it stores a value."""
UNCHANGED = frozenset(
    (
        *("Dropout", "SpatialDropout2D", "DropPath", "Flatten", "Reshape", "Permute", "Identity"),
        *("MaxPooling2D", "GlobalMaxPooling2D", "ZeroPadding2D", "Cropping2D"),
    )
)
"""Layers whose outputs are values of their inputs, which are rounded already."""
WEIGHT_STEPS, VALUE_STEPS = 127, 255


def trains_with_rounding(spec: Spec) -> bool:
    """Whether a spec asks for quantization-aware training."""
    return spec.fit.quantization_aware


def check_quantization_aware(spec: Spec) -> None:
    """SpecError if a spec asks for quantization-aware training and for what excludes it."""
    if trains_with_rounding(spec) and (mode := wants_features(spec)) is not None:
        message = f'cannot go with features: "{mode}", which are computed without rounding; write "off"'
        raise SpecError([Fault(spec.file, "fit.quantization_aware", message)])


def with_rounding(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and variables that rounds kernels and values as int8 does.

    Args:
        model: a functional model.

    Example:
        >>> with_rounding(kerasimg.build("simple_cnn", num_classes=3)).count_params()
        1624547
    """
    graph = flatten(model)
    consumers = graph.consumers()
    wrapped: dict[int, RoundedKernel] = {}
    calls: list[Call] = []
    renamed: dict[int, int] = {}
    """Number of a value -> the number of the rounded one."""
    free = max(graph.tensors) + 1
    for call in graph.calls:
        operation = call.operation
        if type(operation).__name__ in OUTPUT_AXES:
            operation = wrapped.setdefault(id(operation), RoundedKernel(operation))
        inputs = tuple(renamed.get(number, number) for number in call.inputs)
        calls.append(replace(call, operation=operation, inputs=inputs))
        for number in call.outputs:
            if number not in graph.outputs and _is_stored(call, consumers[number], graph.tensors[number]):
                renamed[number] = free
                calls.append(_Rounding(RoundedValues(name=f"rounded_{free}"), (number,), (free,), None))
                free += 1
    images = [keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs]
    rounded = rebuild(calls, graph.inputs, images, graph.outputs, model.name)
    rounded.dtype_policy = model.dtype_policy
    return rounded


class _Rounding(Call):
    """A call of a layer that the model does not have."""

    def run(self, values: Any, **more: Any) -> Any:
        return [self.operation(values[self.inputs[0]])]


def _is_stored(call: Call, consumers: Iterable[Call], tensor: Any) -> bool:
    """Whether an int8 runtime stores a value, rather than passing it on within a fused operation."""
    name = type(call.operation).__name__
    if name in UNCHANGED or not str(tensor.dtype).startswith(("float", "bfloat")):
        return False
    following = [each.operation for each in consumers]
    if len(following) != 1:
        return True
    folded = name in OUTPUT_AXES and isinstance(following[0], keras.layers.BatchNormalization)
    return not folded and not _is_fused(following[0])


def _is_fused(layer: Any) -> bool:
    """Whether a layer is an activation that belongs to the operation before it."""
    if isinstance(layer, keras.layers.ReLU):
        return True
    return isinstance(layer, keras.layers.Activation) and getattr(layer.activation, "__name__", "") in FUSED


def straight_through(values: Any, rounded: Any) -> Any:
    """Returns the rounded values, with the gradient of the values."""
    return values + ops.stop_gradient(rounded - values)


def round_kernel(kernel: Any, axes: tuple[int, ...]) -> Any:
    """Rounds a kernel to int8, one scale for each index of `axes`."""
    outputs = {axis % len(kernel.shape) for axis in axes}
    others = [axis for axis in range(len(kernel.shape)) if axis not in outputs]
    largest = ops.max(ops.abs(kernel), axis=others, keepdims=True)
    step = ops.maximum(largest, keras.config.epsilon()) / WEIGHT_STEPS
    return straight_through(kernel, ops.round(kernel / step) * step)


class RoundedKernel(keras.layers.Layer):
    """Calls a layer with its kernel rounded."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_rounded", dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def call(self, inputs: Any) -> Any:
        axes = OUTPUT_AXES[type(self.layer).__name__]
        kernel, *others = self.layer.weights
        values = [(kernel, round_kernel(ops.convert_to_tensor(kernel), axes))]
        values += [(other, ops.convert_to_tensor(other)) for other in others]
        with keras.StatelessScope(state_mapping=values):
            return self.layer(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)


class RoundedValues(keras.layers.Layer):
    """Rounds values to 256 steps between the least and the greatest of the batch, of which zero is one."""

    def call(self, inputs: Any) -> Any:
        values = ops.cast(inputs, "float32")
        low, high = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
        step = ops.maximum(high - low, keras.config.epsilon()) / VALUE_STEPS
        return straight_through(inputs, ops.cast(ops.round(values / step) * step, inputs.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
