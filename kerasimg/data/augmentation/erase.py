"""What is cut out of an image: RandomErasing and GridMask, each image by itself."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.draws import chance, threefry, uniform
from kerasimg.data.augmentation.operations import Operation

NOISE_ROUNDS = 12
"""Of the numbers that fill an erased box: noise, where half the work is enough."""


class Erasing(Operation):
    """Keras' RandomErasing: a box of its own for each image, filled with a colour, or with noise where it is None."""

    name = "RandomErasing"

    def __init__(self, layer: Any):
        self.layer = layer
        self.noise = layer.fill_value is None
        self.numbers = 10 if self.noise else 6

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Whether to; width, left, height and top as shares; and the key of the noise."""
        wide, high = (ops.sqrt(uniform(words[:, k], *self.layer.scale)) for k in (0, 1))
        left, top = (uniform(words[:, k]) * (1.0 - side) for k, side in ((2, wide), (3, high)))
        return chance(words[:, 4:], self.layer.factor), wide, left, high, top, words[:, 6:]

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image without the box."""
        chosen, wide, left, high, top, key = drawn
        image = ops.cast(image, "float32")
        height, width, channels = image.shape
        rows, columns = within(height, top, high), within(width, left, wide)
        if self.noise:
            # Only where it is seen: it is most of the work.
            shape = (height, width, channels)
            fill = BACKEND.switch(ops.cast(chosen, "int32"), [lambda: ops.zeros(shape), lambda: noise(key, shape)])
        else:
            fill = ops.clip(ops.convert_to_tensor(self.layer.fill_value, "float32"), 0.0, 255.0)
        return ops.where((rows[:, None] & columns & chosen)[..., None], fill, image)


def within(length: int, start: Any, part: Any) -> Any:
    """(length,) bool: which pixels of a side lie in a part of it, given by shares."""
    places = ops.arange(length, dtype="float32")
    # As Keras: pixels from the start on, up to before the end.
    first = start * length
    return (places >= first) & (places < first + part * length)


def noise(key: Any, shape: tuple[int, int, int]) -> Any:
    """255 times normal numbers, clipped to 0-255, as Keras fills: half of them black, a sixth full. key: (4,) words."""
    count = math.prod(shape)
    # A word makes two numbers of 16 bits, a block of four words eight.
    blocks = ops.cast(ops.arange(-(-count // 8), dtype="int32"), BACKEND.word)
    zero = ops.zeros((), BACKEND.word)
    known = uniform(key[0]) >= 0.0
    words = BACKEND.settled(known, lambda: threefry(ops.unstack(key), (blocks, zero, zero, zero), NOISE_ROUNDS))
    halves = [half for word in words for half in (ops.bitwise_and(word, 65535), ops.right_shift(word, 16))]
    # Not interleaved, which would take longer: which number goes to which pixel does not matter.
    (numbers,) = BACKEND.settled(known, lambda: [ops.concatenate(halves, axis=0)[:count]])
    even = (ops.cast(numbers, "float32") + 0.5) / 65536.0
    normal = math.sqrt(2) * ops.erfinv(2.0 * even - 1.0)
    return ops.reshape(ops.clip(255.0 * normal, 0.0, 255.0), shape)


class Grid(Operation):
    """kerasimg's GridMask."""

    name = "GridMask"
    numbers = 4

    def __init__(self, layer: Any):
        self.layer = layer

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Whether to; the cell as a share of the shorter side; how far it is shifted down and across, in cells."""
        chosen = uniform(words[:, 0]) < self.layer.rate
        return chosen, uniform(words[:, 1], *self.layer.cell), uniform(words[:, 2]), uniform(words[:, 3])

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image without the squares."""
        chosen, cell, down, across = drawn
        image = ops.cast(image, "float32")
        height, width, _ = image.shape
        side = ops.maximum(min(height, width) * cell, 2.0)
        rows, columns = (
            ops.mod(ops.arange(length, dtype="float32") + shift * side, side) < side * (1 - self.layer.ratio)
            for length, shift in ((height, down), (width, across))
        )
        masked = (rows[:, None] & columns & chosen)[..., None]
        return ops.where(masked, ops.convert_to_tensor(self.layer.fill_value, "float32"), image)
