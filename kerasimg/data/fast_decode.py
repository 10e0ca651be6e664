"""The fast decoder: what `decode.py` gives, to within a small bound, in less time; for training, not for judging.

Only a JPEG, in RGB or grey, that is made smaller by the bilinear filter, and small plain PNGs (`fast_png.py`) are
decoded here; anything else (and whatever stumbles) goes through the reference decoder, which also says what is wrong
with a file. It gains in three ways:

1. A large image is decoded at a half, a quarter or an eighth of its size (the decoder's own scaling, in the cosine
   transform), where at least `SMALLEST_RATIO` of that is left for the filter.
2. With `pip install "kerasimg[fast]"` libjpeg-turbo decodes without Pillow's detours, and Pillow's antialiasing
   triangle becomes a short filter at the image's own pixels and one linear interpolation (OpenCV), with the weights
   that come nearest to it: see `weights`. Of fine textures it would be too far off where little is made smaller, so
   those go through Pillow's filter: see `roughness`.
3. A file is read, the header of a JPEG looked at, and a small PNG decoded, by few calls of Python; the PNG's pixels are
   exactly the reference's.

The bound, checked by tests and by `benchmarks/decode_bound.py`: on photographs the mean absolute difference to the
reference decoder is below `MEAN_BOUND`, and no value differs by more than `LARGEST`. Measured on 16 photographs of
scikit-image, grass and gravel among them, at sizes from 64 to 299: 0.20 in the mean, 0.70 for the worst image, 23 for
a single value (text and clip art: 0.72 and 23). Without the extra: 0.02, 0.34 and 5.
"""

from __future__ import annotations

import functools
import io
import math
import os
import stat
import threading
from typing import Any, NamedTuple, cast

import numpy as np
import PIL.Image

from kerasimg.data import fast_png, jpeg
from kerasimg.data.decode import decode
from kerasimg.data.image_files import JPEGS, MAX_PIXELS, RGB, SIDEWAYS, mute_pillow, turn_of
from kerasimg.data.items import ImageInput
from kerasimg.spec.document import Image

VERSION = 3
"""Another number when other pixels come out: decoded images are kept by it."""

MEAN_BOUND = 1.0
"""Mean absolute difference to the reference decoder that a photograph stays below, in 1/255."""
LARGEST = 32
"""Difference that no single value of a photograph exceeds, in 1/255."""

SCALES = (8, 4, 2)
"""Sizes that libjpeg decodes to at a gain, as divisors; between them (5/8, 3/4) it is slower than in full."""
SMALLEST_RATIO = 3.0
"""Pixels for each one of the result that must be left, each way, after the decoder's own scaling.

Measured on 38 photographs of scikit-image (grass, gravel and coins among them) and eight made ones, to 64 ... 384
pixels: the mean difference is at most 0.51 where 3 or more are left, 1.6 to 2.7 where 2 to 3 are, 4 where less are."""
SMALLEST_FILTERED = 1.5
"""Pixels for each one of the result from which on the short filter may stand for Pillow's."""
ANY_FILTERED = 2.0
"""From so many on, whatever the image shows: measured are 0.7 in the mean and less. Below, up to 1.6 for textures."""
ROUGHEST = 8.0
"""Roughness (see `roughness`), for each of these pixels, up to which the short filter stands for Pillow's where fewer
are left: the mean difference was at most 0.076 times the roughness at 1.5 pixels, 0.067 times at 1.67, 0.043 at 1.8."""
SAMPLED = 32
"""Every so manieth row is looked at for the roughness."""
LARGEST_FILTERED = 8.0
"""Beyond so many pixels for each one of the result the short filter is long, and Pillow's as fast."""

JPEG = b"\xff\xd8\xff"
"""How a JPEG begins."""
SCAN = 0xDA
"""The marker in a JPEG after which the coded pixels come."""
PLAIN = frozenset((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE))
"""Markers of what may stand before it and turns nothing: sizes, tables, comments; not APP1, which is EXIF or XMP."""
COLOURS = frozenset(("YCbCr", "Gray"))
"""Those of a JPEG, as simplejpeg names them, that are decoded here without a look by Pillow."""

LARGEST_SCRATCH = 16 * 1024**2
"""Bytes of memory that a thread keeps for the next image, twice."""

_threads = threading.local()


class Box(NamedTuple):
    """The part of an image that becomes the result, in pixels, and the size that it gets."""

    left: float
    top: float
    width: float
    height: float
    to_width: int
    to_height: int

    @property
    def ratio(self) -> float:
        """Pixels for each one of the result, where they are fewest."""
        return min(self.width / self.to_width, self.height / self.to_height)

    def scaled(self, divisor: int) -> Box:
        """The same part of the image at a fraction of its size."""
        left, top, width, height = (value / divisor for value in (self.left, self.top, self.width, self.height))
        return Box(left, top, width, height, self.to_width, self.to_height)


class Header(NamedTuple):
    """What is known of a JPEG before it is decoded."""

    width: int
    height: int
    opened: PIL.Image.Image | None
    """As Pillow opened it; None where that was not needed."""

    @property
    def turn(self) -> PIL.Image.Transpose | None:
        """What turns it upright."""
        if self.opened is None or not ("exif" in self.opened.info or "xmp" in self.opened.info):
            return None
        return turn_of(self.opened)


def decode_fast(img: ImageInput, image: Image) -> np.ndarray:
    """The image as the spec's `image` section wants it: uint8, (height, width, channels), 0-255.

    image: a path, the bytes of a file, or an array, as for the reference decoder, whose errors are raised.
    """
    content = img if isinstance(img, bytes) else None if isinstance(img, np.ndarray) else _content(img)
    made = None
    if content is not None and content.startswith(JPEG):
        made = _from_jpeg(content, image) if image.interpolation == "bilinear" else None
    elif content is not None and len(content) <= fast_png.LARGEST_FILE:
        made = _from_png(content, image)
    return decode(img if content is None else content, image) if made is None else made


def _content(path: str | os.PathLike[str]) -> bytes | None:
    """The bytes of a file that may be decoded here; None for others, and where it cannot be read."""
    try:
        # Without Python's own files, which take longer than a small image; a named pipe is not waited for.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(file)
            head = os.read(file, min(status.st_size, fast_png.LARGEST_FILE)) if stat.S_ISREG(status.st_mode) else b""
            if head.startswith(JPEG):
                while len(head) < status.st_size and (more := os.read(file, status.st_size - len(head))):
                    head += more
        finally:
            os.close(file)
    except OSError:
        return None
    return head if len(head) == status.st_size and head else None


def _from_png(content: bytes, image: Image) -> np.ndarray | None:
    """The image, or None where the reference decoder must see to it."""
    found = _libraries()
    pixels = None if found is None else fast_png.plain_pixels(content, found.cv2)
    if pixels is None:
        return None
    if pixels.ndim == 2 and pixels.shape == tuple(image.size):
        return np.repeat(pixels[..., np.newaxis], image.channels, axis=2)
    return pixels if pixels.shape == (*image.size, image.channels) else decode(pixels, image)


def only_decode(content: bytes, image: Image) -> bool:
    """Do the first half of `decode_fast`, for those who measure it; False where it is not the fast decoder's."""
    if image.interpolation != "bilinear" or not content.startswith(JPEG):
        return False
    header = _header(content)
    if header is None:
        return False
    box = _box(image.resize, header.width, header.height, image.size[0], image.size[1])
    return box.ratio >= 1 and _decoded(content, header, box.ratio) is not None


def version() -> str:
    """What decides over the pixels that come out: this module and the libraries it found."""
    found = _libraries()
    names = f" simplejpeg {found.versions[0]} opencv {found.versions[1]}" if found else ""
    return f"{VERSION}{names}"


def divisor(ratio: float) -> int:
    """The fraction at which a JPEG is decoded that is made smaller by this ratio: 1, 2, 4 or 8."""
    return next((scale for scale in SCALES if ratio / scale >= SMALLEST_RATIO), 1)


def _from_jpeg(content: bytes, image: Image) -> np.ndarray | None:
    """The image, or None where the reference decoder must see to it."""
    try:
        header = None if jpeg.scans_fault(content) else _header(content)
        if header is None:
            return None
        turn = header.turn
        height, width = reversed(image.size) if turn in SIDEWAYS else image.size
        box = _box(image.resize, header.width, header.height, height, width)
        if box.ratio < 1:
            return None
        sized = _sized(content, header, box)
    except Exception:
        # A file that is damaged, or odd: the reference decoder reads it, or says what is wrong.
        return None
    if sized is None:
        return None
    if turn is not None:
        sized = np.asarray(PIL.Image.fromarray(sized).transpose(turn))
    if sized.shape[:2] != tuple(image.size):
        sized = _on_background(sized, image)
    if image.channels == 1:
        return np.array(PIL.Image.fromarray(sized).convert("L"))[..., np.newaxis]
    return sized


def _header(content: bytes) -> Header | None:
    """What is known of a JPEG, or None where the reference decoder must see to it."""
    found = _libraries()
    if found is not None and _plain(content):
        # Pillow takes ten times as long to open a file.
        height, width, colours, _ = found.simplejpeg.decode_jpeg_header(content)
        if colours in COLOURS and width * height <= MAX_PIXELS:
            return Header(width, height, None)
    mute_pillow()
    opened = PIL.Image.open(io.BytesIO(content), formats=JPEGS)
    if opened.mode not in ("RGB", "L") or opened.width * opened.height > MAX_PIXELS:
        return None
    return Header(opened.width, opened.height, opened)


def _plain(content: bytes) -> bool:
    """Whether nothing stands before the pixels of a JPEG that could turn it, or is odd."""
    start = 2
    while content[start + 1] != SCAN:
        if content[start] != 0xFF or content[start + 1] not in PLAIN:
            return False
        start += 2 + (content[start + 2] << 8) + content[start + 3]
    return content[start] == 0xFF


@functools.lru_cache(maxsize=4096)
def _box(policy: str, width: int, height: int, to_height: int, to_width: int) -> Box:
    """What a resize policy makes of an image, as the functions of `decode.RESIZE` do it."""
    wide = width * to_height > to_width * height
    if policy == "crop":
        box_width = height * to_width / to_height if wide else float(width)
        box_height = float(height) if wide else width * to_height / to_width
        return Box((width - box_width) / 2, (height - box_height) / 2, box_width, box_height, to_width, to_height)
    if policy == "pad":
        if wide:
            to_height = max(1, round(height * to_width / width))
        else:
            to_width = max(1, round(width * to_height / height))
    return Box(0.0, 0.0, float(width), float(height), to_width, to_height)


def _sized(content: bytes, header: Header, box: Box) -> np.ndarray | None:
    """The part of the image in its size, RGB, before it is turned upright; None: nothing to gain here."""
    decoded = _decoded(content, header, box.ratio)
    if decoded is None:
        return None
    box = box.scaled(divisor(box.ratio))
    found = _libraries()
    largest = max(box.width / box.to_width, box.height / box.to_height)
    filtered = found is not None and box.ratio >= SMALLEST_FILTERED and largest <= LARGEST_FILTERED
    if (
        found is None
        or not filtered
        or (box.ratio < ANY_FILTERED and roughness(cast(np.ndarray, decoded)) > ROUGHEST * box.ratio)
    ):
        return _by_pillow(decoded if isinstance(decoded, PIL.Image.Image) else PIL.Image.fromarray(decoded), box)
    return _filtered(found.cv2, cast(np.ndarray, decoded), box)


def _decoded(content: bytes, header: Header, ratio: float) -> np.ndarray | PIL.Image.Image | None:
    """The pixels of a JPEG that is made smaller by this ratio, perhaps at a fraction of its size already.

    None where that gains nothing or cannot be had.
    """
    scale = divisor(ratio)
    width, height = math.ceil(header.width / scale), math.ceil(header.height / scale)
    found = _libraries()
    if found is not None:
        given = {"min_width": width, "min_height": height, "min_factor": scale}
        pixels = found.simplejpeg.decode_jpeg(content, "RGB", buffer=_scratch("pixels", height, width), **given)
        return pixels if pixels.shape[:2] == (height, width) else None
    opened = header.opened
    if scale == 1 or opened is None:
        return None
    opened.draft("RGB", (width, height))
    if opened.size != (width, height):
        return None
    opened.load()
    # Pillow does not say what libjpeg warns of: the reference decoder names a file that lost a part of its data.
    return opened.convert("RGB") if jpeg.is_whole(content) else None


def roughness(pixels: np.ndarray) -> float:
    """Mean distance of a value from the mean of its two neighbours, twice, in 1/255: (H, W, C) uint8, sampled."""
    if min(pixels.shape[:2]) < 3:
        return 0.0
    start = min(SAMPLED // 2, pixels.shape[0] // 2)
    above, rows, below = (
        pixels[start + shift : pixels.shape[0] - 1 + shift : SAMPLED].astype(np.int16) for shift in (-1, 0, 1)
    )
    twice = rows + rows
    parts = (twice - above - below, twice[:, 1:-1] - rows[:, :-2] - rows[:, 2:])
    # Not by `mean`, which would turn each value into a float first.
    down, across = (int(np.abs(part, out=part).sum(dtype=np.int64)) / part.size for part in parts)
    return (down + across) / 2


def _scratch(use: str, height: int, width: int) -> np.ndarray:
    """Memory of this thread's own, (height, width, 3), to be used again: to ask the system for new costs a fifth."""
    size = height * width * 3
    if size > LARGEST_SCRATCH:
        return np.empty((height, width, 3), np.uint8)
    known = _threads.__dict__
    if use not in known or known[use].size < size:
        known[use] = np.empty(size, np.uint8)
    return known[use][:size].reshape(height, width, 3)


def _by_pillow(image: PIL.Image.Image, box: Box) -> np.ndarray:
    right, bottom = min(box.left + box.width, image.width), min(box.top + box.height, image.height)
    sized = image.resize(
        (box.to_width, box.to_height), PIL.Image.Resampling.BILINEAR, (box.left, box.top, right, bottom)
    )
    return np.array(sized)


def _filtered(cv2: Any, pixels: np.ndarray, box: Box) -> np.ndarray:
    """Pillow's triangle filter, nearly: a short filter at each pixel, then one linear interpolation."""
    left, top = math.floor(box.left), math.floor(box.top)
    x, y = box.width / box.to_width, box.height / box.to_height
    across, down = weights(x, box.left - left), weights(y, box.top - top)
    anchor = ((len(across) - 1) // 2, (len(down) - 1) // 2)
    # The part that is looked at: the box in whole pixels, and what the filters reach beyond.
    width, height = math.ceil(box.width), math.ceil(box.height)
    before = (min(anchor[0], left), min(anchor[1], top))
    part = pixels[top - before[1] : top + height + len(down), left - before[0] : left + width + len(across)]
    smooth = cv2.sepFilter2D(
        part, -1, across, down, _scratch("smooth", *part.shape[:2]), anchor, borderType=cv2.BORDER_REFLECT
    )
    smooth = smooth[before[1] : before[1] + height, before[0] : before[0] + width]
    # By the factors, which are exact where the box is not of whole pixels.
    sized = cv2.resize(smooth, None, fx=1 / x, fy=1 / y, interpolation=cv2.INTER_LINEAR)
    return cast(np.ndarray, sized[: box.to_height, : box.to_width])


@functools.lru_cache(maxsize=4096)
def weights(ratio: float, shift: float = 0.0) -> np.ndarray:
    """The filter that, followed by linear interpolation, is nearest to the triangle of half-width `ratio` pixels.

    Least squares over the frequencies up to a pixel's and the places between two pixels at which the result may lie;
    frequencies count by the inverse of theirs, as they occur in photographs (Field 1987, doi:10.1364/JOSAA.4.002379).
    Sums to 1.  ratio: 1 or more.  shift: the filter moves the image to the left by this part of a pixel, 0 to 1, with
    one weight more on the right of the middle for it.
    """
    reach = max(1, math.ceil(ratio) - 1)
    frequencies = np.linspace(0.02, np.pi, 96)
    importance = 1 / (frequencies + 0.5)
    taps = np.arange(-math.ceil(ratio) - 1, math.ceil(ratio) + 4)
    steps = np.array([step for step in range(-reach, reach + 1 + (shift > 0)) if step])
    # What one more of a weight, and one less of the middle's, changes at each frequency.
    changes = np.exp(1j * np.outer(frequencies, steps)) - 1
    unknowns, knowns = [], []
    for place in (np.arange(8) + 0.5) / 8:
        triangle = np.maximum(0, 1 - np.abs(taps - place - shift) / ratio)
        wanted = np.exp(1j * np.outer(frequencies, taps)) @ (triangle / triangle.sum())
        linear = 1 - place + place * np.exp(1j * frequencies)
        unknowns.append((importance * linear)[:, np.newaxis] * changes)
        knowns.append(importance * (wanted - linear))
    system, target = np.concatenate(unknowns), np.concatenate(knowns)
    parts = np.concatenate([system.real, system.imag]), np.concatenate([target.real, target.imag])
    sides = np.linalg.lstsq(*parts, rcond=None)[0]
    return np.insert(sides, reach, 1 - sides.sum()).astype(np.float32)


def _on_background(sized: np.ndarray, image: Image) -> np.ndarray:
    height, width = image.size
    padded = np.empty((height, width, 3), np.uint8)
    padded[...] = cast(RGB, tuple(image.background))
    top, left = (height - sized.shape[0]) // 2, (width - sized.shape[1]) // 2
    padded[top : top + sized.shape[0], left : left + sized.shape[1]] = sized
    return padded


class _Libraries(NamedTuple):
    simplejpeg: Any
    cv2: Any
    versions: tuple[str, str]


@functools.cache
def _libraries() -> _Libraries | None:
    """What the extra `fast` installs, when all of it is there."""
    try:
        import cv2
        import simplejpeg
    except ImportError:
        return None
    # An image is decoded by one thread, and as many images as there are cores side by side.
    cv2.setNumThreads(1)
    return _Libraries(simplejpeg, cv2, (simplejpeg.__version__, cv2.__version__))
