"""Operations that are no layers (`x + 3.0`, `keras.ops.relu(x)`) -> the layers that do the same.

A table from the operation's class to a function that emits the layers. What is not in it is refused, by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kerasimg import keras_internals
from kerasimg.models.layer_arguments import Inexpressible, plain


class Tensor(NamedTuple):
    """An output in the graph: its number, and its shape with the batch first."""

    number: int
    shape: tuple[int | None, ...]


Emit = Callable[[str, Mapping[str, Any], "Tensor | list[Tensor]"], Tensor]
"""Writes one layer: its class, its arguments, its inputs; gives its output, of the shape of the first input."""

Rewrite = Callable[[Emit, Any, Sequence[Any], tuple[Any, ...]], Tensor]
"""(emit, operation, its arguments with a `Tensor` for each tensor, shape of its output) -> the output."""


def rewrite(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Emit the layers that do what an operation does; Inexpressible when there are none."""
    cls = type(operation)
    name = cls.__name__
    if keras_internals.application_class(cls) == "inception_resnet_v2.CustomScaleLayer":
        return _scaled_sum(emit, operation, given, shape)
    if not keras_internals.is_keras_operation(cls):
        raise Inexpressible(f"is a {name}, which is no layer: rewrite it as layers")
    if name not in REWRITES:
        raise Inexpressible(
            f"is the operation keras.ops.{_snake(name)}, for which a spec has no layer: "
            "rewrite it with layers, or as a layer of its own that kerasimg.register makes known"
        )
    return REWRITES[name](emit, operation, given, shape)


def _scaled_sum(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    shortcut, branch = given[0]
    scaled = emit("Rescaling", {"scale": operation.get_config()["scale"]}, branch)
    return emit("Add", {}, [shortcut, scaled])


def _arithmetic(layer: str, scale: Callable[[float], float], offset: Callable[[float], float]) -> Rewrite:
    """Of two tensors the merging layer; of a tensor and a constant c, x * scale(c) + offset(c)."""

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        left, right = given[:2]
        if isinstance(left, Tensor) and isinstance(right, Tensor):
            return _merged(layer)(emit, operation, given, shape)
        if not isinstance(left, Tensor):
            if layer not in ("Add", "Multiply", "Subtract"):
                raise Inexpressible(
                    f"is the operation {_snake(layer)} of a constant and a tensor: rewrite it as layers"
                )
            constant, tensor, mirrored = _constant(left), right, layer == "Subtract"
        else:
            constant, tensor, mirrored = _constant(right), left, False
        factor, shift = _each(scale, constant), _each(offset, constant)
        if mirrored:
            factor, shift = -1, constant
        return emit("Rescaling", {"scale": factor, **({"offset": shift} if shift != 0 else {})}, tensor)

    return write


def _merged(layer: str) -> Rewrite:
    """A merging layer of two tensors of as many dimensions."""

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        left, right = given[:2]
        tensors = isinstance(left, Tensor) and isinstance(right, Tensor)
        if not tensors or len(left.shape) != len(right.shape):
            what = "tensors of different numbers of dimensions" if tensors else "a tensor and a constant"
            raise Inexpressible(f"is the operation {_snake(layer)} of {what}: rewrite it as layers")
        return emit(layer, {}, [left, right])

    return write


def _activation(name: str) -> Rewrite:
    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        usual = {"approximate": False, "axis": -1, "alpha": 1.0}
        if any(getattr(operation, key, value) != value for key, value in usual.items()):
            raise Inexpressible(
                f"is the operation keras.ops.{name} with arguments that the activation '{name}' has not: "
                f'rewrite it as keras.layers.Activation("{name}"), or as a layer'
            )
        return emit("Activation", {"activation": name}, given[0])

    return write


def _leaky_relu(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("LeakyReLU", {"negative_slope": operation.negative_slope}, given[0])


def _negative(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Rescaling", {"scale": -1}, given[0])


def _identity(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Identity", {}, given[0])


def _pooled(layer: str) -> Rewrite:
    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
        pooled = len(given[0].shape) == 4 and getattr(operation, "initial", None) is None
        if not pooled or sorted(axis % 4 for axis in axes if axis is not None) != [1, 2]:
            raise Inexpressible(
                f"is a keras.ops.{_snake(type(operation).__name__)} over axes other than height and width"
            )
        return emit(layer, {"keepdims": True} if operation.keepdims else {}, given[0])

    return write


def _reshaped(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Reshape, squeeze and expand_dims alike: the pictures stay apart, each takes a new shape."""
    before, after = given[0].shape[1:], shape[1:]
    if shape[0] is not None or None in (*before, *after) or math.prod(before) != math.prod(after) or not after:
        raise Inexpressible("reshapes across pictures, or to a size that is not known: use keras.layers.Reshape")
    return emit("Reshape", {"target_shape": list(after)}, given[0])


def _transposed(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    axes = list(operation.axes or reversed(range(len(shape))))
    if axes[0] != 0:
        raise Inexpressible("transposes the batch: use keras.layers.Permute")
    return emit("Permute", {"dims": axes[1:]}, given[0])


def _concatenated(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    tensors = list(given[0])
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or operation.axis == 0:
        raise Inexpressible("concatenates constants or pictures: use keras.layers.Concatenate of tensors")
    axis = operation.axis if operation.axis != len(shape) - 1 else -1
    return emit("Concatenate", {} if axis == -1 else {"axis": axis}, tensors)


def _constant(value: Any) -> Any:
    """A number, or a list with one for each channel."""
    found = value if isinstance(value, int | float) else plain(keras.ops.convert_to_numpy(value))
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, int | float) or all(isinstance(item, int | float) for item in found):
        return found
    raise Inexpressible("calculates with an array that is not one number for each channel: rewrite it as a layer")


def _each(function: Callable[[float], float], value: Any) -> Any:
    """The function of a number, or of each of a list; a list of the same number over and over is that number."""
    if not isinstance(value, list):
        return function(value)
    made = [function(item) for item in value]
    return made[0] if len(set(made)) == 1 else made


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


_one: Callable[[float], float] = lambda constant: 1  # noqa: E731
_zero: Callable[[float], float] = lambda constant: 0  # noqa: E731

REWRITES: Mapping[str, Rewrite] = {
    "Add": _arithmetic("Add", _one, lambda constant: constant),
    "Subtract": _arithmetic("Subtract", _one, operator.neg),
    "Multiply": _arithmetic("Multiply", lambda constant: constant, _zero),
    "Divide": _arithmetic("Divide", lambda constant: 1 / constant, _zero),
    "TrueDivide": _arithmetic("Divide", lambda constant: 1 / constant, _zero),
    "Maximum": _merged("Maximum"),
    "Minimum": _merged("Minimum"),
    "Negative": _negative,
    "Identity": _identity,
    "Concatenate": _concatenated,
    "Mean": _pooled("GlobalAveragePooling2D"),
    "Max": _pooled("GlobalMaxPooling2D"),
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "ExpandDims": _reshaped,
    "Transpose": _transposed,
    "LeakyRelu": _leaky_relu,
    "Relu": _activation("relu"),
    "Relu6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "Softmax": _activation("softmax"),
    "Softplus": _activation("softplus"),
    "Tanh": _activation("tanh"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "Gelu": _activation("gelu"),
    "Elu": _activation("elu"),
    "Selu": _activation("selu"),
}
"""By the class of the operation."""
