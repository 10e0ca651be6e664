"""The fourteen operations of TrivialAugment and RandAugment, one for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from kerasimg.layers.augmentation import PerImage

CHANGES: Final = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
GEOMETRY: Final = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
GRAY: Final = (0.299, 0.587, 0.114)


class Strengths(NamedTuple):
    """The strength of each change at magnitude 1."""

    shear: float
    """Columns a row, or rows a column."""
    translate_px: tuple[float, float]
    """Of columns and of rows."""
    rotate: float
    """Radians."""
    blend: float
    """Of brightness, color, contrast and sharpness: how far their factor is from 1."""
    bits: int
    """Bits that posterize removes, of 8."""


class OneChange(PerImage):
    """The base of layers that change each image in one of fourteen ways."""

    def __init__(
        self,
        fill_value: float = 0.0,
        value_range: Sequence[float] = (0.0, 255.0),
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(value_range=value_range, seed=seed, **kwargs)
        self.fill_value = fill_value

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "fill_value": self.fill_value}

    def _draw(self, count: Any) -> Any:
        """A change for each of N images, (N,) int32."""
        numbers = self.backend.numpy.floor(self._uniform(count) * len(CHANGES))
        # Rounding may reach the end of the range.
        return self.backend.numpy.minimum(self.backend.cast(numbers, "int32"), len(CHANGES) - 1)

    def _change(self, pixels: Any, change: Any, magnitude: Any, strengths: Strengths) -> Any:
        """Change each image.

        pixels: (N, H, W, C) of 0-255.  change: (N,) int32, indices of CHANGES.  magnitude: (N,) in [-1, 1]; where a
        sign makes no sense, it is not looked at.
        """
        is_ = {name: change == index for index, name in enumerate(CHANGES)}
        geometric = is_["shear_x"]
        for name in GEOMETRY:
            geometric = geometric | is_[name]
        matrices = self.matrices(pixels, is_, magnitude, strengths)
        pixels = self._only(geometric, pixels, self._warped, matrices)
        factor = 1 + magnitude * strengths.blend
        pixels = self._only(is_["sharpness"], pixels, self.sharpened, factor)
        pixels = self._only(is_["equalize"], pixels, self.equalized)
        pixels = self.recoloured(pixels, is_, factor)
        return self.cut(pixels, is_, self.backend.numpy.abs(magnitude), strengths)

    def matrices(self, pixels: Any, is_: dict[str, Any], magnitude: Any, strengths: Strengths) -> Any:
        """(N, 8): from each place of the result to that of the image it shows, about the middle."""
        numpy = self.backend.numpy
        height, width = (self.backend.cast(side, "float32") for side in self.backend.shape(pixels)[1:3])
        of = {name: self.backend.cast(is_[name], "float32") * magnitude for name in GEOMETRY}
        angle = of["rotate"] * strengths.rotate
        cos, sin = numpy.cos(angle), numpy.sin(angle)
        a, b = cos, of["shear_x"] * strengths.shear - sin
        c, d = of["shear_y"] * strengths.shear + sin, cos
        x, y = (width - 1) / 2, (height - 1) / 2
        across, down = strengths.translate_px
        right = x - a * x - b * y + of["translate_x"] * across
        below = y - c * x - d * y + of["translate_y"] * down
        return numpy.stack([a, b, right, c, d, below, numpy.zeros_like(a), numpy.zeros_like(a)], axis=1)

    def _warped(self, pixels: Any, matrices: Any) -> Any:
        return self.backend.image.affine_transform(
            pixels,
            matrices,
            interpolation="bilinear",
            fill_mode="constant",
            fill_value=self.fill_value,
            data_format="channels_last",
        )

    def sharpened(self, pixels: Any, factor: Any) -> Any:
        """Blend with a 3x3 blur; the border has none, as in Pillow."""
        rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
        box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
        inner = pixels[:, 1:-1, 1:-1]
        softer = self.backend.numpy.pad((box + 4 * inner) / 13 - inner, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return self._clipped(pixels + (1 - self._column(factor)) * softer)

    def equalized(self, pixels: Any) -> Any:
        """Spread the values of each channel so that all are as frequent, as Pillow does."""
        numpy, channels = self.backend.numpy, pixels.shape[-1]
        shape = self.backend.shape(pixels)
        values = self.backend.cast(numpy.round(self._clipped(pixels)), "int32")
        planes = numpy.reshape(numpy.arange(shape[0] * channels, dtype="int32"), (-1, 1, 1, channels))
        keys = numpy.reshape(values + 256 * planes, (-1,))
        ones = numpy.ones_like(keys, dtype="float32")
        counts = self.backend.math.segment_sum(ones, keys, num_segments=shape[0] * channels * 256)
        counts = numpy.reshape(counts, (-1, 256))
        below = numpy.cumsum(counts, axis=1)
        # The largest value that occurs is left out of the sum.
        occurring = numpy.where(counts > 0, numpy.arange(256, dtype="int32"), 0)
        # There may be no image to equalize.
        largest = numpy.max(occurring, axis=1, keepdims=True, initial=0)
        last = numpy.take_along_axis(counts, largest, axis=1)
        step = numpy.floor((below[:, -1:] - last) / 255)
        spread = numpy.floor((below - counts + numpy.floor(step / 2)) / numpy.maximum(step, 1))
        lookup = numpy.where(step > 0, numpy.clip(spread, 0, 255), numpy.arange(256, dtype="float32"))
        return numpy.reshape(numpy.take(numpy.reshape(lookup, (-1,)), keys), shape)

    def recoloured(self, pixels: Any, is_: dict[str, Any], factor: Any) -> Any:
        """Brightness, color, contrast and auto_contrast in one pass: scale * pixels + share * gray + offset."""
        numpy = self.backend.numpy
        channels = pixels.shape[-1]
        weights = GRAY if channels == 3 else (1 / channels,) * channels
        # Channel by channel: XLA is slow where it sums over an axis of three.
        gray = sum(weight * pixels[..., k : k + 1] for k, weight in enumerate(weights))
        lowest = numpy.min(pixels, axis=(1, 2), keepdims=True)
        spread = numpy.max(pixels, axis=(1, 2), keepdims=True) - lowest
        stretch = numpy.where(spread > 0, 255 / numpy.maximum(spread, 1e-6), 1.0)
        auto, color, contrast = (self._column(is_[name]) for name in ("auto_contrast", "color", "contrast"))
        blends = self._column(is_["brightness"] | is_["color"] | is_["contrast"])
        factor = self._column(factor)
        scale = numpy.where(auto, stretch, numpy.where(blends, factor, 1.0))
        offset = numpy.where(contrast, (1 - factor) * numpy.mean(gray, axis=(1, 2), keepdims=True), 0.0)
        offset = numpy.where(auto & (spread > 0), -lowest * stretch, offset)
        return self._clipped(pixels * scale + gray * numpy.where(color, 1 - factor, 0.0) + offset)

    def cut(self, pixels: Any, is_: dict[str, Any], magnitude: Any, strengths: Strengths) -> Any:
        """Posterize and solarize."""
        numpy = self.backend.numpy
        step = self._column(2.0 ** numpy.round(magnitude * strengths.bits))
        pixels = numpy.where(self._column(is_["posterize"]), numpy.floor(pixels / step) * step, pixels)
        inverted = self._column(is_["solarize"]) & (pixels >= self._column(255 * (1 - magnitude)))
        return numpy.where(inverted, 255 - pixels, pixels)

    def _column(self, values: Any) -> Any:
        """(N,) -> (N, 1, 1, 1)."""
        return self.backend.numpy.reshape(values, (-1, 1, 1, 1))

    def _clipped(self, pixels: Any) -> Any:
        return self.backend.numpy.clip(pixels, 0.0, 255.0)
