"""Keras' geometric layers as moves (see warp.py): the matrices they draw, with their conventions.

Keras counts pixels from the centre of the top left one; its matrices lead from a place of the result to the place of
the image that is seen there. Layers one after the other are therefore followed back from the last to the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from keras import ops

from kerasimg.data.augmentation.draws import below, chance, uniform
from kerasimg.data.augmentation.operations import Operation
from kerasimg.data.augmentation.warp import Move, Outside, product, warp

Size = tuple[int, int]


class Geometric:
    """A geometric layer: what it draws, and the move that follows from it.

    numbers: random words an image.  size: height and width of its result.  interpolation: None where pixels only
    change places.  matrix: random words (N, numbers) -> (N, 9).
    """

    def __init__(
        self,
        numbers: int,
        size: Size,
        matrix: Callable[[Any], Any],
        *,
        outside: Outside | None = None,
        interpolation: str | None = None,
        projective: bool = False,
    ):
        self.numbers, self.size, self.matrix = numbers, size, matrix
        self.outside, self.interpolation, self.projective = outside, interpolation, projective


class Warp(Operation):
    """A run of geometric layers, in one interpolation."""

    costly = True

    size: Size

    def __init__(self, name: str, steps: Sequence[Geometric]):
        self.name, self.steps = name, steps
        self.numbers = sum(step.numbers for step in steps)
        self.size = steps[-1].size
        self.interpolation = next((step.interpolation for step in steps if step.interpolation), "nearest")
        self.moves = self._moves()

    def _moves(self) -> list[tuple[Outside | None, bool, list[int]]]:
        """The moves that are left when those that never lead outside are merged into the one before."""
        moves: list[tuple[Outside | None, bool, list[int]]] = []
        for number, step in enumerate(self.steps):
            if step.outside is None and moves:
                outside, projective, merged = moves[-1]
                moves[-1] = (outside, projective or step.projective, [*merged, number])
            else:
                moves.append((step.outside, step.projective, [number]))
        return moves

    def draw(self, words: Any) -> tuple[Any, ...]:
        """The matrix of each move, (N, 9)."""
        matrices, start = [], 0
        for step in self.steps:
            matrices.append(step.matrix(words[:, start : start + step.numbers]))
            start += step.numbers
        merged = []
        for _, _, (first, *others) in self.moves:
            matrix = matrices[first]
            for other in others:
                matrix = product(matrix, matrices[other])
            merged.append(matrix)
        return tuple(merged)

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image, moved."""
        moves = [
            Move(matrix, outside, projective)
            for matrix, (outside, projective, _) in zip(drawn, self.moves, strict=True)
        ]
        return warp(image, moves, self.size, self.interpolation)


class Flip(Operation):
    """Flips alone, which need no looking up of places."""

    def __init__(self, name: str, modes: Sequence[str]):
        self.name, self.modes, self.numbers = name, modes, len(modes)

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Whether to mirror columns, and rows: (N,) bool each."""
        flips = uniform(words) <= 0.5
        sides = []
        for side in ("horizontal", "vertical"):
            odd = [ops.cast(flips[:, k], "int32") for k, mode in enumerate(self.modes) if side in mode]
            sides.append(ops.equal(sum(odd) % 2, 1) if odd else None)
        return tuple(side for side in sides if side is not None)

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image, mirrored."""
        axes = [axis for axis, side in ((1, "horizontal"), (0, "vertical")) if any(side in mode for mode in self.modes)]
        for axis, flip in zip(axes, drawn, strict=True):
            image = ops.where(flip, ops.flip(image, [axis]), image)
        return image


def rows(*entries: Any) -> Any:
    """Matrices (N, 9) from nine entries, each (N,) or a number."""
    zeros = next(ops.zeros_like(entry) for entry in entries if not isinstance(entry, int | float))
    return ops.stack([entry + zeros for entry in entries], axis=-1)


def flip(layer: Any, size: Size) -> list[Geometric]:
    """RandomFlip: one coin for both sides."""
    height, width = size

    def matrix(words: Any) -> Any:
        flipped = uniform(words[:, 0]) <= 0.5
        across = flipped & ("horizontal" in layer.mode)
        down = flipped & ("vertical" in layer.mode)
        sign = [ops.where(side, -1.0, 1.0) for side in (across, down)]
        start = [ops.where(side, length - 1.0, 0.0) for side, length in ((across, width), (down, height))]
        return rows(sign[0], 0, start[0], 0, sign[1], start[1], 0, 0, 1)

    return [Geometric(1, size, matrix)]


def rotation(layer: Any, size: Size) -> list[Geometric]:
    """RandomRotation: the factor is a share of a full turn."""

    def matrix(words: Any) -> Any:
        low, high = layer.factor
        angle = uniform(words[:, 0], low * 2 * math.pi, high * 2 * math.pi)
        return turn(angle, size)

    return [_filled(layer, 1, size, matrix)]


def turn(angle: Any, size: Size) -> Any:
    """By angles in radians, (N,), about the middle."""
    y, x = ((length - 1) / 2 for length in size)
    cos, sin = ops.cos(angle), ops.sin(angle)
    return rows(cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos, 0, 0, 1)


def translation(layer: Any, size: Size) -> list[Geometric]:
    """RandomTranslation: factors are shares of the sides."""
    height, width = size

    def matrix(words: Any) -> Any:
        down = uniform(words[:, 0], layer.height_lower, layer.height_upper) * height
        across = uniform(words[:, 1], layer.width_lower, layer.width_upper) * width
        return rows(ops.ones_like(across), 0, -across, 0, 1, -down, 0, 0, 1)

    return [_filled(layer, 2, size, matrix)]


def zoom(layer: Any, size: Size) -> list[Geometric]:
    """RandomZoom: 1 + factor pixels of the image for each of the result; one number for both sides if no width."""

    def matrix(words: Any) -> Any:
        down = uniform(words[:, 0], 1.0 + layer.height_lower, 1.0 + layer.height_upper)
        across = down
        if layer.width_factor is not None:
            across = uniform(words[:, 1], 1.0 + layer.width_lower, 1.0 + layer.width_upper)
        y, x = ((length - 1) / 2 * (1.0 - scale) for length, scale in zip(size, (down, across), strict=True))
        return rows(across, 0, x, 0, down, y, 0, 0, 1)

    return [_filled(layer, 2, size, matrix)]


def shear(layer: Any, size: Size) -> list[Geometric]:
    """RandomShear: about the top left corner; one sign for both sides."""

    def matrix(words: Any) -> Any:
        sign = ops.where(uniform(words[:, 0]) > 0.5, -1.0, 1.0)
        down = uniform(words[:, 1], *layer.y_factor) * sign
        across = uniform(words[:, 2], *layer.x_factor) * sign
        return rows(ops.ones_like(sign), across, 0, down, 1, 0, 0, 0, 1)

    return [_filled(layer, 3, size, matrix)]


def perspective(layer: Any, size: Size) -> list[Geometric] | None:
    """RandomPerspective: each corner goes to a multiple of its place, by 1 - scale / 2 to 1 + scale / 2."""
    if min(size) < 2:
        return None

    def matrix(words: Any) -> Any:
        chosen = chance(words, layer.factor)
        factors = 1.0 + uniform(words[:, 2:], -0.5 * layer.scale, 0.5 * layer.scale)
        bottom, right = (length - 1.0 for length in size)
        # Top left, top right, bottom left, bottom right: x and y of each.
        starts = ops.convert_to_tensor([0, 0, right, 0, 0, bottom, right, bottom], "float32")
        back = from_corners(starts * factors, size)
        return ops.where(chosen[:, None], back, ops.convert_to_tensor([1, 0, 0, 0, 1, 0, 0, 0, 1], "float32"))

    outside = Outside("constant", layer.fill_value, size)
    return [Geometric(10, size, matrix, outside=outside, interpolation=layer.interpolation, projective=True)]


def from_corners(ends: Any, size: Size) -> Any:
    """From where the corners of an image went, (N, 8), to the matrices that lead back (Heckbert 1989, section 2.2.3).

    ends: x and y of the top left, top right, bottom left and bottom right corner.
    """
    x0, y0, x1, y1, x3, y3, x2, y2 = ops.unstack(ends, axis=-1)
    dx1, dy1, dx2, dy2 = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    size_of = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / size_of, (dx1 * sy - sx * dy1) / size_of
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    # The inverse up to a factor, and from the unit square to pixels.
    bottom, right = (length - 1.0 for length in size)
    inverse = [e - f * h, c * h - b, b * f - c * e, f * g - d, a - c * g, c * d - a * f, d * h - e * g, b * g - a * h]
    last = a * e - b * d
    scaled = [
        *(right * entry for entry in inverse[:3]),
        *(bottom * entry for entry in inverse[3:6]),
        *inverse[6:],
        last,
    ]
    return ops.stack([entry / last for entry in scaled], axis=-1)


def crop(layer: Any, size: Size) -> list[Geometric]:
    """RandomCrop: each image at a place of its own; what is too small is stretched, as Keras does."""
    height, width = size
    wanted = (layer.height, layer.width)
    if height > wanted[0] and width > wanted[1]:

        def matrix(words: Any) -> Any:
            top, left = (
                ops.cast(below(words[:, k], length - part + 1), "float32")
                for k, (length, part) in enumerate(zip(size, wanted, strict=True))
            )
            return rows(ops.ones_like(left), 0, left, 0, 1, top, 0, 0, 1)

        return [Geometric(2, wanted, matrix)]
    tall = max(min(height, int(width * wanted[0] / wanted[1])), 1)
    wide = max(min(width, int(height * wanted[1] / wanted[0])), 1)
    top, left = int((height - tall) / 2), int((width - wide) / 2)
    seen = (min(height - top, wanted[0]), min(width - left, wanted[1]))
    placed = Geometric(0, seen, lambda words: _fixed(words, 1, 0, left, 0, 1, top, 0, 0, 1))
    return [placed] if seen == wanted else [placed, scaling(seen, wanted)]


def scaling(size: Size, wanted: Size) -> Geometric:
    """To another size, bilinear, from pixel area to pixel area, without antialiasing."""
    down, across = (length / new for length, new in zip(size, wanted, strict=True))
    matrix = (across, 0, across / 2 - 0.5, 0, down, down / 2 - 0.5, 0, 0, 1)
    outside = Outside("nearest", 0.0, size)
    return Geometric(0, wanted, lambda words: _fixed(words, *matrix), outside=outside, interpolation="bilinear")


def centre_crop(layer: Any, size: Size) -> list[Geometric] | None:
    """CenterCrop of what is large enough."""
    top, left = size[0] - layer.height, size[1] - layer.width
    if top < 0 or left < 0:
        return None
    entries = (1, 0, left // 2, 0, 1, top // 2, 0, 0, 1)
    return [Geometric(0, (layer.height, layer.width), lambda words: _fixed(words, *entries))]


def resizing(layer: Any, size: Size) -> list[Geometric] | None:
    """Resizing, bilinear and plain."""
    special = layer.antialias or layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio
    return None if special or layer.interpolation != "bilinear" else [scaling(size, (layer.height, layer.width))]


def _filled(layer: Any, numbers: int, size: Size, matrix: Callable[[Any], Any]) -> Geometric:
    outside = Outside(layer.fill_mode, layer.fill_value, size)
    return Geometric(numbers, size, matrix, outside=outside, interpolation=layer.interpolation)


def _fixed(words: Any, *entries: float) -> Any:
    return ops.tile(ops.convert_to_tensor([entries], "float32"), (ops.shape(words)[0], 1))


GEOMETRIC: Final[dict[str, Callable[[Any, Size], list[Geometric] | None]]] = {
    "RandomFlip": flip,
    "AlternatingFlip": flip,
    "RandomRotation": rotation,
    "RandomTranslation": translation,
    "RandomZoom": zoom,
    "RandomShear": shear,
    "RandomPerspective": perspective,
    "RandomCrop": crop,
    "CenterCrop": centre_crop,
    "Resizing": resizing,
}
"""A layer and the size of what it gets -> its steps; None where it cannot be followed back place by place."""
