"""`image.scale`: from pixels of 0-255 to what the network was made for, as layers inside the model.

The figures are those of `keras.applications.imagenet_utils.preprocess_input` ("tf", "torch", "caffe").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from kerasimg.errors import counted
from kerasimg.spec.document import Standardize
from kerasimg.spec.kinds import FLOAT32_MAX

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def _none(pixels: Any, name: str) -> Any:
    return pixels


def _unit(pixels: Any, name: str) -> Any:
    return keras.layers.Rescaling(1 / 255, name=name)(pixels)


def _symmetric(pixels: Any, name: str) -> Any:
    return keras.layers.Rescaling(1 / 127.5, -1.0, name=name)(pixels)


def _imagenet(pixels: Any, name: str) -> Any:
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return standardize(pixels, mean, std, name)


def _caffe(pixels: Any, name: str) -> Any:
    if pixels.shape[-1] != 3:
        raise ValueError("scale 'caffe' is blue, green, red minus their means: it needs 3 channels")
    return standardize(keras.ops.flip(pixels, axis=-1), list(CAFFE_MEAN_BGR), 1.0, name)


SCALES: Mapping[str, Callable[[Any, str], Any]] = {
    "none": _none,
    "unit": _unit,
    "symmetric": _symmetric,
    "imagenet": _imagenet,
    "caffe": _caffe,
}
"""The values of `scale`, except "auto", which the first layer decides."""


def apply_scale(pixels: Any, scale: str | Standardize, name: str) -> Any:
    """Scaled pixels; pixels: a symbolic (N, H, W, C) tensor, 0-255.  name: of the layer."""
    if isinstance(scale, Standardize):
        return standardize(pixels, scale.mean, scale.std, name)
    return SCALES[scale](pixels, name)


def standardize(pixels: Any, mean: float | list[float], std: float | list[float], name: str) -> Any:
    """(pixels - mean) / std, each a number or one for each channel; ValueError when their count is another."""
    for values in (mean, std):
        if isinstance(values, list) and len(values) != pixels.shape[-1]:
            raise ValueError(
                f"scale has {counted(len(values), 'value')}, the image {counted(pixels.shape[-1], 'channel')}"
            )
    means, stds = (value if isinstance(value, list) else [value] for value in (mean, std))
    if max(map(abs, means)) / min(stds) > FLOAT32_MAX:
        raise ValueError("mean / std is out of range for float32")
    if not isinstance(mean, list) and not isinstance(std, list):
        return keras.layers.Rescaling(1 / std, -mean / std, name=name)(pixels)
    channels = pixels.shape[-1]
    means = mean if isinstance(mean, list) else [mean] * channels
    stds = std if isinstance(std, list) else [std] * channels
    scale = [1 / value for value in stds]
    offset = [-m / s for m, s in zip(means, stds, strict=True)]
    return keras.layers.Rescaling(scale, offset, name=name)(pixels)
