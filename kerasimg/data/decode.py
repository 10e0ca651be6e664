"""The reference decoder: any image becomes the uint8 array that a spec's `image` section describes.

Every faster decoder, every export and every web page that reads images is tested against this one:

1. A file's format is given by its first bytes, not its name. The first frame of an animation and the first of several
   pages are used. `MAX_PIXELS` and the limit of scans are checked before anything is decoded. A file that would take
   much memory for its bytes (`image_memory_ratio`) is refused; a JPEG or JPEG 2000 is decoded at a half, a quarter or
   an eighth of its size instead.
2. The orientation in EXIF, or in XMP if EXIF has none, is applied. Colour profiles are ignored: values are as stored.
3. 16-bit grey (Pillow's modes I;16 and I) is divided by 257 and rounded; 16-bit colour keeps its high byte, as
   Pillow reads it. Floating point (mode F) counts from 0 to 255, like an array's. Values outside of that (of 0 to
   65535 in mode I) are refused, and so is floating point of 0 to 1, which would be black. Palette, 1-bit, CMYK
   (inverted, as Adobe writes it, or not), YCbCr, LAB and HSV become RGB by Pillow's conversion.
4. Transparent images (an alpha channel, or one transparent colour: tRNS) are blended with `background`:
   (c a + b (255 - a)) / 255, rounded, on the values as stored.
5. Resizing is always antialiased (except nearest) and uses Pillow's filters; `area` is its box filter. An image that
   already has the size is left as it is.
   The whole image is resized to whole pixels, as timm and torchvision do. The aim is size / crop_fraction, rounded
   down.
   stretch: to the aim.
   crop: one side to the aim, the other in the image's aspect ratio, rounded down, so that both are covered.
   pad: one side to the aim, the other in the image's aspect ratio, rounded (at least 1), so that both fit.
   Of what exceeds the size the centre is used, from round((resized - size) / 2) on; half is rounded to even. What is
   smaller is centred on the background; an odd remainder goes to the right and the bottom.
6. Grey: (19595 R + 38470 G + 7471 B + 32768) >> 16, Pillow's "L". RGB of a grey image: three equal channels.
7. Images of 4 to 16 channels: `bands.py`; their pad is 0.

A file that is empty, truncated, damaged, too large or not an image raises `BadImage`. There is no state: any number of
threads may decode, and Pillow runs them in parallel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import PIL.Image

from kerasimg.data.bands import read_bands
from kerasimg.data.image_files import RGB, BadImage, ImageInput, Pixels, read_pixels

if TYPE_CHECKING:
    from kerasimg.spec.document import Image, Interpolation, ResizePolicy

Filter = PIL.Image.Resampling
Source = PIL.Image.Image | Pixels

FILTERS: dict[Interpolation, Filter] = {
    "nearest": Filter.NEAREST,
    "bilinear": Filter.BILINEAR,
    "bicubic": Filter.BICUBIC,
    "lanczos": Filter.LANCZOS,
    "area": Filter.BOX,
}


def decode(img: ImageInput, image: Image, opened: Callable[[PIL.Image.Image], None] | None = None) -> np.ndarray:
    """Decodes and resizes an image as the spec's `image` section says: uint8, (height, width, channels), 0-255.

    Args:
        img: a path, the bytes of a file, or an array of 0-255, (H, W) or (H, W, C) with 1 or 3 channels.
        image: the spec's `image` section.
        opened: as for `read_pixels`: called with a file's header, which it may refuse.

    Raises:
        BadImage: if it cannot be decoded.
    """
    if image.channels > 3:
        if opened is not None:
            raise BadImage("cannot be sent as a file: images of more than 3 channels are sent as tensors")
        bands = np.moveaxis(read_bands(img, image.channels, image.range), -1, 0)
        return np.concatenate([fit(PIL.Image.fromarray(np.ascontiguousarray(band)), image) for band in bands], axis=-1)
    return fit(read_pixels(img, cast(RGB, tuple(image.background)), opened), image)


def fit(img: Source, image: Image) -> np.ndarray:
    """Resizes an RGB image, or one band, as the section says: uint8, (height, width, channels)."""
    height, width = image.size
    across, down = frame(image.resize, img.width, img.height, (height, width), image.resized)
    box = (across.start, down.start, across.end, down.end)
    if box == (0, 0, across.size, down.size) == (0, 0, img.width, img.height):  # has the size already
        pixels = img.rgb_array() if isinstance(img, Pixels) and image.channels == 3 else None
        if pixels is not None and pixels.shape[:2] == (height, width):
            return pixels
        sized = img if isinstance(img, PIL.Image.Image) else img.whole()
    else:
        sized = img.resize((across.size, down.size), FILTERS[image.interpolation], box)
    if (across.size, down.size) != (width, height):
        inner, background = sized, cast(RGB, tuple(image.background))
        sized = PIL.Image.new(inner.mode, (width, height), background if inner.mode == "RGB" else 0)
        sized.paste(inner, (across.before, down.before))
    return to_channels(sized, image)


def to_channels(img: PIL.Image.Image, image: Image) -> np.ndarray:
    """The pixels of an RGB image in the section's number of channels, or of one band."""
    if img.mode == "L":
        return np.array(img)[..., np.newaxis]
    if image.channels == 1:
        return np.array(img.convert("L"))[..., np.newaxis]
    return np.array(img)


class Axis(NamedTuple):
    """One direction of an image that becomes the model's input."""

    start: float
    """The part of the image that is used, in its own pixels, from `start` to `end`."""
    end: float
    size: int
    """Pixels that this part is resized to."""
    before: int
    """Pixels of background before it."""


@functools.lru_cache(maxsize=4096)
def frame(
    policy: ResizePolicy, width: int, height: int, size: tuple[int, int], aim: tuple[int, int]
) -> tuple[Axis, Axis]:
    """Which part of an image goes where: the columns, and the rows.

    Args:
        policy: the section's `resize`.
        width: of the image.
        height: of the image.
        size: (height, width) of the result.
        aim: (height, width) that the policy resizes to, the section's `resized`.
    """
    down, across = aim
    wide = width * down > across * height
    if policy == "crop":
        across, down = (width * down // height, down) if wide else (across, height * across // width)
    elif policy == "pad":
        across, down = (
            (across, max(1, round(height * across / width))) if wide else (max(1, round(width * down / height)), down)
        )
    return _axis(width, across, size[1]), _axis(height, down, size[0])


def _axis(length: int, resized: int, size: int) -> Axis:
    """The middle of an axis that is resized from `length` to `resized` pixels, of which `size` are used."""
    if resized <= size:
        return Axis(0.0, float(length), resized, (size - resized) // 2)
    first = round((resized - size) / 2)
    return Axis(first * length / resized, (first + size) * length / resized, size, 0)
