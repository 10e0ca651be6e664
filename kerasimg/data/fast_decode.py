"""The fast decoder: the result of `decode.py` within a small bound, in less time; for training, not for evaluation.

It decodes RGB and grey JPEGs that are downsized with the bilinear filter, and small plain PNGs (`fast_png.py`). All
other files, and those that it fails on, go through the reference decoder, which also reports what is wrong with a file;
large ones of `SHRUNK` from fewer pixels, so that no panorama takes a worker for seconds.
It is faster for three reasons:

1. libjpeg-turbo (simplejpeg) decodes directly, and a large JPEG at a half, a quarter or an eighth of its size, if at
   least `SMALLEST_RATIO` pixels per output pixel are left for the filter.
2. Pillow's antialiasing triangle is replaced by a short filter at the image's pixels and one linear interpolation
   (OpenCV), with the weights that approximate it best: see `weights`. For fine textures that are downsized little the
   error would be too large; they go through Pillow's filter: see `roughness`.
3. Reading a file, parsing the header of a JPEG and decoding a small PNG take few Python calls; the pixels of a PNG are
   exactly those of the reference.

The bound, checked by tests and by `benchmarks/decode_bound.py`: on photographs the mean absolute difference to the
reference decoder is below `MEAN_BOUND`, and no value differs by more than `LARGEST`. Measured on 16 photographs of
scikit-image, including grass and gravel, at sizes from 64 to 299: mean 0.20, worst image 0.70, worst value 23 (text and
clip art: 0.72 and 23).

OpenCV's own `INTER_AREA` does not replace the short filter. Measured on the same photographs, in its place: mean 1.12,
worst image 4.01 (grass), worst value 56, because a box is sharper than a triangle. It also takes longer: 0.97 ms for
500x375 to 224x224, against 0.30 ms (and 0.03 ms for `roughness`); Pillow takes 1.17 ms.
"""

from __future__ import annotations

import functools
import io
import math
import os
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

import cv2
import numpy as np
import PIL.Image
import simplejpeg

from kerasimg.data import fast_png, jpeg
from kerasimg.data.decode import FILTERS, Filter, decode, fit, frame, to_channels
from kerasimg.data.image_files import (
    JPEGS,
    MAX_PIXELS,
    RGB,
    SIDEWAYS,
    BadImage,
    Pixels,
    memory_for,
    mute_pillow,
    read_pixels,
    turn_of,
)
from kerasimg.data.items import ImageInput

if TYPE_CHECKING:
    from kerasimg.spec.document import Image

Turn = PIL.Image.Transpose

VERSION = 5
"""Increase it when the pixels change: decoded images are cached by it."""

MEAN_BOUND = 1.0
"""Bound of the mean absolute difference to the reference decoder for photographs, in 1/255."""
LARGEST = 32
"""Bound of the difference of a single value for photographs, in 1/255."""

SCALES = (8, 4, 2)
"""Divisors of the size at which libjpeg decodes faster; between them (5/8, 3/4) it is slower than at full size."""
SMALLEST_RATIO = 3.0
"""Pixels per output pixel, each way, that must be left after libjpeg's own scaling.

Measured on 38 photographs of scikit-image (including grass, gravel and coins) and eight synthetic ones, to 64 ... 384
pixels: the mean difference is at most 0.51 if 3 or more are left, 1.6 to 2.7 for 2 to 3, 4 for fewer."""
SMALLEST_FILTERED = 1.5
"""Pixels per output pixel from which the short filter may replace Pillow's."""
ANY_FILTERED = 2.0
"""From this ratio on, for all images: the measured mean is 0.7 or less. Below it, up to 1.6 for textures."""
ROUGHEST = 8.0
"""Roughness (see `roughness`) per pixel of the ratio up to which the short filter replaces Pillow's below
`ANY_FILTERED`. The mean difference was at most 0.076 times it at 1.5 pixels, 0.067 times at 1.67, 0.043 at 1.8."""
SAMPLED = 32
"""Every Nth row is used for the roughness."""
LARGEST_FILTERED = 8.0
"""Above this ratio the short filter is long, and Pillow's is as fast."""

SHRUNK = {**dict.fromkeys(JPEGS, 6.0), "JPEG2000": 12.0}
"""Format, as Pillow names it -> pixels per output pixel that must be left where Pillow resizes an image that was
decoded at a fraction of its size: JPEGs of CMYK and for the other filters of `SHARP`, and JPEG 2000. Measured as above,
the mean difference is at most 0.51 for JPEG. For JPEG 2000 it is up to 1.1, 3 for a value: its wavelets round down."""
SHARP = ("bilinear", "bicubic", "lanczos")
"""Filters for which that holds; not `area`, whose edges are between two pixels (2.7), and not `nearest`."""
JPEG = b"\xff\xd8\xff"
"""How a JPEG begins."""
SCAN = 0xDA
"""The marker before the coded pixels of a JPEG."""
PLAIN = frozenset((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE))
"""Markers that may precede it and rotate nothing: sizes, tables, comments; not APP1, which is EXIF or XMP."""
COLOURS = frozenset(("YCbCr", "Gray"))
"""Colour spaces, as simplejpeg names them, that are decoded here without opening the file in Pillow."""

FROM_RIGHT = frozenset((Turn.FLIP_LEFT_RIGHT, Turn.ROTATE_180, Turn.TRANSVERSE, Turn.ROTATE_90))
"""Turns of an image whose columns are stored from the right."""
FROM_BELOW = frozenset((Turn.FLIP_TOP_BOTTOM, Turn.ROTATE_180, Turn.TRANSVERSE, Turn.ROTATE_270))

LARGEST_SCRATCH = 16 * 1024**2
"""Bytes of each of the two buffers that a thread reuses."""

# Each image is decoded by one thread; the images are decoded in parallel.
cv2.setNumThreads(1)
_threads = threading.local()


class Box(NamedTuple):
    """The part of an image that is resized, in pixels, and the output size."""

    left: float
    top: float
    width: float
    height: float
    to_width: int
    to_height: int

    @property
    def ratio(self) -> float:
        """Pixels per output pixel, in the direction with fewer."""
        return min(self.width / self.to_width, self.height / self.to_height)

    def scaled(self, divisor: int) -> Box:
        """The same part of the image, downsized by a divisor."""
        left, top, width, height = (value / divisor for value in (self.left, self.top, self.width, self.height))
        return Box(left, top, width, height, self.to_width, self.to_height)


class Header(NamedTuple):
    """The header of a JPEG."""

    width: int
    height: int
    opened: PIL.Image.Image | None
    """The image opened by Pillow; None if that was not needed."""

    @property
    def turn(self) -> PIL.Image.Transpose | None:
        """The transposition that turns it upright."""
        if self.opened is None or not ("exif" in self.opened.info or "xmp" in self.opened.info):
            return None
        return turn_of(self.opened)


def decode_fast(img: ImageInput, image: Image) -> np.ndarray:
    """Decodes and resizes an image like `decode`, faster where possible.

    Args and errors are those of the reference decoder.
    """
    if image.channels > 3:
        return decode(img, image)
    content = img if isinstance(img, bytes) else None if isinstance(img, np.ndarray) else _content(img)
    made = None
    if content is not None and content.startswith(JPEG):
        made = _from_jpeg(content, image) if image.interpolation == "bilinear" else None
    elif content is not None and len(content) <= fast_png.LARGEST_FILE:
        made = _from_png(content, image)
    if made is not None:
        return made
    whole = img if content is None else content
    if isinstance(whole, np.ndarray):
        return decode(whole, image)
    try:
        return _shrunk(whole, image)
    except BadImage:
        return decode(whole, image)  # it says what is wrong, or reads what cannot be shrunk


def _shrunk(img: str | os.PathLike[str] | bytes, image: Image) -> np.ndarray:
    """The result of the reference decoder, from pixels at a fraction of the size where the format has such."""
    size, scale, wavelets = (0, 0), 1, False

    def shrink(opened: PIL.Image.Image) -> None:
        nonlocal size, scale, wavelets
        size, scale, wavelets = opened.size, _scale(opened, image), opened.format == "JPEG2000"
        if scale > 1 and wavelets:
            opened.reduce = scale.bit_length() - 1  # type: ignore[method-assign, assignment]
        elif scale > 1:
            opened.draft(None, (size[0] // scale, size[1] // scale))

    background = cast(RGB, tuple(image.background))
    pixels = read_pixels(img, background, shrink)
    if scale == 1:
        return fit(pixels, image)
    scale = round(max(size) / max(pixels.width, pixels.height))  # more than asked for, if memory is bounded
    if (pixels.width, pixels.height) != (math.ceil(size[0] / scale), math.ceil(size[1] / scale)):
        size = size[::-1]  # turned upright
    # The geometry is that of the whole image, so that edges are at the same places.
    box = _box(image, *size).scaled(scale)
    if wavelets:
        # A coarse sample lies where the first of its pixels lies, not in their middle.
        shift = (1 - 1 / scale) / 2
        box = box._replace(left=box.left + shift, top=box.top + shift)
    sized = _by_pillow(pixels, box, FILTERS[image.interpolation])
    if sized.shape[:2] != tuple(image.size):
        sized = _on_background(sized, image)
    return to_channels(PIL.Image.fromarray(sized), image)


def _scale(opened: PIL.Image.Image, image: Image) -> int:
    """The divisor of the size at which a file should be decoded: 1, 2, 4 or 8."""
    smallest = SHRUNK.get(opened.format or "")
    if smallest is None or image.interpolation not in SHARP:
        return 1
    # The orientation is not known yet.
    boxes = [_box(image, *sides) for sides in (opened.size, opened.size[::-1])]
    scale = divisor(min(box.ratio for box in boxes), smallest)
    if opened.format == "JPEG2000":
        # Pillow rounds the size, OpenJPEG rounds it up.
        while any(math.ceil(side / scale) != (side + scale // 2) // scale for side in opened.size):
            scale //= 2
    return scale


def _content(path: str | os.PathLike[str]) -> bytes | None:
    """The bytes of a file that may be decoded here; None for others, and if it cannot be read."""
    try:
        # By `os` alone: Python's file objects take longer than a small image. O_NONBLOCK: do not wait for a named pipe.
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
    """The image; None if the reference decoder is needed."""
    pixels = fast_png.plain_pixels(content)
    if pixels is None:
        return None
    if pixels.ndim == 2 and pixels.shape == tuple(image.size):
        return np.repeat(pixels[..., np.newaxis], image.channels, axis=2)
    return pixels if pixels.shape == (*image.size, image.channels) else decode(pixels, image)


def only_decode(content: bytes, image: Image) -> bool:
    """Do only the decoding of `decode_fast`, for benchmarks; False if the reference decoder is needed."""
    if image.interpolation != "bilinear" or not content.startswith(JPEG):
        return False
    header = _header(content)
    if header is None:
        return False
    box = _box(image, header.width, header.height)
    return box.ratio >= 1 and _decode(content, header, box.ratio) is not None


def version() -> str:
    """What the pixels depend on: the versions of this module and of the installed libraries."""
    return f"{VERSION} simplejpeg {simplejpeg.__version__} opencv {cv2.__version__}"


def divisor(ratio: float, smallest: float = SMALLEST_RATIO) -> int:
    """The divisor at which a JPEG is decoded that is downsized by this ratio: 1, 2, 4 or 8.

    smallest: pixels per output pixel that must be left.
    """
    return next((scale for scale in SCALES if ratio / scale >= smallest), 1)


def _from_jpeg(content: bytes, image: Image) -> np.ndarray | None:
    """The image; None if the reference decoder is needed."""
    try:
        header = _header(content)
        if header is None or jpeg.scans_fault(content, header.width * header.height):
            return None
        turn = header.turn
        box = _stored_box(image, header.width, header.height, turn)
        if box.ratio < 1 or 6 * header.width * header.height > memory_for(len(content)) * divisor(box.ratio) ** 2:
            return None
        sized = _resize(content, header, box)
    except Exception:
        # Damaged or unusual: the reference decoder reads it or reports what is wrong.
        return None
    if sized is None:
        return None
    if turn is not None:
        sized = np.asarray(PIL.Image.fromarray(sized).transpose(turn))
    if sized.shape[:2] != tuple(image.size):
        sized = _on_background(sized, image)
    return sized if image.channels == 3 else to_channels(PIL.Image.fromarray(sized), image)


def _header(content: bytes) -> Header | None:
    """The header of a JPEG; None if the reference decoder is needed."""
    if _plain(content):
        # Opening a file in Pillow takes ten times as long.
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours in COLOURS and width * height <= MAX_PIXELS:
            return Header(width, height, None)
    mute_pillow()
    opened = PIL.Image.open(io.BytesIO(content), formats=JPEGS)
    if opened.mode not in ("RGB", "L") or opened.width * opened.height > MAX_PIXELS:
        return None
    return Header(opened.width, opened.height, opened)


def _plain(content: bytes) -> bool:
    """Whether nothing before the pixels of a JPEG could rotate it or is unusual."""
    start = 2
    while content[start + 1] != SCAN:
        if content[start] != 0xFF or content[start + 1] not in PLAIN:
            return False
        start += 2 + (content[start + 2] << 8) + content[start + 3]
    return content[start] == 0xFF


def _box(image: Image, width: int, height: int) -> Box:
    """The part and the size of an upright image that the section gives."""
    across, down = frame(image.resize, width, height, (image.size[0], image.size[1]), image.resized)
    return Box(across.start, down.start, across.end - across.start, down.end - down.start, across.size, down.size)


def _stored_box(image: Image, width: int, height: int, turn: PIL.Image.Transpose | None) -> Box:
    """The same of an image as it is stored, before it is turned upright."""
    if turn in SIDEWAYS:
        box = _box(image, height, width)
        box = Box(box.top, box.left, box.height, box.width, box.to_height, box.to_width)
    else:
        box = _box(image, width, height)
    left = width - box.left - box.width if turn in FROM_RIGHT else box.left
    top = height - box.top - box.height if turn in FROM_BELOW else box.top
    return box._replace(left=left, top=top)


def _resize(content: bytes, header: Header, box: Box) -> np.ndarray | None:
    """The part of the image at its size, RGB, before it is turned upright; None if this is not faster."""
    decoded = _decode(content, header, box.ratio)
    if decoded is None:
        return None
    box = box.scaled(divisor(box.ratio))
    largest = max(box.width / box.to_width, box.height / box.to_height)
    filtered = box.ratio >= SMALLEST_FILTERED and largest <= LARGEST_FILTERED
    if not filtered or (box.ratio < ANY_FILTERED and roughness(decoded) > ROUGHEST * box.ratio):
        return _by_pillow(PIL.Image.fromarray(decoded), box)
    return _filter(decoded, box)


def _decode(content: bytes, header: Header, ratio: float) -> np.ndarray | None:
    """The pixels of a JPEG that is downsized by this ratio, perhaps decoded at a fraction of its size.

    None if libjpeg returns another size than expected.
    """
    scale = divisor(ratio)
    width, height = math.ceil(header.width / scale), math.ceil(header.height / scale)
    options = {"min_width": width, "min_height": height, "min_factor": scale}
    pixels: np.ndarray = simplejpeg.decode_jpeg(content, "RGB", buffer=_scratch("pixels", height, width), **options)
    return pixels if pixels.shape[:2] == (height, width) else None


def roughness(pixels: np.ndarray) -> float:
    """Twice the mean distance of a value from the mean of its two neighbours, in 1/255, on sampled rows."""
    if min(pixels.shape[:2]) < 3:
        return 0.0
    start = min(SAMPLED // 2, pixels.shape[0] // 2)
    above, rows, below = (
        pixels[start + shift : pixels.shape[0] - 1 + shift : SAMPLED].astype(np.int16) for shift in (-1, 0, 1)
    )
    twice = rows + rows
    parts = (twice - above - below, twice[:, 1:-1] - rows[:, :-2] - rows[:, 2:])
    # Not by `mean`, which would convert each value to float first.
    down, across = (int(np.abs(part, out=part).sum(dtype=np.int64)) / part.size for part in parts)
    return (down + across) / 2


def _scratch(use: str, height: int, width: int) -> np.ndarray:
    """A buffer of this thread, (height, width, 3), for reuse: allocating a new one costs a fifth of the time."""
    size = height * width * 3
    if size > LARGEST_SCRATCH:
        return np.empty((height, width, 3), np.uint8)
    buffers = _threads.__dict__
    if use not in buffers or buffers[use].size < size:
        buffers[use] = np.empty(size, np.uint8)
    return buffers[use][:size].reshape(height, width, 3)


def _by_pillow(image: PIL.Image.Image | Pixels, box: Box, resampling: Filter = Filter.BILINEAR) -> np.ndarray:
    right, bottom = min(box.left + box.width, image.width), min(box.top + box.height, image.height)
    sized = image.resize((box.to_width, box.to_height), resampling, (box.left, box.top, right, bottom))
    return np.array(sized)


def _filter(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Approximates Pillow's triangle filter: a short filter at each pixel, then one linear interpolation."""
    left, top = math.floor(box.left), math.floor(box.top)
    x, y = box.width / box.to_width, box.height / box.to_height
    across, down = weights(x, box.left - left), weights(y, box.top - top)
    anchor = ((len(across) - 1) // 2, (len(down) - 1) // 2)
    # The box in whole pixels, plus the margin of the filters.
    width, height = math.ceil(box.width), math.ceil(box.height)
    before = (min(anchor[0], left), min(anchor[1], top))
    part = pixels[top - before[1] : top + height + len(down), left - before[0] : left + width + len(across)]
    smooth = cv2.sepFilter2D(
        part, -1, across, down, _scratch("smooth", *part.shape[:2]), anchor, borderType=cv2.BORDER_REFLECT
    )
    smooth = smooth[before[1] : before[1] + height, before[0] : before[0] + width]
    # By factors, which are exact if the box has fractional pixels.
    sized = cv2.resize(smooth, None, fx=1 / x, fy=1 / y, interpolation=cv2.INTER_LINEAR)
    return cast(np.ndarray, sized[: box.to_height, : box.to_width])


@functools.lru_cache(maxsize=4096)
def weights(ratio: float, shift: float = 0.0) -> np.ndarray:
    """The filter that, followed by linear interpolation, is closest to the triangle of half-width `ratio` pixels.

    Least squares over the frequencies up to Nyquist and the positions of an output pixel between two pixels;
    frequencies are weighted by their inverse, as they occur in photographs (Field 1987, doi:10.1364/JOSAA.4.002379).
    Sums to 1.  ratio: 1 or more.  shift: the filter moves the image to the left by this part of a pixel, 0 to 1, and
    has one more weight on the right.
    """
    reach = max(1, math.ceil(ratio) - 1)
    frequencies = np.linspace(0.02, np.pi, 96)
    importance = 1 / (frequencies + 0.5)
    taps = np.arange(-math.ceil(ratio) - 1, math.ceil(ratio) + 4)
    steps = np.array([step for step in range(-reach, reach + 1 + (shift > 0)) if step])
    # The change at each frequency when a weight grows by 1 and the centre shrinks by 1.
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
