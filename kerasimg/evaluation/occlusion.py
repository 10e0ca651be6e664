"""Occlusion: which parts of an image a prediction needs. It uses probabilities alone, from any runtime.

Nothing here imports Keras: a server explains by it what an exported model says.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kerasimg.errors import CallError

Probabilities = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, C) float32 of 0-255 -> (N, K), with a column for each class: any model, in any form."""

OCCLUDED_BYTES = 2**25
"""Of the images that occlusion asks for at once: 55 of 224 x 224."""


def occlusion(
    probabilities: Probabilities,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Occlusion (Zeiler, Fergus 2013, arXiv:1311.2901): the drop of the probability under a grey square.

    probabilities: any function from images to probabilities; no gradient is asked for.
    window: side of the square in pixels; None: a fifth of the shorter side.  stride: None: half of the window.
    The square has the image's mean colour. A pixel gets the mean of the squares that covered it.
    """
    height, width = images.shape[1:3]
    window = max(1, round(min(height, width) / 5)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    require("window", window, 1)
    require("stride", stride, 1)
    places = [(top, left) for top in _starts(height, window, stride) for left in _starts(width, window, stride)]
    whole = probabilities(images)[np.arange(len(images)), targets]
    colours = images.mean(axis=(1, 2))
    falls = np.zeros(images.shape[:3], dtype=np.float32)
    covered = np.zeros((height, width), dtype=np.float32)
    for top, left in places:
        covered[top : top + window, left : left + window] += 1
    every = [(number, place) for number in range(len(images)) for place in places]
    at_once = max(1, OCCLUDED_BYTES // images[0].nbytes)
    for first in range(0, len(every), at_once):
        some = every[first : first + at_once]
        hidden = images[[number for number, _ in some]]
        for each, (number, (top, left)) in zip(hidden, some, strict=True):
            each[top : top + window, left : left + window] = colours[number]
        for row, (number, (top, left)) in zip(probabilities(hidden), some, strict=True):
            falls[number, top : top + window, left : left + window] += whole[number] - row[targets[number]]
    return falls / np.maximum(covered, 1)


def require(name: str, value: int, least: int) -> None:
    """CallError for an option that is too small."""
    if value < least:
        raise CallError(f"{name}: expected {least} or more, got {value}")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where squares begin so that they cover a side: the last one ends where the side ends."""
    last = max(0, length - window)
    return [*range(0, last, stride), last]
