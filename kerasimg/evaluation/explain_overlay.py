"""A map of 0 to 1 over the image that it explains, as the network sees it and at the image's own aspect."""

from __future__ import annotations

import numpy as np
import PIL.Image

from kerasimg.data.decode import frame
from kerasimg.spec.document import Image

OPACITY = 0.75
"""Of the colours where the map is 1."""

HIGHEST = 99.5
"""Percentile of a map that counts as 1: a few pixels that stand out would leave the rest dark."""

_COLOURS = ((0.0, (43, 12, 98)), (0.35, (164, 30, 100)), (0.7, (240, 96, 30)), (1.0, (252, 222, 80)))
"""Dark violet over red to yellow: its lightness rises with the value, so that it reads without colour too."""


def as_shares(values: np.ndarray) -> np.ndarray:
    """Evidence for a class, scaled: negative values become 0, the 99.5th percentile and above 1."""
    positive = np.maximum(np.nan_to_num(values), 0).astype(np.float32)
    highest = np.percentile(positive, HIGHEST) or positive.max()
    return np.minimum(positive / highest, 1) if highest > 0 else positive


def overlay(image: PIL.Image.Image, values: np.ndarray, opacity: float = OPACITY) -> PIL.Image.Image:
    """The image in grey, and over it the map in colours that are the more opaque the higher it is.

    values: (H, W) of the image's size, 0-1.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., np.newaxis].repeat(3, axis=-1)
    shown = np.clip(values, 0, 1)
    places, colours = [place for place, _ in _COLOURS], np.array([colour for _, colour in _COLOURS])
    heat = np.stack([np.interp(shown, places, colours[:, channel]) for channel in range(3)], axis=-1)
    # The square root: half of the evidence must be seen well, and what has none leaves the image as it is.
    share = (opacity * np.sqrt(shown))[..., np.newaxis]
    return PIL.Image.fromarray((grey * (1 - share) + heat * share + 0.5).astype(np.uint8))


def on_original(values: np.ndarray, image: Image, width: int, height: int) -> np.ndarray:
    """A map of what the network sees, (H, W), laid back onto the image it was made from, (height, width).

    image: how the image became what the network sees. What was cut off has 0; what `pad` added is left out.
    """
    across, down = frame(image.resize, width, height, (image.size[0], image.size[1]), image.resized)
    part = values[down.before : down.before + down.size, across.before : across.before + across.size]
    left, top, right, bottom = (round(edge) for edge in (across.start, down.start, across.end, down.end))
    laid = np.zeros((height, width), dtype=np.float32)
    laid[top:bottom, left:right] = _sized(part, right - left, bottom - top)
    return laid


def _sized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    image = PIL.Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((max(1, width), max(1, height)), PIL.Image.Resampling.BILINEAR))
