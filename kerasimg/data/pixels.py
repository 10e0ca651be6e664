"""The guard for arrays of pixels: what type, shape and range of values an array must have to be taken for images.

Every entry point that takes arrays (predict, explain, train, evaluate, search, the server, exported bundles) asks
here, so that an array means the same everywhere: numbers of 0 to 255, channels last, one channel (grey) or three (RGB).

- Values below 0 or above 255, NaN and infinity are refused.
- 0 to 1 is refused, whatever the type (floats, integers, booleans): of 0 to 255 it would be black.
- Fractions that stay below `DARK` are refused for the same reason (reflectance of 0 to 1.2, say). An image that is
  truly so dark can be given as uint8.
- Four channels are refused: a fourth may be alpha or near-infrared, and nothing in an array says which. An image
  with alpha is given as a PIL image of mode RGBA.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CHANNELS = (1, 3)
"""Numbers of channels that an array may have at the end of its shape."""
DARK = 16.0
"""Fractions of 0 to 255 that stay below this are taken for values on another scale."""
FOUR = (
    "has 4 channels, and an array does not say what the fourth is; if it is alpha, pass PIL.Image.fromarray(image), "
    "otherwise leave it out: image[..., :3]"
)
"""Why four channels are refused."""


def to_array(value: Any) -> np.ndarray:
    """A NumPy array of an array, a tensor of TensorFlow, JAX or PyTorch, or nested lists of numbers.

    Raises:
        ValueError: if it cannot be made one; the message says why.
    """
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # PyTorch, perhaps on a GPU
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def type_fault(pixels: np.ndarray) -> str | None:
    """What is wrong with the type of an array; None if nothing is."""
    if pixels.dtype.kind in "buif":
        return None
    kind = "Python objects" if pixels.dtype.kind == "O" else str(pixels.dtype)
    return f"holds {kind}; expected numbers of 0 to 255 (uint8)"


def channels_fault(channels: int, shape: tuple[int, ...]) -> str | None:
    """What is wrong with the last dimension of images with channels; None if nothing is."""
    if channels in CHANNELS:
        return None
    if channels == 4:
        return FOUR
    axes = {3: "1, 2, 0", 4: "0, 2, 3, 1"}
    first = shape[len(shape) - 3]
    turn = f"; move the channels to the end: images.transpose({axes[len(shape)]})" if first in (1, 3, 4) else ""
    return f"expected 1 or 3 channels at the end of the shape, got {shape}{turn}"


def value_fault(pixels: np.ndarray) -> str | None:
    """What is wrong with the values of an array of numbers, as one image or as a batch; None if nothing is."""
    if not pixels.size:
        return None
    low, high = float(pixels.min()), float(pixels.max())
    got = f"expected values of 0 to 255, got {low:g} to {high:g}"
    if not (low >= 0 and high <= 255):  # written so that NaN is refused, too
        return got + _advice(low, high, pixels.dtype)
    if 0 < high <= 1:
        return f"{got}; multiply by 255 what was scaled to 0 to 1"
    if pixels.dtype.kind == "f" and 0 < high < DARK and not np.array_equal(pixels, np.rint(pixels)):
        return f"{got}, which would be nearly black; scale them to 0 to 255, or pass uint8 if they are so dark"
    return None


def _advice(low: float, high: float, dtype: np.dtype) -> str:
    if np.isnan(low) or np.isnan(high):
        return "; replace NaN: numpy.nan_to_num(images)"
    if low >= 0 and np.isfinite(high) and dtype.kind in "ui" and high <= 65535:
        return "; divide 16-bit values by 257"
    if low >= -16 and high <= 16:
        return "; pass the pixels as they are, the model scales them itself"
    return "; scale them to 0 to 255"
