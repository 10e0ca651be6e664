"""MixUp and CutMix: each image and its label with those of another one of the batch."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.draws import beta, uniform
from kerasimg.data.augmentation.erase import within
from kerasimg.data.augmentation.operations import Operation


class Blend(Operation):
    """The base of both. What they draw begins with a number that says who is whose partner.

    The partners are a permutation of the batch, all equally likely, as in Keras; an image may be its own.
    """

    def partners(self, words: Any, count: Any) -> Any:
        """(N,) int32, of the first `count` images; the others are padding."""
        order = uniform(words[:, 0])
        # As in a stable sort, on every backend, equal numbers keep their order.
        return ops.argsort(ops.where(ops.arange(ops.shape(order)[0]) < count, order, 2.0))

    def share(self, drawn: tuple[Any, ...], size: tuple[int, int]) -> Any:
        """How much of each label stays, (N,).  size: height and width of the images."""
        raise NotImplementedError

    def blend(self, image: Any, other: Any, drawn: tuple[Any, ...]) -> Any:
        """One image with another, both (H, W, C)."""
        raise NotImplementedError

    def labels(self, labels: Any, size: tuple[int, int], partners: Any, drawn: tuple[Any, ...]) -> Any:
        """Labels (N, K) with those of the partners.  size: height and width of the images."""
        labels, share = ops.convert_to_tensor(labels), self.share(drawn, size)[:, None]
        return share * labels + (1.0 - share) * BACKEND.lookup(labels, partners)


class MixUp(Blend):
    """Keras' MixUp (Zhang et al. 2018, arXiv:1710.09412)."""

    name = "MixUp"
    numbers = 4

    def __init__(self, layer: Any):
        self.alpha = layer.alpha

    def draw(self, words: Any) -> tuple[Any, ...]:
        """How much of each image stays."""
        return (beta(words[:, 1:], self.alpha),)

    def share(self, drawn: tuple[Any, ...], size: tuple[int, int]) -> Any:
        """As much of the label as of the image."""
        return drawn[0]

    def blend(self, image: Any, other: Any, drawn: tuple[Any, ...]) -> Any:
        """The weighted mean."""
        return drawn[0] * image + (1.0 - drawn[0]) * other


class CutMix(Blend):
    """Keras' CutMix (Yun et al. 2019, arXiv:1905.04899), the parameter of its distribution drawn for each image."""

    name = "CutMix"
    numbers = 7

    def __init__(self, layer: Any):
        self.factor = layer.factor

    def draw(self, words: Any) -> tuple[Any, ...]:
        """The side of the box, its left and its top, as shares."""
        alpha = uniform(words[:, 1], *self.factor) + 1e-6
        side = ops.sqrt(1.0 - beta(words[:, 2:5], alpha))
        left, top = (uniform(words[:, k]) * (1.0 - side) for k in (5, 6))
        return side, left, top

    def share(self, drawn: tuple[Any, ...], size: tuple[int, int]) -> Any:
        """The part of the pixels outside of the box: not the area drawn, which the pixels only come near."""
        side, left, top = (drawn_number[:, None] for drawn_number in drawn)
        rows, columns = (within(length, start, side) for length, start in zip(size, (top, left), strict=True))
        counts = (ops.sum(ops.cast(inside, "float32"), axis=1) for inside in (rows, columns))
        return 1.0 - math.prod(counts) / math.prod(size)

    def blend(self, image: Any, other: Any, drawn: tuple[Any, ...]) -> Any:
        """The other one in the box."""
        side, left, top = drawn
        height, width, _ = image.shape
        box = within(height, top, side)[:, None] & within(width, left, side)
        return ops.where(box[..., None], other, image)
