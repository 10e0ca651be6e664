"""RandAugment, with random operations for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from kerasimg.layers.one_change import OneChange, Strengths


@keras.saving.register_keras_serializable(package="kerasimg")
class RandAugmentPerImage(OneChange):
    """Change each image in several random ways of one strength (RandAugment: Cubuk et al. 2020, arXiv:1909.13719).

    (N, H, W, C) or (H, W, C) -> the same shape. Unlike Keras' RandAugment, which makes one choice for a whole batch and
    computes all of the ways, each image has its own, and little else is computed.
    num_ops: how many ways, one after the other.  magnitude: in [0, 1]; 9 of the paper's 30 is 0.3.
    fill_value: 0-255, of what comes in from outside.  value_range: [lowest, highest] value of a pixel.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        **OneChange.argument_kinds,
        "fill_value": "float[0,255]",
        "num_ops": "int>0",
        "magnitude": "float[0,1]",
    }

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 0.3,
        fill_value: float = 0.0,
        value_range: Sequence[float] = (0.0, 255.0),
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(fill_value, value_range, seed, **kwargs)
        if num_ops < 1:
            raise ValueError(f"RandAugmentPerImage: num_ops must be 1 or more, got {num_ops}")
        if not 0 <= magnitude <= 1:
            raise ValueError(f"RandAugmentPerImage: magnitude must be in [0, 1], got {magnitude}")
        self.num_ops = num_ops
        self.magnitude = magnitude

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "num_ops": self.num_ops, "magnitude": self.magnitude}

    def _vary(self, pixels: Any) -> Any:
        count, height, width = self.backend.shape(pixels)[:3]
        numpy = self.backend.numpy
        strengths = self.strengths(*(self.backend.cast(side, "float32") for side in (height, width)))
        for _ in range(self.num_ops):
            magnitude = numpy.where(self._uniform(count) < 0.5, -self.magnitude, self.magnitude)
            pixels = self._change(pixels, self._draw(count), magnitude, strengths)
        return pixels

    def strengths(self, height: Any, width: Any) -> Strengths:
        """The strength of the changes at magnitude 1, for images of this size."""
        # 150 of 331 pixels, in the paper.
        across, down = width * (150 / 331), height * (150 / 331)
        return Strengths(shear=0.3, translate_px=(across, down), rotate=math.radians(30), blend=0.9, bits=4)
