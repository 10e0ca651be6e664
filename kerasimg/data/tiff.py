"""The tags of a TIFF, and whether Pillow decodes such a file correctly.

Pillow opens a TIFF by a table of combinations of tags. It decodes some, cannot identify others, and decodes some
wrongly: a fourth band without a description as alpha, further bands dropped, white-is-zero of 16 bits as a negative, 12
bits as 16. `fault` returns the reason why a file is not read; `rescale` corrects what can be corrected.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import PIL.Image

from kerasimg.errors import counted

BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT, PREDICTOR = 258, 262, 277, 284, 338, 339, 317
PARTS = {273: 279, 324: 325}
"""Tag of the places of strips or tiles -> tag of their sizes."""
WANTED = frozenset((BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT, PREDICTOR, *PARTS, *PARTS.values()))
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF."""

Tags = Mapping[int, tuple[int, ...]]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
NAMES = {4: "a mask", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array", 32844: "LogL", 32845: "LogLuv"}
"""Photometric interpretation -> name, for those that are not read."""
KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}
COLOURS = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3, WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, PALETTE: 1}
"""Photometric interpretation -> colour channels; further channels are extra."""
ALPHA = (1, 2)
"""Values of the tag ExtraSamples that mean alpha."""
DEPTHS: dict[tuple[int, int], tuple[int, ...]] = {
    (WHITE_IS_ZERO, 1): (1, 2, 4, 8, 16),
    (BLACK_IS_ZERO, 1): (1, 2, 4, 8, 12, 16, 32),
    (BLACK_IS_ZERO, 2): (8, 16, 32),
    (BLACK_IS_ZERO, 3): (32,),
    (PALETTE, 1): (1, 2, 4, 8),
    (RGB, 1): (8, 16),
    (CMYK, 1): (8, 16),
    (YCBCR, 1): (8,),
    (LAB, 1): (8,),
}
"""(photometric interpretation, format of samples) -> bits of a channel that are read."""
LARGEST_DIRECTORY = 4096
SIZES = {1: 1, 3: 2, 4: 4, 16: 8}
"""Type of a tag's values -> bytes per value, for integers."""


def read_tags(file: IO[bytes]) -> Tags | None:
    """The tags of the first image about its storage; None if the header cannot be read."""
    try:
        file.seek(0)
        return _read(file)
    except (struct.error, KeyError, OSError, OverflowError):
        return None
    finally:
        file.seek(0)


def _read(file: IO[bytes]) -> Tags | None:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    place = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    file.seek(place)
    count = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))[0]
    if not 0 < count <= LARGEST_DIRECTORY:
        return None
    width, inline = (20, 8) if big else (12, 4)
    entries = file.read(count * width)
    tags = {}
    for start in range(0, len(entries) - width + 1, width):
        tag, kind = struct.unpack(order + "HH", entries[start : start + 4])
        if tag not in WANTED or kind not in SIZES:
            continue
        number = struct.unpack(order + ("Q" if big else "I"), entries[start + 4 : start + width - inline])[0]
        value = entries[start + width - inline : start + width]
        size = SIZES[kind] * number
        if not 0 < number <= LARGEST_DIRECTORY:
            continue
        if size > inline:
            file.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            value = file.read(size)
        letters = {1: "B", 2: "H", 4: "I", 8: "Q"}[SIZES[kind]]
        tags[tag] = struct.unpack(f"{order}{number}{letters}", value[:size])
    return tags


def ends_early(file: IO[bytes], length: int) -> bool:
    """Whether the directory, a strip or a tile of a TIFF is beyond its end."""
    try:
        tags = _read(file)
    except (struct.error, OSError, OverflowError):  # the directory is beyond the end
        return True
    except KeyError:
        return False
    parts = [(tags.get(places, ()), tags.get(sizes, ())) for places, sizes in PARTS.items()] if tags else []
    return any(place + size > length for places, sizes in parts for place, size in zip(places, sizes, strict=False))


def tags_of(opened: PIL.Image.Image) -> Tags | None:
    """The tags of a TIFF that Pillow opened; None for other images."""
    own: Any = getattr(opened, "tag_v2", None) if opened.format == "TIFF" else None
    if own is None:
        return None
    found = {tag: own[tag] for tag in WANTED if tag in own}
    return {tag: tuple(value) if isinstance(value, tuple) else (int(value),) for tag, value in found.items()}


def fault(tags: Tags) -> str | None:
    """Why an image with these tags is not read, to follow its name; None if it is read."""
    samples = tags.get(SAMPLES, (1,))[0]
    photometric = tags.get(PHOTOMETRIC, (None,))[0]
    bits, formats = set(tags.get(BITS, (1,))), set(tags.get(FORMAT, (1,))) or {1}
    what = f"is a TIFF of {counted(samples, 'channel')}"
    if photometric is None:
        return f"{what} that does not say what its values mean (tag 262, PhotometricInterpretation, is missing)"
    colours = COLOURS.get(photometric)
    if colours is None:
        return f"{what} with {NAMES.get(photometric, f'photometric interpretation {photometric}')}, which is not read"
    extra = tags.get(EXTRA, ())
    beyond = samples - colours
    if beyond < 0:
        return f"{what}, and its photometric interpretation {photometric} needs {colours}; it is not read"
    if beyond and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and samples in (3, 4) and not set(extra) & set(ALPHA):
        return f"{what} that are not said to be RGB (photometric interpretation {photometric}); {ADVICE}"
    if beyond > 1 or (beyond and (not extra or extra[0] not in ALPHA)) or (beyond and photometric not in (RGB, 1)):
        described = "the last is not said to be alpha" if beyond == 1 else f"{beyond} beyond its colours"
        return f"{what}, {described} (tag 338, ExtraSamples); {ADVICE}"
    if len(bits) > 1 or len(formats) > 1:
        return f"{what} of several types, which is not read"
    depth, kind = bits.pop(), formats.pop()
    kind = 1 if kind == 4 else kind  # "undefined" is read as unsigned
    known = DEPTHS.get((photometric, kind), ())
    if depth not in known or (beyond and depth == 12) or (beyond and colours == 1 and depth != 8):
        return (
            f"is a TIFF of {depth}-bit {KINDS.get(kind, f'samples of format {kind}')} with "
            f"{counted(samples, 'channel')} (photometric interpretation {photometric}), which is not read; "
            "convert it to 8 or 16 bits"
        )
    if tags.get(PLANAR, (1,))[0] == 2 and samples > 1 and (photometric, samples, depth) != (RGB, 3, 8):
        # Pillow doubles the pixels of 16-bit planes.
        return f"{what} of {depth} bits in separate planes (tag 284), which is not read; save them pixel by pixel"
    return None


def describe(tags: Tags) -> str:
    """Describe a TIFF that Pillow cannot identify, to follow its name."""
    depth, kind = tags.get(BITS, (1,))[0], tags.get(FORMAT, (1,))[0]
    photometric = tags.get(PHOTOMETRIC, (BLACK_IS_ZERO,))[0]
    return (
        f"is a TIFF of {depth}-bit {KINDS.get(kind, 'samples')} with photometric interpretation {photometric}, in a "
        "byte order or compression that is not read, or damaged; save it again, uncompressed, in 8 or 16 bits"
    )


ADVICE = (
    "images of 1 or 3 channels, with or without alpha, are read: choose the channels and save these, or set "
    "image.channels (4 to 16)"
)


def rescale(opened: PIL.Image.Image, values: np.ndarray) -> np.ndarray:
    """Convert the values of a loaded TIFF of 12 or 16 bits to 16 bits with 0 as black; other images are unchanged."""
    tags = tags_of(opened)
    if tags is None or opened.mode == "F":
        return values
    if 12 in tags.get(BITS, ()):
        values = np.rint(values.astype(np.float64) * (65535 / 4095)).astype(np.int32)
    if tags.get(PHOTOMETRIC, (BLACK_IS_ZERO,))[0] == WHITE_IS_ZERO:
        values = 65535 - values.astype(np.int32)
    return values


def is_signed_byte(opened: PIL.Image.Image) -> bool:
    """Whether a TIFF holds signed bytes, which Pillow reads as unsigned ones."""
    tags = tags_of(opened) or {}
    return 2 in tags.get(FORMAT, ()) and 8 in tags.get(BITS, ())
