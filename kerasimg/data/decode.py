"""The reference decoder: any image becomes the uint8 array that a spec's `image` section describes.

Every faster decoder, every export and every web page that reads images is tested against this one:

1. A file's format is given by its first bytes, not its name. The first frame of an animation and the first of several
   pages are used. `MAX_PIXELS` and the limit of scans are checked before anything is decoded.
2. The orientation in EXIF, or in XMP if EXIF has none, is applied. Colour profiles are ignored: values are as stored.
3. 16-bit grey (Pillow's modes I;16 and I) is divided by 257 and rounded; 16-bit colour keeps its high byte, as
   Pillow reads it. Floating point (mode F) counts from 0 to 255, like an array's. Values outside of that (of 0 to
   65535 in mode I) are refused, and so is floating point of 0 to 1, which would be black. Palette, 1-bit, CMYK
   (inverted, as Adobe writes it, or not), YCbCr, LAB and HSV become RGB by Pillow's conversion.
4. Transparent images (an alpha channel, or one transparent colour: tRNS) are blended with `background`:
   (c a + b (255 - a)) / 255, rounded, on the values as stored.
5. Resizing is always antialiased (except nearest) and uses Pillow's filters; `area` is its box filter. An image that
   already has the size is left as it is.
   stretch: to the size.
   crop: the largest centred box with the aspect ratio of the size (edges at fractions of a pixel), to the size.
   pad: to the largest whole number of pixels with the image's aspect ratio (at least 1), centred on the background; an
   odd remainder goes to the right and the bottom.
6. Grey: (19595 R + 38470 G + 7471 B + 32768) >> 16, Pillow's "L". RGB of a grey image: three equal channels.
7. Images of 4 to 16 channels: `bands.py`; their pad is 0.

A file that is empty, truncated, damaged, too large or not an image raises `BadImage`. There is no state: any number of
threads may decode, and Pillow runs them in parallel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import PIL.Image

from kerasimg.data.bands import read_bands
from kerasimg.data.image_files import RGB, BadImage, ImageInput, read_image

if TYPE_CHECKING:
    from kerasimg.spec.document import Image, Interpolation, ResizePolicy

Filter = PIL.Image.Resampling
Resize = Callable[[PIL.Image.Image, int, int, Filter, RGB], PIL.Image.Image]

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
        opened: as for `read_image`: called with a file's header, which it may refuse.

    Raises:
        BadImage: if it cannot be decoded.
    """
    if image.channels > 3:
        if opened is not None:
            raise BadImage("cannot be sent as a file: images of more than 3 channels are sent as tensors")
        bands = np.moveaxis(read_bands(img, image.channels, image.range), -1, 0)
        return np.concatenate([fit(PIL.Image.fromarray(np.ascontiguousarray(band)), image) for band in bands], axis=-1)
    return fit(read_image(img, cast(RGB, tuple(image.background)), opened), image)


def fit(img: PIL.Image.Image, image: Image) -> np.ndarray:
    """Resizes an RGB image, or one band, as the section says: uint8, (height, width, channels)."""
    height, width = image.size
    resize = RESIZE[image.resize]
    if image.crop_fraction < 1:
        resize = functools.partial(crop, fraction=image.crop_fraction)
    background = cast(RGB, tuple(image.background))
    return to_channels(resize(img, height, width, FILTERS[image.interpolation], background), image)


def to_channels(img: PIL.Image.Image, image: Image) -> np.ndarray:
    """The pixels of an RGB image in the section's number of channels, or of one band."""
    if img.mode == "L":
        return np.array(img)[..., np.newaxis]
    if image.channels == 1:
        return np.array(img.convert("L"))[..., np.newaxis]
    return np.array(img)


def stretch(image: PIL.Image.Image, height: int, width: int, resampling: Filter, background: RGB) -> PIL.Image.Image:
    """The whole image; its aspect ratio may change."""
    return image.resize((width, height), resampling)


def crop(
    image: PIL.Image.Image, height: int, width: int, resampling: Filter, background: RGB, fraction: float = 1.0
) -> PIL.Image.Image:
    """The centre of the image: what exceeds the aspect ratio is cut off, half on each side.

    fraction: of the sides of that box, which is taken about the centre.
    """
    box_width, box_height = float(image.width), float(image.height)
    if image.width * height > width * image.height:
        box_width = image.height * width / height
    else:
        box_height = image.width * height / width
    box_width, box_height = box_width * fraction, box_height * fraction
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    return image.resize((width, height), resampling, (left, top, left + box_width, top + box_height))


def pad(image: PIL.Image.Image, height: int, width: int, resampling: Filter, background: RGB) -> PIL.Image.Image:
    """The whole image with its aspect ratio, centred on the background."""
    inner_width, inner_height = width, height
    if image.width * height > width * image.height:
        inner_height = max(1, round(image.height * width / image.width))
    else:
        inner_width = max(1, round(image.width * height / image.height))
    padded = PIL.Image.new(image.mode, (width, height), background if image.mode == "RGB" else 0)
    inner = image.resize((inner_width, inner_height), resampling)
    padded.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return padded


RESIZE: dict[ResizePolicy, Resize] = {"stretch": stretch, "crop": crop, "pad": pad}
