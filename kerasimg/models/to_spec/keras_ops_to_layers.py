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
from kerasimg.models.to_spec.layer_arguments import Inexpressible, plain


class Tensor(NamedTuple):
    """An output in the graph: its number, and its shape with the batch first."""

    number: int
    shape: tuple[int | None, ...]
    integers: bool = False
    """Whether the model holds integers in it; a spec holds float32."""


Emit = Callable[..., Tensor]
"""(class, arguments, inputs, shape of the output): writes one layer, gives its output; the shape
is that of the first input where it is not given."""

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
    """Two tensors: the merging layer. A tensor and a constant c: x * scale(c) + offset(c)."""

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
        tensor = _broadcast(emit, tensor, shape)
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
    """An activation without arguments, or with the usual ones."""

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        if getattr(operation, "axis", -1) not in (-1, len(shape) - 1):
            raise Inexpressible(
                f"is the operation keras.ops.{name} along an axis other than the last, for which a spec has no layer: "
                "write it as a layer of its own that kerasimg.register makes known"
            )
        return emit("Activation", {"activation": name}, given[0])

    return write


def _scaled(name: str, argument: str, width: Callable[[float], float]) -> Rewrite:
    """An activation whose argument only stretches it: f(x) = w g(x / w), where g has the usual argument.

    width: of the argument -> w.
    """

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        factor = width(getattr(operation, argument))
        if not factor > 0:
            raise Inexpressible(f"is a keras.ops.{name} with {argument} = {getattr(operation, argument)!r}")
        if factor == 1:
            return emit("Activation", {"activation": name}, given[0])
        narrow = emit("Rescaling", {"scale": 1 / factor}, given[0])
        return emit("Rescaling", {"scale": factor}, emit("Activation", {"activation": name}, narrow))

    return write


def _gelu(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    if operation.approximate:
        return emit("GELU", {"approximate": "tanh"}, given[0])
    return emit("Activation", {"activation": "gelu"}, given[0])


def _elu(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    if operation.alpha == 1:
        return emit("Activation", {"activation": "elu"}, given[0])
    return emit("ELU", {"alpha": operation.alpha}, given[0])


def _softmax(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    axes = sorted(axis % len(shape) for axis in axes)
    if axes == [len(shape) - 1]:
        return emit("Activation", {"activation": "softmax"}, given[0])
    return emit("Softmax", {"axis": axes[0] if len(axes) == 1 else axes}, given[0])


def _threshold(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    if operation.default_value != 0 or operation.threshold < 0:
        raise Inexpressible("is a keras.ops.threshold with a number below 0, or another default than 0")
    return emit("ReLU", {"threshold": operation.threshold} if operation.threshold else {}, given[0])


def _glu(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    if operation.axis not in (-1, len(shape) - 1):
        raise Inexpressible("is a keras.ops.glu along an axis other than the channels: rewrite it as layers")
    value = emit("TakeChannels", {}, given[0], shape)
    gate = emit("TakeChannels", {"index": 1}, given[0], shape)
    return emit("Multiply", {}, [value, emit("Activation", {"activation": "sigmoid"}, gate)])


def _leaky_relu(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("LeakyReLU", {"negative_slope": operation.negative_slope}, given[0])


def _negative(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Rescaling", {"scale": -1}, given[0])


def _identity(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Identity", {}, given[0])


def _broadcast(emit: Emit, tensor: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """The tensor with as many channels as the result; Inexpressible where another axis grows."""
    if tuple(tensor.shape) == tuple(shape):
        return tensor
    if tuple(tensor.shape[:-1]) != tuple(shape[:-1]) or tensor.shape[-1] != 1:
        raise Inexpressible(
            f"calculates with an array that makes {tuple(tensor.shape)} to {tuple(shape)}: repeat the tensor"
        )
    return emit("Concatenate", {}, [tensor] * shape[-1], shape)


def _activation_layer(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """keras.activations.relu, with what it may be given."""
    slope, most, threshold = operation.negative_slope, operation.max_value, operation.threshold
    if (slope, most, threshold) == (0, None, 0):
        return emit("Activation", {"activation": "relu"}, given[0])
    if min(slope, threshold, most or 0) < 0:
        raise Inexpressible("is a relu with a number below 0: rewrite it as layers")
    options = {"max_value": most, "negative_slope": slope, "threshold": threshold}
    return emit("ReLU", {key: value for key, value in options.items() if value not in (0, None)}, given[0])


def _clipped(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """A relu that begins at the lower bound."""
    low, high = operation.x_min, operation.x_max
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low > high:
        raise Inexpressible("is a keras.ops.clip whose bounds are not two numbers, the lower one first")
    moved = given[0] if low == 0 else emit("Rescaling", {"scale": 1, "offset": -low}, given[0])
    clipped = emit("ReLU", {"max_value": high - low}, moved)
    return clipped if low == 0 else emit("Rescaling", {"scale": 1, "offset": low}, clipped)


def _cast(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Nothing: a spec's tensors are float32."""
    dtype = keras.backend.standardize_dtype(operation.dtype)
    if dtype != "float32":
        raise Inexpressible(f"casts to {dtype}, and a spec computes in float32: leave it out, or give a layer a dtype")
    return given[0]


def _squared(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Multiply", {}, [given[0], given[0]])


def _absolute(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    return emit("Maximum", {}, [given[0], emit("Rescaling", {"scale": -1}, given[0])])


def _padded(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Zeros around an image, or around a row of tokens."""
    tensor, rank = given[0], len(given[0].shape)
    widths = [list(pair) for pair in operation.pad_width]
    widths = widths * rank if len(widths) == 1 else widths
    value = given[1] if len(given) > 1 else None
    if operation.mode != "constant" or value not in (None, 0):
        raise Inexpressible("is a keras.ops.pad with something other than zeros, for which a spec has no layer")
    if rank not in (3, 4, 5) or any(widths[0] + widths[-1]):
        raise Inexpressible("is a keras.ops.pad of the batch or of the channels, for which a spec has no layer")
    padding = widths[1] if rank == 3 else widths[1:-1]
    return emit(f"ZeroPadding{rank - 2}D", {"padding": padding}, tensor)


def _window_pooled(layer: str) -> Rewrite:
    """keras.ops.max_pool and average_pool."""

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        rank = len(given[0].shape) - 2
        if (operation.data_format or "channels_last") != "channels_last":
            raise Inexpressible("pools with the channels first: transpose the tensor before")
        size = _pair(operation.pool_size)
        strides = size if operation.strides is None else _pair(operation.strides)
        options = {"pool_size": size}
        options |= {"strides": strides} if strides != size else {}
        options |= {"padding": operation.padding} if operation.padding != "valid" else {}
        return emit(f"{layer}{rank}D", options, given[0])

    return write


def _pair(value: Any) -> Any:
    """A size as a spec writes it: one number where all axes have the same."""
    if isinstance(value, int):
        return value
    return value[0] if len(set(value)) == 1 else list(value)


def _resized(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    if len(given[0].shape) != 4 or operation.data_format != "channels_last":
        raise Inexpressible("is a keras.ops.image.resize of something other than images with the channels last")
    height, width = operation.size
    usual = {
        "interpolation": "bilinear",
        "antialias": False,
        "crop_to_aspect_ratio": False,
        "pad_to_aspect_ratio": False,
        "fill_value": 0.0,
    }
    options = {key: getattr(operation, key) for key, value in usual.items() if getattr(operation, key) != value}
    return emit("Resizing", {"height": height, "width": width, **options}, given[0])


def _item(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """x[...]: a token, a crop, every second row, some channels; whatever is left is a Reshape."""
    tensor = given[0]
    sizes, ranges = tensor.shape, _ranges(tensor.shape, given[1])
    rank = len(sizes)
    # What a step would skip at the end anyway is not cropped.
    ends = [min(part[-1] + part.step, size) for part, size in zip(ranges[1:-1], sizes[1:-1], strict=True)]
    cropped = [[part.start, size - end] for part, end, size in zip(ranges[1:-1], ends, sizes[1:-1], strict=True)]
    if rank == 3 and len(ranges[1]) == 1 and len(ranges[2]) == sizes[2] and len(shape) == 2:
        index = ranges[1].start
        return emit("TakeToken", {"index": index} if index else {}, tensor, shape)
    if any(map(any, cropped)):
        _check_rank(rank)
        lengths = [end - part.start for part, end in zip(ranges[1:-1], ends, strict=True)]
        cropping = cropped[0] if rank == 3 else cropped
        tensor = emit(f"Cropping{rank - 2}D", {"cropping": cropping}, tensor, (sizes[0], *lengths, sizes[-1]))
    steps = [part.step for part in ranges[1:-1]]
    if any(step != 1 for step in steps):
        _check_rank(rank)
        after = (sizes[0], *map(len, ranges[1:-1]), sizes[-1])
        tensor = emit(f"MaxPooling{rank - 2}D", {"pool_size": 1, "strides": _pair(steps)}, tensor, after)
    channels, count = ranges[-1], len(ranges[-1])
    if count != sizes[-1]:
        if channels.step != 1 or channels.start % count or sizes[-1] % count:
            raise Inexpressible("takes channels that are not one of equal parts: use the layer TakeChannels")
        options = {"parts": sizes[-1] // count, "index": channels.start // count}
        usual = {"parts": 2, "index": 0}
        options = {key: value for key, value in options.items() if value != usual[key]}
        tensor = emit("TakeChannels", options, tensor, (*tensor.shape[:-1], count))
    if tuple(tensor.shape) != tuple(shape):
        tensor = emit("Reshape", {"target_shape": list(shape[1:])}, tensor, shape)
    return tensor if tensor is not given[0] else emit("Identity", {}, tensor)


def _check_rank(rank: int) -> None:
    if rank not in (3, 4, 5):
        raise Inexpressible(f"takes a part of a tensor of {rank} axes, for which a spec has no layer")


def _ranges(sizes: Sequence[int | None], key: Any) -> list[range]:
    """The range of each axis that x[key] selects; Inexpressible if it is not a range, or changes the batch."""
    keys = [part for part in (key if isinstance(key, tuple | list) else (key,)) if part is not None]
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        keys[place : place + 1] = [slice(None)] * (len(sizes) - len(keys) + 1)
    keys += [slice(None)] * (len(sizes) - len(keys))
    if keys[0] != slice(None) or None in sizes[1:]:
        raise Inexpressible("takes a part of the batch, or of an axis whose size is not known: rewrite it as layers")
    ranges = [range(1)]
    for size, part in zip(sizes[1:], keys[1:], strict=True):
        if isinstance(part, int):
            indices = range(part % size, part % size + 1)  # type: ignore[operator]
        elif isinstance(part, slice):
            indices = range(size)[part]  # type: ignore[arg-type]
        else:
            indices = range(0)
        if not indices or indices.step < 1:
            raise Inexpressible("takes elements that are no range in rising order: rewrite it as layers")
        ranges.append(indices)
    return ranges


def _pooled(layer: str) -> Rewrite:
    """Mean and maximum over all places of an image, or over all tokens."""

    def write(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
        rank = len(given[0].shape)
        axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
        places = rank in (3, 4, 5) and getattr(operation, "initial", None) is None
        if not places or sorted(axis % rank for axis in axes if axis is not None) != list(range(1, rank - 1)):
            raise Inexpressible(
                f"is a keras.ops.{_snake(type(operation).__name__)} over axes other than height and width, or tokens"
            )
        return emit(f"{layer}{rank - 2}D", {"keepdims": True} if operation.keepdims else {}, given[0])

    return write


def _reshaped(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    """Reshape, squeeze and expand_dims: each image gets a new shape."""
    before, after = given[0].shape[1:], shape[1:]
    if shape[0] is not None or None in (*before, *after) or math.prod(before) != math.prod(after) or not after:
        raise Inexpressible("reshapes across images, or to a size that is not known: use keras.layers.Reshape")
    return emit("Reshape", {"target_shape": list(after)}, given[0])


def _transposed(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    axes = list(operation.axes or reversed(range(len(shape))))
    if axes[0] != 0:
        raise Inexpressible("transposes the batch: use keras.layers.Permute")
    return emit("Permute", {"dims": axes[1:]}, given[0])


def _concatenated(emit: Emit, operation: Any, given: Sequence[Any], shape: tuple[Any, ...]) -> Tensor:
    tensors = list(given[0])
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or operation.axis == 0:
        raise Inexpressible("concatenates constants or images: use keras.layers.Concatenate of tensors")
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
    "Mean": _pooled("GlobalAveragePooling"),
    "Max": _pooled("GlobalMaxPooling"),
    "AveragePool": _window_pooled("AveragePooling"),
    "MaxPool": _window_pooled("MaxPooling"),
    "GetItem": _item,
    "Pad": _padded,
    "Clip": _clipped,
    "Cast": _cast,
    "Square": _squared,
    "Absolute": _absolute,
    "Abs": _absolute,
    "Resize": _resized,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "ExpandDims": _reshaped,
    "Transpose": _transposed,
    "LeakyRelu": _leaky_relu,
    "ReLU": _activation_layer,
    "Relu": _activation("relu"),
    "Relu6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "Softmax": _softmax,
    "Softplus": _activation("softplus"),
    "Tanh": _activation("tanh"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "Gelu": _gelu,
    "Elu": _elu,
    "Selu": _activation("selu"),
    "Celu": _scaled("celu", "alpha", float),
    "HardShrink": _scaled("hard_shrink", "threshold", lambda threshold: 2 * threshold),
    "SoftShrink": _scaled("soft_shrink", "threshold", lambda threshold: 2 * threshold),
    "Squareplus": _scaled("squareplus", "b", lambda b: math.sqrt(b) / 2),
    "Threshold": _threshold,
    "Glu": _glu,
    "Exp": _activation("exponential"),
    "HardTanh": _activation("hard_tanh"),
    "LogSigmoid": _activation("log_sigmoid"),
    "LogSoftmax": _activation("log_softmax"),
    "Softsign": _activation("softsign"),
    "SparsePlus": _activation("sparse_plus"),
    "SparseSigmoid": _activation("sparse_sigmoid"),
    "TanhShrink": _activation("tanh_shrink"),
}
"""Class of the operation -> its rewrite."""
