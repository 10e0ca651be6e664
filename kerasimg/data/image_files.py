"""Reads any image as 8-bit RGB, upright and opaque; `decode.py` lists the rules."""

from __future__ import annotations

import functools
import io
import math
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

from kerasimg.boundary import limit
from kerasimg.data import jpeg, tiff
from kerasimg.data.pixels import FOUR, value_fault
from kerasimg.data.truncation import is_cut
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
        rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|....ftypavi[fs]|\0\0\0\x0cjP  |\xff\x4f\xff\x51|"
        rb"qoif|\0\0\x01\0|P[1-7fF]\s|\n[\0\x02-\x05]\x01",
        "is truncated or damaged within its header",
    ),
)
"""First bytes of an unrecognised file -> what is wrong with it; the first match counts."""
HEIC = rb"....ftyp(heic|heix|hevc|hevx|mif1|msf1)"
"""First bytes of a HEIC image, as phones write it; the extra `heic` reads it."""
NO_HEIC = 'is a HEIC image, and its library is not installed: pip install "kerasimg[heic]", or convert it to JPEG'

SAVE_IN_8_BITS = "save it with 8 bits, or scaled to 0 to 65535"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column and row, steps between columns and rows."""
STRIP = 2**20
"""Pixels that become RGB and are resized at a time."""

BYTES_PER_PIXEL = {
    **dict.fromkeys(("1", "L", "P"), 1),
    **{"I;16": 6, "I;16B": 6, "I": 12, "F": 12},
    **{"JPEG": 6, "JPEG L": 2, "MPO": 6, "QOI": 7, "HEIF": 7, "AVIF": 7, "AVIF RGBA": 12},
    **{"WEBP": 6, "WEBP RGBA": 16, "JPEG2000": 20, "JPEG2000 L": 6, "JPEG2000 RGBA": 25},
}
"""Memory that decoding takes: of a format and mode, else of a format, else of a mode, else `OTHERS`.

Measured on images of 5000x5000, with the libraries' own buffers. AVIF takes 8.5, but then a small file of a phone's 12
million pixels would be refused."""
OTHERS = 4
SMALL_FILE = 10**6
"""Bytes of a file from which on `image_memory_ratio` counts."""
REDUCIBLE = ("JPEG", "MPO", "JPEG2000")
"""Formats that can be decoded at a fraction of their size."""

CUT = re.compile("truncated|EOF|not enough image data|end of file", re.IGNORECASE)
"""Errors of decoders about a file that ends too early."""

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


class Pixels:
    """A decoded image that becomes RGB, upright and opaque part by part.

    A decoder takes 1 to 4 bytes per pixel; RGB, transparency and rotation would take 4 to 12 more for the whole image.
    """

    mode = "RGB"

    def __init__(self, stored: PIL.Image.Image | np.ndarray, turn: PIL.Image.Transpose | None, background: RGB) -> None:
        """Takes the pixels as a file stores them.

        Args:
            stored: in at most 8 bits per channel; an array is (H, W) or (H, W, 3).
            turn: what turns it upright.
            background: the colour behind transparent pixels.
        """
        self._stored, self._turn, self._background = stored, turn, background
        self._columns, self._rows = stored.shape[1::-1] if isinstance(stored, np.ndarray) else stored.size
        self.width, self.height = (self._columns, self._rows)[:: -1 if turn in SIDEWAYS else 1]

    def whole(self) -> PIL.Image.Image:
        """The whole image in mode RGB."""
        return self.part(0, 0, self.width, self.height)

    def rgb_array(self) -> np.ndarray | None:
        """The whole image, (H, W, 3), if it is stored like that; otherwise None."""
        plain = isinstance(self._stored, np.ndarray) and self._stored.ndim == 3 and self._turn is None
        return np.array(self._stored) if plain else None

    def part(self, left: int, top: int, right: int, bottom: int) -> PIL.Image.Image:
        """A part of the upright image, in mode RGB."""
        across, down = self._columns, self._rows
        match self._turn:
            case None:
                box = (left, top, right, bottom)
            case PIL.Image.Transpose.FLIP_LEFT_RIGHT:
                box = (across - right, top, across - left, bottom)
            case PIL.Image.Transpose.ROTATE_180:
                box = (across - right, down - bottom, across - left, down - top)
            case PIL.Image.Transpose.FLIP_TOP_BOTTOM:
                box = (left, down - bottom, right, down - top)
            case PIL.Image.Transpose.TRANSPOSE:
                box = (top, left, bottom, right)
            case PIL.Image.Transpose.ROTATE_270:
                box = (top, down - right, bottom, down - left)
            case PIL.Image.Transpose.ROTATE_90:
                box = (across - bottom, left, across - top, right)
            case _:
                box = (across - bottom, down - right, across - top, down - left)
        part: PIL.Image.Image
        with _named_faults(b""):
            if isinstance(self._stored, np.ndarray):
                part = PIL.Image.fromarray(self._stored[box[1] : box[3], box[0] : box[2]])
            else:
                part = self._stored if box == (0, 0, across, down) else self._stored.crop(box)
            flat = _opaque(part, self._background)
            return flat if self._turn is None else flat.transpose(self._turn)

    def resize(
        self,
        size: tuple[int, int],
        resampling: PIL.Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> PIL.Image.Image:
        """Pillow's `resize` of the whole RGB image; beyond `STRIP` pixels, one direction is filtered in strips.

        The order is Pillow's: rows before columns, unless the height shrinks by more than twice what the width does.
        """
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        ratio = min((right - left) / size[0], (bottom - top) / size[1])
        if self.width * self.height <= STRIP or ratio < 2 or resampling == PIL.Image.Resampling.NEAREST:
            return self.whole().resize(size, resampling, box)
        if self.height - size[1] > 2 * (self.width - size[0]):
            first, last = _reach(left, right, size[0], self.width)
            flat = PIL.Image.new(self.mode, (last - first, size[1]))
            step = max(1, STRIP // self.height)
            for start in range(first, last, step):
                end = min(last, start + step)
                strip = self.part(start, 0, end, self.height)
                sized = strip.resize((end - start, size[1]), resampling, (0, top, end - start, bottom))
                flat.paste(sized, (start - first, 0))
            return flat.resize(size, resampling, (left - first, 0, right - first, size[1]))
        first, last = _reach(top, bottom, size[1], self.height)
        narrow = PIL.Image.new(self.mode, (size[0], last - first))
        step = max(1, STRIP // self.width)
        for start in range(first, last, step):
            end = min(last, start + step)
            strip = self.part(0, start, self.width, end)
            sized = strip.resize((size[0], end - start), resampling, (left, 0, right, end - start))
            narrow.paste(sized, (0, start - first))
        return narrow.resize(size, resampling, (0, top - first, size[0], bottom - first))


def _reach(low: float, high: float, size: int, length: int) -> tuple[int, int]:
    """The pixels, from the first to before the last, that a filter of up to 3 output pixels sees."""
    reach = 3 * math.ceil((high - low) / size) + 1
    return max(0, math.floor(low) - reach), min(length, math.ceil(high) + reach)


def read_image(
    image: ImageInput,
    background: RGB = (255, 255, 255),
    opened: Callable[[PIL.Image.Image], None] | None = None,
) -> PIL.Image.Image:
    """Reads an image in mode RGB, upright, at its own size, blended with the background if it is transparent.

    Args and errors are those of `read_pixels`, which takes less memory.
    """
    return read_pixels(image, background, opened).whole()


def read_pixels(
    image: ImageInput,
    background: RGB = (255, 255, 255),
    opened: Callable[[PIL.Image.Image], None] | None = None,
) -> Pixels:
    """Decodes an image.

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


def _from_array(array: np.ndarray, background: RGB) -> Pixels:
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if values.ndim == 3 and values.shape[2] == 4:
        raise BadImage(FOUR)
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] == 3):
        raise BadImage(f"has the shape {array.shape}; expected (height, width), or 1 or 3 channels after them")
    if not values.size:
        raise BadImage("has no pixels")
    return Pixels(_to_bytes(values, 255), None, background)


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
        whole = image if file is None else _loaded(image, file, image.size)
        if isinstance(whole, np.ndarray):
            whole = PIL.Image.fromarray(whole)
        whole.load()
        upright = turn_of(image)
        plain = _in_8_bits(whole)
        if plain.has_transparency_data:
            plain = plain.convert("RGBA")
        else:
            plain = plain.convert("L" if plain.mode in ("1", "L") else "RGB")
        return plain if upright is None else plain.transpose(upright)


def _from_file(file: IO[bytes], background: RGB, look: Callable[[PIL.Image.Image], None] | None = None) -> Pixels:
    mute_pillow()
    head = file.read(512)
    file.seek(0)
    if not head:
        raise BadImage("is empty")
    tags = tiff.read_tags(file) if head.startswith(tiff.BEGINNINGS) else None
    if tags and (reason := tiff.fault(tags)):
        raise BadImage(reason)
    with _named_faults(head, tags, file), PIL.Image.open(file, formats=formats()) as opened:
        size = opened.size
        _check_size(size[0] * size[1])
        if look is not None:
            look(opened)
        _bound_memory(opened, file)
        whole = _loaded(opened, file, size)
        return Pixels(whole if isinstance(whole, np.ndarray) else _in_8_bits(whole), turn_of(opened), background)


def read_sent(content: bytes) -> str:
    """Decodes an image that was sent by someone else, and returns its format.

    Raises:
        BadImage: if it cannot be read, or has more pixels than such an image may have.
    """
    kinds: list[str] = []

    def look(opened: PIL.Image.Image) -> None:
        kinds.append(opened.format or "")
        if (pixels := opened.width * opened.height) > (most := limit("image_pixels")):
            raise BadImage(f"has {pixels // 10**6:,} million pixels; the limit is {most // 10**6} million")

    read_pixels(content, opened=look)
    return kinds[0]


def memory_for(length: int) -> int:
    """The bytes of memory that decoding a file of this length may take."""
    return limit("image_memory_ratio") * length if length >= SMALL_FILE else limit("image_memory_bytes")


def _bound_memory(opened: PIL.Image.Image, file: IO[bytes]) -> None:
    """Have a file that would take much memory for its bytes decoded at a fraction of its size; else TooCostly."""
    position = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(position)
    most = memory_for(length)
    form, mode = opened.format or "", "RGBA" if opened.has_transparency_data else opened.mode
    keys = (f"{form} {mode}", form, opened.mode)
    each = next((BYTES_PER_PIXEL[key] for key in keys if key in BYTES_PER_PIXEL), OTHERS)
    # `draft` has changed the size already, `reduce` has not; before it is set, it is a method.
    done = 2**opened.reduce if isinstance(opened.reduce, int) else 1
    pixels = opened.width * opened.height // done**2
    scale = next((scale for scale in (1, 2, 4, 8) if each * pixels <= most * scale**2), 16)
    if scale == 1:
        return
    scale *= done
    if is_cut(file):
        raise BadImage("is truncated")
    even = all(math.ceil(side / scale) == (side + scale // 2) // scale for side in opened.size)
    if form not in REDUCIBLE or scale > 8 or (form == "JPEG2000" and not even):  # Pillow rounds, OpenJPEG rounds up
        raise TooCostly(
            f"has {opened.width} x {opened.height} pixels, which take {each * pixels // 1_000_000:,} MB to decode; "
            f"a file of {length:,} bytes may take {most // 1_000_000:,} MB"
        )
    if form == "JPEG2000":
        opened.reduce = scale.bit_length() - 1  # type: ignore[method-assign, assignment]
    else:
        opened.draft(None, (math.ceil(opened.width / scale), math.ceil(opened.height / scale)))


def _loaded(opened: PIL.Image.Image, file: IO[bytes], size: tuple[int, int]) -> PIL.Image.Image | np.ndarray:
    """Load the pixels; BadImage if a part of the data is missing, which Pillow fills silently.

    size: as the header says, before it was reduced.
    """
    pixels: np.ndarray | None = None
    if opened.format in JPEGS:
        content = read_jpeg(file, size)
        try:
            pixels = jpeg.decode_whole(content, opened, size)
        except ValueError as error:
            raise BadImage(str(error)) from error
    elif opened.format == "WEBP" and opened.mode == "RGB" and not getattr(opened, "is_animated", True):
        pixels = _by_opencv(file, opened.size)
    if pixels is not None:
        return pixels
    is_deep_colour = is_deep(opened)
    unfilled = _fill(opened, file) if opened.format == "PNG" else None
    opened.load()
    if unfilled is not None and _last_row_is(opened, unfilled) and not _has_all_rows(file):
        raise BadImage("is damaged: it has fewer rows than its header says")
    if is_deep_colour and opened.mode in ("RGB", "RGBA") and not np.asarray(opened)[..., :3].any():
        raise BadImage(f"holds 16-bit colour of 0 to 255 at most, which would be black; {SAVE_IN_8_BITS}")
    return opened


def read_jpeg(file: IO[bytes], size: tuple[int, int]) -> bytes:
    """The content of a JPEG of this size; TooCostly where it has more scans than are decoded."""
    file.seek(0)
    content = file.getvalue() if isinstance(file, io.BytesIO) else file.read()
    if reason := jpeg.scans_fault(content, size[0] * size[1]):
        raise TooCostly(reason)
    return content


def is_deep(opened: PIL.Image.Image) -> bool:
    """Whether a colour file, not loaded yet, has 16 bits per channel, of which Pillow returns the upper eight."""
    if (tags := tiff.tags_of(opened)) is not None:
        return max(tags.get(tiff.BITS, (8,))) == 16
    tiles = getattr(opened, "tile", None) or [""]
    return opened.format == "PNG" and ";16" in str(tiles[0])


def _by_opencv(file: IO[bytes], size: tuple[int, int]) -> np.ndarray | None:
    """The pixels of an opaque WebP; None if Pillow must read it, or say what is wrong.

    Both use libwebp; Pillow decodes every file as an animation, which takes twice the time and four times the memory.
    """
    try:
        import cv2
    except ImportError:  # in the container of a server
        return None
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    with suppress(cv2.error):
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None and pixels.shape[1::-1] == size:
            return np.asarray(pixels)
    return None


def _fill(opened: PIL.Image.Image, file: IO[bytes]) -> PIL.Image.Image | None:
    """Fill the last row that Pillow will decode into with `UNLIKELY`; returns that row, or None for an interlaced file.

    Pillow leaves rows that the data does not reach as they were. Only a file whose last row comes out as it was before
    needs the slow check: that its data really ends there. An interlaced file may lack any row, and is checked here.
    """
    if opened.info.get("interlace"):
        if not _has_all_rows(file):
            raise BadImage("is damaged: it has fewer rows than its header says")
        return None
    blank = PIL.Image.new(opened.mode, opened.size, None)
    row = PIL.Image.new(opened.mode, (opened.width, 1), (UNLIKELY,) * len(blank.getbands()))
    blank.im.paste(row.im, (0, blank.height - 1, *blank.size))
    opened.im = blank.im
    return row


def _last_row_is(image: PIL.Image.Image, row: PIL.Image.Image) -> bool:
    """Whether the last row of an image equals `row`; of nearly every image its last pixel says that it does not."""
    corner = (image.width - 1, image.height - 1)
    if image.im.getpixel(corner) != row.im.getpixel((corner[0], 0)):
        return False
    return image.crop((0, corner[1], *image.size)).tobytes() == row.tobytes()


def _has_all_rows(file: IO[bytes]) -> bool:
    """Whether a PNG holds the data of all its rows."""
    file.seek(0)
    content = file.read()
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    expected = 0
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    inflate, found, start = zlib.decompressobj(), 0, 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] == b"IDAT":
            rest = content[start + 8 : start + 8 + length]
            while rest and found < expected:  # a megabyte at a time
                found += len(inflate.decompress(rest, 2**20))
                rest = inflate.unconsumed_tail
        start += 12 + length
    return found >= expected


@contextmanager
def _named_faults(head: bytes, tags: tiff.Tags | None = None, file: IO[bytes] | None = None) -> Iterator[None]:
    """Turn errors of Pillow into BadImage.  head: the first bytes of the file.  tags: those of a TIFF."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except PIL.UnidentifiedImageError:
        if file is not None and not _lacks_library(head) and is_cut(file):
            raise BadImage("is truncated") from None
        raise BadImage(tiff.describe(tags) if tags else _resemblance(head)) from None
    except PIL.Image.DecompressionBombError as error:
        # Raised before the size is known; the message contains it.
        _check_size(max(map(int, re.findall(r"\d+", str(error))), default=0))
        raise BadImage(f"is too large ({error})") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, KeyError and others.
        cut = file is not None and not file.closed and is_cut(file)
        raise BadImage("is truncated" if cut else _damage(error)) from error


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
        return image if image.mode == "RGB" else image.convert("RGB")
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
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, STRIP // max(1, values[0].size))
    for start in range(0, len(values), step):  # numbers take eight times the memory
        scaled[start : start + step] = np.clip(np.rint(values[start : start + step] * (255 / top)), 0, 255)
    return scaled


def turn_of(opened: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """The transposition that turns an opened image upright, from EXIF or XMP; None if there is none."""
    try:
        return TRANSPOSED.get(opened.getexif().get(PIL.ExifTags.Base.Orientation, 1))
    except Exception:
        # An EXIF block that cannot be parsed is ignored; the pixels are valid without it.
        return None


def _resemblance(head: bytes) -> str:
    if _lacks_library(head):
        return NO_HEIC
    if re.match(HEIC, head, re.DOTALL):
        return "is truncated or damaged within its header"
    for beginning, reason in BEGINNINGS:
        if re.match(beginning, head, re.IGNORECASE | re.DOTALL):
            return reason
    return "is not an image of a known format"


def _lacks_library(head: bytes) -> bool:
    return bool(re.match(HEIC, head, re.DOTALL)) and "HEIF" not in formats()


def _damage(error: Exception) -> str:
    if isinstance(error, EOFError) or re.search(
        "truncated|EOF|not enough image data|end of file", str(error), re.IGNORECASE
    ):
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
