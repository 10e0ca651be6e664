"""GridMask: squares of a grid are cut out of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from kerasimg.layers.augmentation import PerImage


@keras.saving.register_keras_serializable(package="kerasimg")
class GridMask(PerImage):
    """Cut a grid of squares out of each image, of its own width and place (Chen et al. 2020, arXiv:2001.04086).

    (N, H, W, C) or (H, W, C) -> the same shape.
    rate: share of the images, in [0, 1].
    ratio: share of a cell's side that stays visible, in (0, 1); 0.6 cuts out 0.16 of the area.
    cell: [least, most] side of a cell as shares of the image's shorter side, above 0; 96 to 224 of 224 in the paper.
    fill_value: 0-255.  value_range: [lowest, highest] value of a pixel.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        **PerImage.argument_kinds,
        "rate": "float[0,1]",
        "ratio": "float(0,1)",
        "cell": "[2 float>0]",
        "fill_value": "float[0,255]",
    }

    def __init__(
        self,
        rate: float = 0.8,
        ratio: float = 0.6,
        cell: Sequence[float] = (0.43, 1.0),
        fill_value: float = 0.0,
        value_range: Sequence[float] = (0.0, 255.0),
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(value_range=value_range, seed=seed, **kwargs)
        if not 0 <= rate <= 1:
            raise ValueError(f"GridMask: rate must be in [0, 1], got {rate}")
        if not 0 < ratio < 1:
            raise ValueError(f"GridMask: ratio must be in (0, 1), got {ratio}")
        if len(cell) != 2 or not 0 < cell[0] <= cell[1]:
            raise ValueError(f"GridMask: cell must be [least, most], both above 0, got {cell}")
        self.rate = rate
        self.ratio = ratio
        self.cell = tuple(cell)
        self.fill_value = fill_value

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = ("rate", "ratio", "cell", "fill_value")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _vary(self, pixels: Any) -> Any:
        numpy = self.backend.numpy
        count, height, width = self.backend.shape(pixels)[:3]
        shorter = self.backend.cast(numpy.minimum(height, width), "float32")
        least, most = self.cell
        side = numpy.maximum(shorter * (least + (most - least) * self._uniform(count)), 2.0)[:, None]
        cut = side * (1 - self.ratio)
        rows, columns = (
            numpy.mod(numpy.arange(length, dtype="float32")[None] + self._uniform(count, 1) * side, side) < cut
            for length in (height, width)
        )
        chosen = self._uniform(count, 1, 1) < self.rate
        masked = rows[:, :, None] & columns[:, None, :] & chosen
        return numpy.where(masked[..., None], self.fill_value, pixels)
