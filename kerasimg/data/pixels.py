"""Checks arrays of pixels: the type, shape and range of values that images must have.

Every entry point that takes arrays (predict, explain, train, evaluate, search, the server, exported bundles) uses these
checks, so that arrays mean the same everywhere: numbers of 0 to 255, channels last, one channel (grey) or three (RGB).

- Values below 0 or above 255, NaN and infinity are refused.
- 0 to 1 is refused for every type (floats, integers, booleans): on a scale of 0 to 255 it would be black.
- Fractions below `DARK` are refused for the same reason (reflectance of 0 to 1.2, say). An image that is really so
  dark can be passed as uint8.
- Four channels are refused: a fourth may be alpha or near-infrared, and an array does not say which. Pass an image
  with alpha as a PIL image of mode RGBA.
- Images of 4 to 16 channels need `image.channels` in the spec; `image.range` says what their values mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasimg.errors import counted

CHANNELS = (1, 3)
"""Sizes of the last dimension of grey and coloured images."""
BANDS = range(4, 17)
"""Those of images whose channels are no colours."""
DARK = 16.0
"""An array of fractions below this is assumed to have another scale."""
FOUR = (
    "has 4 channels, and an array does not say what the fourth is; if it is alpha, pass PIL.Image.fromarray(image), "
    "otherwise leave it out: image[..., :3], or set image.channels to 4"
)
"""Why four channels are refused."""


def to_array(value: Any) -> np.ndarray:
    """Converts an array, a tensor of TensorFlow, JAX or PyTorch, or nested lists of numbers to NumPy.

    Raises:
        ValueError: if it cannot be converted; the message says why.
    """
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # PyTorch, perhaps on a GPU
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def type_fault(pixels: np.ndarray) -> str | None:
    """What is wrong with the type of an array; None if it is valid."""
    if pixels.dtype.kind in "buif":
        return None
    kind = "Python objects" if pixels.dtype.kind == "O" else str(pixels.dtype)
    return f"holds {kind}; expected numbers of 0 to 255 (uint8)"


def channels_fault(channels: int, shape: tuple[int, ...], expected: int = 3) -> str | None:
    """What is wrong with the number of channels; None if it is valid.  expected: `image.channels`."""
    if channels == expected or (channels in CHANNELS and expected in CHANNELS):
        return None
    if expected > 3:
        return f"expected {counted(expected, 'channel')} (image.channels) at the end of the shape, got {shape}"
    if channels == 4:
        return FOUR
    axes = {3: "1, 2, 0", 4: "0, 2, 3, 1"}
    first = shape[len(shape) - 3]
    turn = f"; move the channels to the end: images.transpose({axes[len(shape)]})" if first in (1, 3, 4) else ""
    if not turn and channels in BANDS:
        turn = f"; for images of {counted(channels, 'channel')} set image.channels to {channels}"
    return f"expected 1 or 3 channels at the end of the shape, got {shape}{turn}"


def value_fault(pixels: np.ndarray) -> str | None:
    """What is wrong with the values of an image or a batch; None if they are valid."""
    if not pixels.size:
        return None
    low, high = float(pixels.min()), float(pixels.max())
    got = f"expected values of 0 to 255, got {low:g} to {high:g}"
    if not (low >= 0 and high <= 255):  # NaN is refused too
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
