"""Padding of convolutions that Keras has no word for: by a number, or the same on both sides.

`same` pads as TensorFlow does: with a stride, a side of even length gets one row or column more at its end than at its
beginning. PyTorch's code, and so most weights trained with it, pads both sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

PADDED = frozenset({"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "StandardizedConv2D"})
"""The layers whose `padding` may be `symmetric`, a number or [rows, columns]."""


def with_padding(target: str, arguments: Mapping[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """Returns what Keras takes for the arguments of a layer, and the layer that pads before it.

    Args:
        target: class of the layer.
        arguments: checked; `padding` as a spec may have it: `symmetric` is (kernel_size - 1) * dilation_rate / 2,
            rounded down, on each side.
        name: of the layer that pads.

    Returns:
        The arguments with a `padding` of Keras, and a ZeroPadding2D; None where Keras pads by itself.
    """
    padding = arguments.get("padding")
    if target not in PADDED or padding in (None, "valid", "same"):
        return dict(arguments), None
    kernel, strides, dilation = (_pair(arguments.get(key, 1)) for key in ("kernel_size", "strides", "dilation_rate"))
    if padding == "symmetric":
        padding = [(size - 1) * rate // 2 for size, rate in zip(kernel, dilation, strict=True)]
    pads = _pair(padding)
    whole = [2 * pad == (size - 1) * rate for pad, size, rate in zip(pads, kernel, dilation, strict=True)]
    if all(whole) and strides == [1, 1]:
        return {**arguments, "padding": "same"}, None  # the same numbers without a further layer
    valid = {**arguments, "padding": "valid"}
    if pads == [0, 0]:
        return valid, None
    return valid, keras.layers.ZeroPadding2D(tuple(pads), data_format=arguments.get("data_format"), name=name)


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value, value]
