"""Reads any image as 8-bit RGB, upright and opaque; `decode.py` lists the rules."""

from __future__ import annotations

import functools
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO

import numpy as np
import PIL.ExifTags
import PIL.Image

from kerasimg.data import jpeg, tiff
from kerasimg.data.pixels import FOUR, value_fault
from kerasimg.errors import KerasimgError

MAX_PIXELS = 178_956_970
"""Largest number of pixels that is decoded; Pillow's own default."""

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO", "JPEG2000"),
    *("PPM", "QOI", "ICO", "DIB", "PCX", "TGA", "HEIF"),
)
"""Formats that are read; not those for which Pillow starts another program (EPS)."""

JPEGS = ("JPEG", "MPO")
"""Formats that are decoded as JPEG."""

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".qoi", ".ico", ".pcx", ".tga"),
    )
)
"""Lower-case extensions of image files; HEIC is included so that it is reported, not ignored."""

TRANSPOSED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that turns the image upright."""

SIDEWAYS = frozenset(TRANSPOSED[orientation] for orientation in (5, 6, 7, 8))
"""Transpositions that swap width and height."""

BEGINNINGS = (
    (rb"\s*<(!doctype html|html|head|body)", "is not an image (it begins like an HTML page)"),
    (rb"\s*(<\?xml|<svg)", "is not an image (it begins like an XML or SVG document)"),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "is not an image (it begins like a JSON document)"),
    (rb"%PDF", "is not an image (it begins like a PDF document)"),
    (rb"PK\x03\x04", "is not an image (it begins like a ZIP archive)"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the image: run `git lfs pull`"),
    (
        rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]",
        "is truncated or damaged within its header",
    ),
)
"""First bytes of an unrecognised file -> what is wrong with it; the first match counts."""
HEIC = rb"....ftyp(heic|heix|hevc|hevx|mif1|msf1)"
"""First bytes of a HEIC image, as phones write it; the extra `heic` reads it."""

SAVE_IN_8_BITS = "save it with 8 bits, or scaled to 0 to 65535"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF."""

UNLIKELY = 0xA5
"""A value that a whole row of an image rarely has in all channels, unlike 0 and 255."""

RGB = tuple[int, int, int]
ImageInput = str | os.PathLike[str] | bytes | np.ndarray


class BadImage(KerasimgError, ValueError):
    """An image cannot be read; `reason` says why and follows the image's name: "is truncated"."""

    exit_code = 3

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class TooCostly(BadImage):
    """An image takes far more time to decode than its size suggests."""


def read_image(
    image: ImageInput,
    background: RGB = (255, 255, 255),
    opened: Callable[[PIL.Image.Image], None] | None = None,
) -> PIL.Image.Image:
    """Reads an image in mode RGB, upright, at its own size, blended with the background if it is transparent.

    Args:
        image: a path, the bytes of a file, or an array of 0-255, (H, W) or (H, W, C) with 1 or 3 channels.
        background: the colour behind transparent pixels.
        opened: called after the header is read and the size is checked, before the pixels are decoded. It may record
            what the header says, or ask for fewer pixels (`draft`).

    Raises:
        BadImage: if it cannot be read.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, background)
    if isinstance(image, bytes):
        return _from_file(io.BytesIO(image), background, opened)
    with open_image(image) as file:
        return _from_file(file, background, opened)


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens the file of an image; BadImage says why it cannot be read."""
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):  # opening a named pipe would wait forever
            raise BadImage("is a folder" if stat.S_ISDIR(kind) else "is not a file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        link = os.path.islink(path)
        raise BadImage("is a link to a file that does not exist" if link else "does not exist") from None
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror or error})") from error


def _from_array(array: np.ndarray, background: RGB) -> PIL.Image.Image:
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if values.ndim == 3 and values.shape[2] == 4:
        raise BadImage(FOUR)
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] == 3):
        raise BadImage(f"has the shape {array.shape}; expected (height, width), or 1 or 3 channels after them")
    if not values.size:
        raise BadImage("has no pixels")
    return _opaque(PIL.Image.fromarray(_to_bytes(values, 255)), background)


def to_plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """A PIL image upright and of 8 bits, in mode L, RGB, or RGBA where it is transparent.

    Raises:
        BadImage: if it cannot be loaded, or its values are out of range.
    """
    _check_size(image.width * image.height)
    tags = tiff.tags_of(image)
    if tags and (reason := tiff.fault(tags)):
        raise BadImage(reason)
    with _named_faults(b""):
        file = getattr(image, "fp", None)  # of one that is not loaded yet
        whole = image if file is None else _loaded(image, file)
        whole.load()
        upright = turn_of(image)
        plain = _in_8_bits(whole)
        if plain.has_transparency_data:
            plain = plain.convert("RGBA")
        else:
            plain = plain.convert("L" if plain.mode in ("1", "L") else "RGB")
        return plain if upright is None else plain.transpose(upright)


def _from_file(
    file: IO[bytes], background: RGB, look: Callable[[PIL.Image.Image], None] | None = None
) -> PIL.Image.Image:
    mute_pillow()
    head = file.read(512)
    file.seek(0)
    if not head:
        raise BadImage("is empty")
    tags = tiff.read_tags(file) if head.startswith(TIFF) else None
    if tags and (reason := tiff.fault(tags)):
        raise BadImage(reason)
    with _named_faults(head, tags), PIL.Image.open(file, formats=formats()) as opened:
        _check_size(opened.width * opened.height)
        if look is not None:
            look(opened)
        whole = _loaded(opened, file)
        upright = turn_of(opened)
        flat = _opaque(_in_8_bits(whole), background)
        return flat if upright is None else flat.transpose(upright)


def _loaded(opened: PIL.Image.Image, file: IO[bytes]) -> PIL.Image.Image:
    """Load the pixels; BadImage if a part of the data is missing, which Pillow fills silently."""
    if opened.format in JPEGS:
        content = read_jpeg(file)
        try:
            if (pixels := jpeg.decode_whole(content, opened)) is not None:
                return pixels
        except ValueError as error:
            raise BadImage(str(error)) from error
    is_deep_colour = is_deep(opened)
    unfilled = _fill(opened) if opened.format == "PNG" else None
    opened.load()
    if unfilled is not None and _last_row(opened) == unfilled and not _has_all_rows(file, opened.height):
        raise BadImage("is damaged: it has fewer rows than its header says")
    if is_deep_colour and opened.mode in ("RGB", "RGBA") and not np.asarray(opened)[..., :3].any():
        raise BadImage(f"holds 16-bit colour of 0 to 255 at most, which would be black; {SAVE_IN_8_BITS}")
    return opened


def read_jpeg(file: IO[bytes]) -> bytes:
    """The content of a JPEG; TooCostly where it has more scans than are decoded."""
    file.seek(0)
    content = file.getvalue() if isinstance(file, io.BytesIO) else file.read()
    if reason := jpeg.scans_fault(content):
        raise TooCostly(reason)
    return content


def is_deep(opened: PIL.Image.Image) -> bool:
    """Whether a colour file, not loaded yet, has 16 bits per channel, of which Pillow returns the upper eight."""
    if (tags := tiff.tags_of(opened)) is not None:
        return max(tags.get(tiff.BITS, (8,))) == 16
    tiles = getattr(opened, "tile", None) or [""]
    return opened.format == "PNG" and ";16" in str(tiles[0])


def _fill(opened: PIL.Image.Image) -> bytes:
    """Fill the memory that Pillow will decode into with `UNLIKELY`; returns the last row as it is before decoding.

    Pillow leaves rows that the data does not reach as they were. Only a file whose last row comes out as it was before
    needs the slow check: that its data really ends there.
    """
    blank = PIL.Image.new(opened.mode, opened.size, (UNLIKELY,) * len(opened.getbands()))
    opened.im = blank.im
    return _last_row(blank)


def _last_row(image: PIL.Image.Image) -> bytes:
    return image.crop((0, image.height - 1, *image.size)).tobytes()


def _has_all_rows(file: IO[bytes], height: int) -> bool:
    """Whether a PNG holds the data of all its rows; always true if it is interlaced."""
    file.seek(0)
    content = file.read()
    width, _, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    if interlaced:
        return True
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    expected = height * (1 + (width * depth * channels + 7) // 8)
    inflate, found, start = zlib.decompressobj(), 0, 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] == b"IDAT":
            found += len(inflate.decompress(content[start + 8 : start + 8 + length]))
        start += 12 + length
    return found >= expected


@contextmanager
def _named_faults(head: bytes, tags: tiff.Tags | None = None) -> Iterator[None]:
    """Turn errors of Pillow into BadImage.  head: the first bytes of the file.  tags: those of a TIFF."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except PIL.UnidentifiedImageError:
        raise BadImage(tiff.describe(tags) if tags else _resemblance(head)) from None
    except PIL.Image.DecompressionBombError as error:
        # Raised before the size is known; the message contains it.
        _check_size(max(map(int, re.findall(r"\d+", str(error))), default=0))
        raise BadImage(f"is too large ({error})") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, KeyError and others.
        raise BadImage(_damage(error)) from error


def _check_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise BadImage(f"has {pixels // 1_000_000:,} million pixels; the limit is {MAX_PIXELS // 1_000_000} million")


def _in_8_bits(opened: PIL.Image.Image) -> PIL.Image.Image:
    """Convert to a mode of at most 8 bits per channel."""
    transparent = opened.info.get("transparency")
    if opened.mode == "F":
        values = np.asarray(opened)
        if 0 < values.max() <= 1:
            raise BadImage("holds floating-point values from 0 to 1; 0 to 255 is expected")
        grey = PIL.Image.fromarray(_to_bytes(values, 255))
        if reason := value_fault(values):
            raise BadImage(f"holds floating point: {reason}")
        return grey
    if opened.mode == "L" and tiff.is_signed_byte(opened) and np.asarray(opened).max() > 127:
        raise BadImage("holds signed 8-bit values below 0; 0 to 255 is expected")
    if opened.mode == "I" or opened.mode.startswith("I;16"):
        values = tiff.rescale(opened, np.asarray(opened))
        low, high = int(values.min()), int(values.max())
        if low >= 0 and 0 < high <= 255:
            raise BadImage(f"holds 16-bit values from {low} to {high}, which would be black; {SAVE_IN_8_BITS}")
        grey = PIL.Image.fromarray(_to_bytes(values, 65535))
        if transparent is not None:
            grey.putalpha(PIL.Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey
    if opened.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        # Pillow returns the high bytes of 16-bit colour, except for the transparent colour.
        opened.info["transparency"] = tuple(value >> 8 for value in transparent)
    return opened.convert("LA") if opened.mode == "La" else opened


def _opaque(image: PIL.Image.Image, background: RGB) -> PIL.Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    flat = PIL.Image.new("RGB", layered.size, background)
    flat.paste(layered, mask=layered.getchannel("A"))
    return flat


def _to_bytes(values: np.ndarray, top: int) -> np.ndarray:
    """Scale numbers of 0 to `top` to uint8 of 0 to 255, rounded."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "buif":
        raise BadImage(f"holds {values.dtype}, not numbers")
    low, high = float(values.min()), float(values.max())
    if not (low >= -0.5 and high <= top + 0.5):  # NaN is refused too
        raise BadImage(f"holds values from {low:g} to {high:g}; 0 to {top} is expected")
    return np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)


def turn_of(opened: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """The transposition that turns an opened image upright, from EXIF or XMP; None if there is none."""
    try:
        return TRANSPOSED.get(opened.getexif().get(PIL.ExifTags.Base.Orientation, 1))
    except Exception:
        # An EXIF block that cannot be parsed is ignored; the pixels are valid without it.
        return None


def _resemblance(head: bytes) -> str:
    if re.match(HEIC, head, re.DOTALL):
        if "HEIF" in formats():
            return "is truncated or damaged within its header"
        return 'is a HEIC image, and its library is not installed: pip install "kerasimg[heic]", or convert it to JPEG'
    for beginning, reason in BEGINNINGS:
        if re.match(beginning, head, re.IGNORECASE | re.DOTALL):
            return reason
    return "is not an image of a known format"


def _damage(error: Exception) -> str:
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return "is truncated"
    return f"is damaged ({str(error).rstrip('.') or type(error).__name__})"


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that the installed libraries read; HEIF needs the extra `heic`."""
    PIL.Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def mute_pillow() -> None:
    """Ignore Pillow's warnings (large images, unusual metadata): real problems raise errors here.

    The filter is for the whole process: `warnings.catch_warnings` is not thread-safe.
    """
    pillow = re.compile(r"PIL\.")
    if not warnings.filters or warnings.filters[0][3] != pillow:
        warnings.filterwarnings("ignore", module=pillow.pattern)
