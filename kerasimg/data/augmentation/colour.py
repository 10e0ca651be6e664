"""Keras' photometric layers, image by image, on pixels of 0-255: what they draw and what they do.

The distributions are Keras', oddities included: a single factor of RandomContrast only ever raises the contrast, one of
RandomSaturation makes half of the images gray, one of RandomPosterization never reaches its own number of bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Final

from keras import ops

from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.draws import below, chance, uniform
from kerasimg.data.augmentation.operations import Operation

GRAY: Final = (0.2989, 0.587, 0.114)
EPSILON: Final = 1e-7
"""Keras'."""
LARGEST_BLUR: Final = 31
"""Pixels of a blur's side up to which it is computed here, one shift after the other."""


class Colour(Operation):
    """A photometric layer.

    draw: random words (N, numbers) -> rows.  change: (pixels, *rows of one image) -> pixels.
    """

    def __init__(
        self,
        name: str,
        numbers: int,
        draw: Callable[[Any], tuple[Any, ...]],
        change: Callable[..., Any],
        alone: bool = True,
    ):
        self.name, self.numbers, self.alone = name, numbers, alone
        self._draw, self._change = draw, change

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Its factors."""
        return self._draw(words)

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image in other colours."""
        return self._change(ops.cast(image, "float32"), *drawn)


def clipped(pixels: Any) -> Any:
    """Within 0-255."""
    return ops.clip(pixels, 0.0, 255.0)


def gray(pixels: Any) -> Any:
    """(..., C) -> (..., 1); of one channel, itself."""
    if pixels.shape[-1] == 1:
        return pixels
    # Channel by channel: XLA is slow where it sums over an axis of three.
    red, green, blue = ops.unstack(pixels, axis=-1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[..., None]


def brighter(pixels: Any, delta: Any) -> Any:
    """delta: added, in 1/255."""
    return clipped(pixels + delta * 255.0)


def contrasted(pixels: Any, factor: Any) -> Any:
    """factor: of the distance from the mean of the channel."""
    mean = ops.mean(pixels, axis=(0, 1), keepdims=True)
    return clipped((pixels - mean) * factor + mean)


def saturated(pixels: Any, factor: Any) -> Any:
    """factor: of the saturation; as in Keras, not clipped: what leaves 0-255 stays so until a later layer clips."""
    channels = ops.unstack(pixels, axis=-1)
    value, least = (reduce(of, channels) for of in (ops.maximum, ops.minimum))
    # Keras limits saturation to 255, where 1 would be meant.
    limit = 255.0 * value / ops.maximum(value - least, EPSILON)
    factor = ops.maximum(0.0, ops.minimum(factor, limit))
    value, factor = BACKEND.settled(channels[0][0, 0] < 3e38, lambda: [value, factor])
    return value[..., None] - (value[..., None] - pixels) * factor[..., None]


def hue_turned(pixels: Any, part: Any) -> Any:
    """part: of the circle of colours, in [-1, 1]."""
    red, green, blue = ops.unstack(pixels, axis=-1)
    value = ops.maximum(ops.maximum(red, green), blue)
    spread = value - ops.minimum(ops.minimum(red, green), blue)
    step = 1.0 / ops.maximum(spread, EPSILON)
    of_green, of_blue = step * (blue - red) + 2.0, step * (red - green) + 4.0
    hue = ops.where(ops.equal(value, red), step * (green - blue), ops.where(ops.equal(value, green), of_green, of_blue))
    hue, value, spread = BACKEND.settled(part >= -1.0, lambda: [hue + 6.0 * part, value, spread])
    place = ops.convert_to_tensor([5.0, 3.0, 1.0], "float32") + hue[..., None]
    place -= 6.0 * ops.floor(place * (1.0 / 6.0))
    share = ops.clip(ops.minimum(place, 4.0 - place), 0.0, 1.0)
    return clipped(value[..., None] - spread[..., None] * share)


def grayed(pixels: Any, chosen: Any) -> Any:
    """chosen: whether to."""
    return ops.where(chosen, gray(pixels), pixels)


def inverted(pixels: Any, chosen: Any) -> Any:
    """chosen: whether to."""
    return ops.where(chosen, 255.0 - pixels, pixels)


def posterized(pixels: Any, bits: Any) -> Any:
    """bits: int32, how many of 8 stay."""
    step = ops.cast(ops.left_shift(ops.ones_like(bits), 8 - bits), "float32")
    return ops.floor(clipped(pixels) / step) * step


def solarized(pixels: Any, addition: Any, threshold: Any) -> Any:
    """addition: first added.  threshold: from which on pixels are inverted."""
    pixels = clipped(pixels + addition)
    return ops.where(pixels < threshold, pixels, 255.0 - pixels)


def auto_contrasted(pixels: Any) -> Any:
    """Each channel stretched to 0-255; a channel of one value stays."""
    low = ops.min(pixels, axis=(0, 1), keepdims=True)
    spread = ops.max(pixels, axis=(0, 1), keepdims=True) - low
    scale = 255.0 / ops.where(spread > 0, spread, 1.0)
    return ops.where(spread > 0, clipped(pixels * scale - low * scale), pixels)


def faded(pixels: Any, factor: Any) -> Any:
    """factor: share of gray."""
    return clipped(pixels + factor * (gray(pixels) - pixels))


def sharpened(pixels: Any, factor: Any) -> Any:
    """factor: 0 blurs by 3x3, 1 changes nothing, 2 sharpens; outside is black."""
    height, width, _ = pixels.shape
    padded = ops.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    tall = padded[:height] + padded[1 : height + 1] + padded[2:]
    around = tall[:, :width] + tall[:, 1 : width + 1] + tall[:, 2:]
    return clipped(pixels + (1.0 - factor) * ((around + 4.0 * pixels) / 13.0 - pixels))


def equalized(pixels: Any) -> Any:
    """All values equally frequent in each channel, as Keras' Equalization with 256 bins."""
    height, width, channels = pixels.shape
    values = ops.cast(clipped(pixels), "int32")
    keys = ops.reshape(values + 256 * ops.arange(channels, dtype="int32"), (-1,))
    counts = ops.segment_sum(ops.ones_like(keys), keys, 256 * channels)
    counts = ops.reshape(counts, (channels, 256))
    up_to = ops.cumsum(counts, axis=1)
    total = height * width
    least = ops.min(ops.where(up_to > 0, up_to, total), axis=1, keepdims=True)
    spread = ops.cast(ops.maximum(total - least, 1), "float32")
    table = ops.clip(ops.round(ops.cast((up_to - least) * 255, "float32") / spread), 0.0, 255.0)
    single = ops.equal(ops.max(counts, axis=1), total)
    found = ops.reshape(BACKEND.lookup(ops.reshape(table, (-1,)), keys), pixels.shape)
    return ops.where(single, pixels, found)


def blurred(pixels: Any, chosen: Any, across: Any, down: Any, size: int) -> Any:
    """chosen: whether to.  across, down: standard deviations, in pixels.  size: of the kernel's side, odd."""
    places = ops.arange(size, dtype="float32") - (size - 1) / 2
    result = pixels
    for axis, sigma in ((0, down), (1, across)):
        weights = ops.exp(-0.5 * ops.square(places / sigma))
        weights = ops.unstack(weights / ops.sum(weights))
        length = pixels.shape[axis]
        sides = [[0, 0], [0, 0], [0, 0]]
        sides[axis] = [size // 2, size // 2]
        padded = ops.pad(result, sides)
        parts = (padded[k : k + length] if axis == 0 else padded[:, k : k + length] for k in range(size))
        result = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return clipped(ops.where(chosen, result, pixels))


def _one(name: str, change: Callable[..., Any], bounds: Sequence[float], alone: bool = True) -> Colour:
    """One number, evenly spread."""
    return Colour(name, 1, lambda words: (uniform(words[:, 0], *bounds),), change, alone)


def _brightness(layer: Any) -> list[Colour]:
    return [_one("RandomBrightness", brighter, layer.factor, alone=False)]


def _contrast(layer: Any) -> list[Colour]:
    low, high = layer.factor
    return [_one("RandomContrast", contrasted, (1.0 - low, 1.0 + high))]


def _saturation(layer: Any) -> list[Colour]:
    def draw(words: Any) -> tuple[Any, ...]:
        factor = uniform(words[:, 0], *layer.factor)
        return (factor / (1.0 - factor + EPSILON),)

    return [Colour("RandomSaturation", 1, draw, saturated)]


def _hue(layer: Any) -> list[Colour]:
    def draw(words: Any) -> tuple[Any, ...]:
        sign = ops.where(uniform(words[:, 0]) > 0.5, -1.0, 1.0)
        return (sign * uniform(words[:, 1], *layer.factor) * 0.5,)

    return [Colour("RandomHue", 2, draw, hue_turned)]


def _jitter(layer: Any) -> list[Colour]:
    parts = (
        (layer.random_brightness, _brightness),
        (layer.random_contrast, _contrast),
        (layer.random_saturation, _saturation),
        (layer.random_hue, _hue),
    )
    return [colour for part, make in parts if part is not None for colour in make(part)]


def _grayscale(layer: Any) -> list[Colour]:
    return [Colour("RandomGrayscale", 1, lambda words: (uniform(words[:, 0]) < layer.factor,), grayed)]


def _invert(layer: Any) -> list[Colour]:
    return [Colour("RandomInvert", 2, lambda words: (chance(words, layer.factor),), inverted, alone=False)]


def _posterization(layer: Any) -> list[Colour]:
    low, high = (int(bits) for bits in layer.factor)

    def draw(words: Any) -> tuple[Any, ...]:
        return (low + below(words[:, 0], max(high - low, 1)),)

    return [Colour("RandomPosterization", 1, draw, posterized, alone=False)]


def _solarization(layer: Any) -> list[Colour]:
    def draw(words: Any) -> tuple[Any, ...]:
        # Keras scales the upper ends only.
        (add_low, add_high), (low, high) = layer.addition_factor, layer.threshold_factor
        return uniform(words[:, 0], add_low, add_high * 255), uniform(words[:, 1], low, high * 255)

    return [Colour("Solarization", 2, draw, solarized, alone=False)]


def _auto_contrast(layer: Any) -> list[Colour]:
    return [Colour("AutoContrast", 0, lambda words: (), auto_contrasted)]


def _degeneration(layer: Any) -> list[Colour]:
    return [_one("RandomColorDegeneration", faded, layer.factor)]


def _sharpness(layer: Any) -> list[Colour]:
    low, high = layer.factor
    return [Colour("RandomSharpness", 1, lambda w: (uniform(w[:, 0], 2 * low, 2 * high),), sharpened)]


def _equalization(layer: Any) -> list[Colour] | None:
    if layer.bins != 256:
        return None
    return [Colour("Equalization", 0, lambda words: (), equalized)]


def _blur(layer: Any) -> list[Colour] | None:
    size = layer.kernel_size[0]
    if layer.kernel_size[1] != size or size > LARGEST_BLUR:
        return None

    def draw(words: Any) -> tuple[Any, ...]:
        return chance(words, layer.factor), *(uniform(words[:, k], *layer.sigma) + 1e-6 for k in (2, 3))

    return [Colour("RandomGaussianBlur", 4, draw, partial(blurred, size=size))]


PHOTOMETRIC: Final[dict[str, Callable[[Any], list[Colour] | None]]] = {
    "RandomBrightness": _brightness,
    "RandomContrast": _contrast,
    "RandomSaturation": _saturation,
    "RandomHue": _hue,
    "RandomColorJitter": _jitter,
    "RandomGrayscale": _grayscale,
    "RandomInvert": _invert,
    "RandomPosterization": _posterization,
    "Solarization": _solarization,
    "AutoContrast": _auto_contrast,
    "RandomColorDegeneration": _degeneration,
    "RandomSharpness": _sharpness,
    "Equalization": _equalization,
    "RandomGaussianBlur": _blur,
}
"""A layer -> its operations; None where they are left to Keras."""

COLOURED: Final = ("RandomSaturation", "RandomHue")
"""Of three channels only, in Keras too."""
