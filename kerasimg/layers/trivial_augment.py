"""TrivialAugment: one random operation for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import keras

from kerasimg.layers.one_change import OneChange, Strengths

WIDE: Final = Strengths(shear=0.99, translate_px=(32, 32), rotate=math.radians(135), blend=0.99, bits=6)


@keras.saving.register_keras_serializable(package="kerasimg")
class TrivialAugment(OneChange):
    """Change each image in one random way, as strongly as chance has it (Müller & Hutter 2021, arXiv:2103.10158).

    (N, H, W, C) or (H, W, C) -> the same shape. The fourteen ways are those of the paper's Wide setting: none, shear,
    translate, rotate, brightness, color, contrast, sharpness, posterize, solarize, auto-contrast, equalize.
    Nothing to tune, and so the first to try.
    fill_value: 0-255, of what comes in from outside.  value_range: [lowest, highest] value of a pixel.
    """

    argument_kinds: ClassVar[dict[str, str]] = {**OneChange.argument_kinds, "fill_value": "float[0,255]"}

    def __init__(
        self,
        fill_value: float = 0.0,
        value_range: Sequence[float] = (0.0, 255.0),
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(fill_value, value_range, seed, **kwargs)

    def _vary(self, pixels: Any) -> Any:
        count = self.backend.shape(pixels)[0]
        return self._change(pixels, self._draw(count), 2 * self._uniform(count) - 1, WIDE)

    def strengths(self, height: Any, width: Any) -> Strengths:
        """The strength of the changes at magnitude 1, for images of any size."""
        return WIDE
