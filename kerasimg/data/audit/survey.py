"""Reads every image once: its header, whether it can be read, and a thumbnail.

A JPEG is decoded at the smallest scale (1/8, 1/4, 1/2) that leaves 120 pixels of its longer side; all of the file is
read for that, so one that is cut short is found. An image is measured on a copy of at most 128 pixels; of the copy a
thumbnail of 16 x 16 (768 bytes) is stored, in which copies of an image are alike and other images are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import PIL.ExifTags
import PIL.Image

from kerasimg.data.bands import preview, several_bands
from kerasimg.data.image_files import BadImage, ImageInput, is_deep, read_image
from kerasimg.data.items import Item
from kerasimg.data.parallel import Progress as Progress
from kerasimg.data.parallel import Tally, each
from kerasimg.errors import counted

MEASURED = 128
"""Pixels of the longer side of the copy that is measured, at most."""
DECODED = 120
"""Pixels of the longer side that a JPEG is decoded to, at least: 125 of the 500 that are so common."""
THUMB = 16
"""Pixels of each side of a thumbnail."""

INTERVAL_S = 0.25
"""Time between two reports of progress."""


class Look(NamedTuple):
    """What reading an image gave."""

    digest: bytes = b""
    """Of the file's bytes, or of the pixels where it is an array; 16 bytes."""
    shown: bytes = b""
    """Of the size and of the measured copy: images of the same pixels have the same; 16 bytes."""
    kind: str = ""
    """Format and mode, as Pillow names them: "JPEG RGB"; of an array its shape and type."""
    width: int = 0
    height: int = 0
    size_b: int = 0
    oddities: tuple[str, ...] = ()
    """What is unusual in how it is stored: see `findings.KINDS`."""
    figures: tuple[float, ...] = (0.0,) * 5
    thumb: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Survey:
    """What reading N images gave, in columns."""

    digests: np.ndarray
    """(N,) 'S16': of the bytes of each file, or of the pixels of each array."""
    shown: np.ndarray
    """(N,) 'S16': images with the same pixels have the same; the reverse holds except for small details."""
    kinds: np.ndarray
    """(N,) str objects: format and mode, "JPEG RGB"; "" where the header cannot be read."""
    sizes: np.ndarray
    """(N, 2) int64: width and height, upright."""
    bytes: np.ndarray
    """(N,) int64: size of each file, or of the array, in bytes."""
    figures: np.ndarray
    """(N, 5) float32, see FIGURES."""
    thumbs: np.ndarray
    """(N, 16, 16, 3) uint8: the whole image, its aspect changed."""
    oddities: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Image -> what is unusual in how it is stored."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Image -> why it cannot be read."""

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool."""
        readable = np.ones(len(self), bool)
        readable[list(self.reasons)] = False
        return readable

    def figure(self, name: str) -> np.ndarray:
        """(N,) float32: one of FIGURES."""
        return self.figures[:, FIGURES.index(name)]


FIGURES = ("darkest", "brightest", "washed_out", "sharpness", "spread")
"""darkest, brightest: the 1st and the 95th percentile of the grey values, 0-255.  washed_out: share of grey values
of 250 and more.  sharpness: variance of the Laplacian by the variance of the grey values, no unit; 0 of one colour.
spread: what lies between the lowest and the highest value of a channel of the thumbnail, the greatest of the three."""


def survey(items: Sequence[Item], threads: int | None = None, progress: Progress | None = None) -> Survey:
    """Reads every image once, on all cores.

    threads: None: one per core.  progress: called now and then, and at the end.
    """
    count = len(items)
    seen = Survey(
        digests=np.zeros(count, "S16"),
        shown=np.zeros(count, "S16"),
        kinds=np.full(count, "", object),
        sizes=np.zeros((count, 2), np.int64),
        bytes=np.zeros(count, np.int64),
        figures=np.zeros((count, len(FIGURES)), np.float32),
        thumbs=np.zeros((count, THUMB, THUMB, 3), np.uint8),
    )
    names: dict[str, str] = {}
    tally = Tally(count, progress, INTERVAL_S, INTERVAL_S)

    def look_at(index: int) -> Look:
        try:
            return look(items[index])
        finally:
            tally.add()

    for index, one in enumerate(each(look_at, range(count), threads)):
        seen.digests[index], seen.shown[index] = one.digest, one.shown
        seen.kinds[index] = names.setdefault(one.kind, one.kind)
        seen.sizes[index], seen.bytes[index] = (one.width, one.height), one.size_b
        if one.oddities:
            seen.oddities[index] = one.oddities
        if one.reason:
            seen.reasons[index] = one.reason
        elif one.thumb is not None:
            seen.figures[index], seen.thumbs[index] = one.figures, one.thumb
    if progress:
        progress(count, count)
    return seen


def look(item: Item) -> Look:
    """Reads one image."""
    header = Header()
    digest = b""
    size_b = 0
    try:
        image = item.image
        if isinstance(image, str):
            header.extension = os.path.splitext(image)[1].lower()
            try:
                if not os.path.isfile(image):
                    raise OSError
                with open(image, "rb") as file:
                    image = file.read()
            except OSError:
                read_image(image)  # it says why not
                raise
        if isinstance(image, bytes):
            digest, size_b = _digest(image), len(image)
        else:
            pixels = np.ascontiguousarray(image)
            digest, size_b = _digest(repr(pixels.shape).encode(), pixels.data), pixels.nbytes
            header.kind, header.width, header.height = f"array {_shape(pixels)}", pixels.shape[1], pixels.shape[0]
        opened = _read(image, header)
    except BadImage as error:
        return Look(digest, b"", header.kind, header.width, header.height, size_b, (), reason=error.reason)
    except OSError as error:
        return Look(reason=f"cannot be read ({error.strerror or error})")
    if header.turned:
        header.width, header.height = header.height, header.width
    small = _reduced(opened)
    thumb = np.asarray(small.resize((THUMB, THUMB), PIL.Image.Resampling.BILINEAR))
    shown = _digest(f"{header.width}x{header.height}".encode(), small.tobytes())
    return Look(
        *(digest, shown, header.kind, header.width, header.height, size_b),
        oddities=tuple(header.oddities),
        figures=_figures(small, thumb),
        thumb=thumb,
    )


def _read(image: ImageInput, header: Header) -> PIL.Image.Image:
    """The image in RGB, or the first three of its 4 to 16 bands."""
    try:
        return read_image(image, opened=header)
    except BadImage:
        values = several_bands(image)
        if values is None:
            raise
    header.kind = f"{'array' if isinstance(image, np.ndarray) else 'file'} {_shape(values)}"
    header.height, header.width = values.shape[:2]
    return preview(values)


class Header:
    """What the header of a file says; called with the file, it notes that, and asks for no more pixels than needed."""

    def __init__(self) -> None:
        self.extension = ""
        self.kind = ""
        self.width = self.height = 0
        self.turned = False
        self.oddities: list[str] = []

    def __call__(self, opened: PIL.Image.Image) -> None:
        file_format = opened.format or ""
        self.kind = f"{file_format} {opened.mode}"
        self.width, self.height = opened.size
        if (own := EXTENSION_OF.get(self.extension)) and file_format not in own:
            self.oddities.append("extension")
        if getattr(opened, "is_animated", False) and file_format != "MPO":
            self.oddities.append("animated")
        if opened.mode == "CMYK":
            self.oddities.append("cmyk")
        if opened.mode.startswith("I") or is_deep(opened):
            self.oddities.append("deep")
        turn = opened.getexif().get(PIL.ExifTags.Base.Orientation, 1) if _may_turn(opened) else 1
        if turn in range(2, 9):
            self.oddities.append("rotated")
            self.turned = turn >= 5
        scale = min(1.0, DECODED / max(opened.size))
        opened.draft(None, (int(opened.width * scale) or 1, int(opened.height * scale) or 1))


EXTENSION_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", "MPO")),
    **dict.fromkeys((".png", ".apng"), ("PNG",)),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    ".gif": ("GIF",),
    ".webp": ("WEBP",),
    ".avif": ("AVIF",),
    **dict.fromkeys((".heic", ".heif"), ("HEIF",)),
}
"""Extension -> the formats that it names."""


def _may_turn(opened: PIL.Image.Image) -> bool:
    # What carries no EXIF need not be asked, which costs as much as the rest of the header.
    return "exif" in opened.info or "XML:com.adobe.xmp" in opened.info or opened.format == "TIFF"


def _reduced(image: PIL.Image.Image) -> PIL.Image.Image:
    longer = max(image.size)
    if longer <= MEASURED:
        return image
    size = (max(1, round(image.width * MEASURED / longer)), max(1, round(image.height * MEASURED / longer)))
    return image.resize(size, PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)


def _figures(small: PIL.Image.Image, thumb: np.ndarray) -> tuple[float, ...]:
    """FIGURES of the copy that is measured."""
    grey = small.convert("L")
    below = np.cumsum(grey.histogram())
    darkest, brightest = np.searchsorted(below, (0.01 * below[-1], 0.95 * below[-1]))
    washed_out = 1 - below[249] / below[-1]
    values = np.asarray(grey, np.int16)
    spread = int((thumb.max((0, 1)).astype(np.int16) - thumb.min((0, 1))).max())
    sharpness = 0.0
    if min(values.shape) >= 3 and (variance := float(values.var())) > 0:
        middle = values[1:-1, 1:-1]
        laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * middle
        sharpness = float(laplacian.var()) / variance
    return float(darkest), float(brightest), float(washed_out), sharpness, float(spread)


def _shape(pixels: np.ndarray) -> str:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return f"{pixels.dtype} {counted(channels, 'channel')}"


def _digest(*parts: bytes | memoryview) -> bytes:
    summed = hashlib.blake2b(digest_size=16)
    for part in parts:
        summed.update(part)
    return summed.digest()
