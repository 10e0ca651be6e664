"""Any number of moves of an image in one interpolation.

A move sends each place of its result, in pixels from the centre of the top left one, to a place of the image it
came from, by a matrix, and says what is outside that image. Several moves are followed back one after the other
for each place of the last result, outsides included, and only where that ends is the image looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from kerasimg.data.augmentation.backend import BACKEND


class Outside(NamedTuple):
    """What is outside an image, as Keras and TensorFlow's ImageProjectiveTransformV3 have it."""

    mode: str
    """constant, nearest, reflect or wrap."""
    value: float
    """Of the pixels outside, where the mode is constant."""
    size: tuple[int, int]
    """Height and width of the image."""


class Move(NamedTuple):
    """One step back from a result to what it was made of."""

    matrix: Any
    """(9,), rows of 3x3: (x, y, 1) of the result -> the place in the image before, homogeneous."""
    outside: Outside | None
    """None: it never leads outside."""
    projective: bool
    """Whether the last row is other than (0, 0, 1)."""


def product(first: Any, second: Any) -> Any:
    """(..., 9) x (..., 9) -> (..., 9): the matrix that does the second, then the first."""
    a, b = (ops.unstack(matrix, axis=-1) for matrix in (first, second))
    places = [(row, column) for row in range(3) for column in range(3)]
    return ops.stack([sum(a[3 * row + k] * b[3 * k + column] for k in range(3)) for row, column in places], axis=-1)


def warp(image: Any, moves: Sequence[Move], size: tuple[int, int], interpolation: str) -> Any:
    """An image after its moves: (H, W, C) of any type -> (*size, C) float32.

    moves: from the image to the result.  interpolation: bilinear or nearest.
    """
    # Never false, not even of what is no number.
    known = ops.logical_not(moves[0].matrix[0] > 3e38)
    x, y, *weights = BACKEND.settled(known, lambda: _followed(moves, size, interpolation))
    pixels = Pixels(image)
    parts = SAMPLE[interpolation](pixels, x, y)
    if weights:
        share, filled = (pixels.for_each(weight) for weight in weights)
        parts = [part * share + filled for part in parts]
    return ops.reshape(ops.stack(parts, axis=-1), (*size, image.shape[2]))


def _followed(moves: Sequence[Move], size: tuple[int, int], interpolation: str) -> list[Any]:
    """Where the pixels of the result come from: columns and rows, (P,) float32, one row of the result after the other.

    And, where something is filled, the share of the image in each pixel, and what is added to that.
    """
    # In one row: XLA would work out row and column of each pixel again wherever it looks something up.
    number = ops.arange(size[0] * size[1], dtype="int32")
    row = number // size[1]
    x, y = ops.cast(number - row * size[1], "float32"), ops.cast(row, "float32")
    share, filled = None, None
    for move in reversed(moves):
        x, y = _back(x, y, move)
        if move.outside is None:
            continue
        if move.outside.mode != "constant":
            height, width = move.outside.size
            x, y = FOLDS[move.outside.mode](x, width), FOLDS[move.outside.mode](y, height)
            continue
        inside, x, y = _inside(x, y, move.outside.size, interpolation)
        outer = move.outside.value * (1.0 - inside if share is None else share * (1.0 - inside))
        share = inside if share is None else share * inside
        filled = outer if filled is None else filled + outer
    return [x, y] if share is None else [x, y, share, filled]


class Pixels:
    """The pixels of an image, (H, W, C), to be looked up at places in it.

    Up to three channels of bytes are one number, which is looked up once, and parts of the result on their own. Other
    pixels stay together.
    """

    def __init__(self, image: Any):
        self.height, self.width, self.channels = image.shape
        self.packed = keras.backend.standardize_dtype(image.dtype) == "uint8" and self.channels <= 3
        if self.packed:
            scales = ops.convert_to_tensor([1, 256, 65536][: self.channels], "int32")
            image = ops.sum(ops.cast(image, "int32") * scales, axis=-1, keepdims=True)
        self.table = ops.reshape(image, (self.height * self.width, -1))

    def at(self, places: Sequence[Any]) -> list[list[Any]]:
        """For several (P,) int32, row * width + column each: the pixel there, of each part, as with `for_each`."""
        if not self.packed:
            return [[ops.cast(BACKEND.lookup(self.table, place), "float32") for place in places]]
        found = [BACKEND.lookup(self.table[:, 0], place) for place in places]
        return [[_byte(packed, channel) for packed in found] for channel in range(self.channels)]

    def for_each(self, values: Any) -> Any:
        """(P,) as it goes with a part: the same, or (P, 1)."""
        return values if self.packed else values[:, None]


def _byte(packed: Any, number: int) -> Any:
    return ops.cast(ops.bitwise_and(ops.right_shift(packed, 8 * number), 255), "float32")


def _back(x: Any, y: Any, move: Move) -> tuple[Any, Any]:
    m = ops.unstack(move.matrix)
    across, down = m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]
    if not move.projective:
        return across, down
    depth = m[6] * x + m[7] * y + m[8]
    # Places at infinity are outside.
    far = ops.equal(depth, 0.0)
    depth = ops.where(far, 1.0, depth)
    return ops.where(far, -1e6, across / depth), ops.where(far, -1e6, down / depth)


def _inside(x: Any, y: Any, size: tuple[int, int], interpolation: str) -> tuple[Any, Any, Any]:
    """How much of the pixel at a place belongs to the image, 0 to 1, and the nearest place in it."""
    shares = []
    for place, length in ((x, size[1]), (y, size[0])):
        if interpolation == "nearest":
            shares.append(ops.cast((place > -0.5) & (place < length - 0.5), "float32"))
        else:
            shares.append(ops.clip(1.0 + ops.minimum(place, length - 1.0 - place), 0.0, 1.0))
    return shares[0] * shares[1], _nearest(x, size[1]), _nearest(y, size[0])


def _nearest(place: Any, length: int) -> Any:
    """aaa|abcd|ddd."""
    return ops.clip(place, 0.0, length - 1.0)


def _reflect(place: Any, length: int) -> Any:
    """dcba|abcd|dcba."""
    place -= 2 * length * ops.floor(place * (1 / (2 * length)))
    return _nearest(ops.where(place >= length, 2 * length - 1 - place, place), length)


def _wrap(place: Any, length: int) -> Any:
    """abcd|abcd|abcd, and the last pixel where the first begins, as TensorFlow counts."""
    if length == 1:
        return ops.zeros_like(place)
    before = place + length * (ops.floor(-place / (length - 1)) + 1)
    after = place - length * ops.floor(place / (length - 1))
    return _nearest(ops.where(place < 0, before, ops.where(place > length - 1, after, place)), length)


def _bilinear(pixels: Pixels, x: Any, y: Any) -> list[Any]:
    width, height = pixels.width, pixels.height
    x, y = _nearest(x, width), _nearest(y, height)
    left, top = ops.floor(x), ops.floor(y)
    across, down = pixels.for_each(x - left), pixels.for_each(y - top)
    column, row = ops.cast(left, "int32"), ops.cast(top, "int32")
    next_column, next_row = ops.minimum(column + 1, width - 1), ops.minimum(row + 1, height - 1)
    corners = ((row, column), (row, next_column), (next_row, column), (next_row, next_column))
    mixed = []
    for at in pixels.at([r * width + c for r, c in corners]):
        upper = at[0] + across * (at[1] - at[0])
        lower = at[2] + across * (at[3] - at[2])
        mixed.append(upper + down * (lower - upper))
    return mixed


def _closest(pixels: Pixels, x: Any, y: Any) -> list[Any]:
    width, height = pixels.width, pixels.height
    # Half a pixel away counts as the next one.
    column, row = (ops.cast(ops.floor(place + 0.5), "int32") for place in (_nearest(x, width), _nearest(y, height)))
    return [at for (at,) in pixels.at([ops.minimum(row, height - 1) * width + ops.minimum(column, width - 1)])]


FOLDS = {"nearest": _nearest, "reflect": _reflect, "wrap": _wrap}
"""From any place along a side to one inside, (place, length of the side)."""

SAMPLE = {"bilinear": _bilinear, "nearest": _closest}
"""The pixels of an image at places inside it."""
