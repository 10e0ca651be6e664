"""JPEGs by libjpeg-turbo, whose warnings count: a file that lost a part of its data is named, not filled with grey.

Pillow decodes with the same library and gives the same pixels, but hides its warnings: a file that was cut in the
middle, or whose header claims more rows than there are, comes out partly grey. simplejpeg reports them.
"""

from __future__ import annotations

import re

import PIL.Image
import simplejpeg

from kerasimg.boundary import jpeg_scans, limit

MISSING = re.compile(r"premature end of data segment|bad (huffman|arithmetic) code|instead of RST", re.IGNORECASE)
"""Warnings of libjpeg after which pixels are made up."""
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker")
"""A warning that is harmless for few bytes, which some cameras write; many are rows that the header does not count."""
HARMLESS_BYTES = 256
HARMLESS_SHARE = 0.02
"""Bytes left over that are harmless: so many, or this share of the file."""
COLOURS = {"L": "GRAY", "RGB": "RGB"}
"""Mode of Pillow -> what libjpeg is asked for. Of others (CMYK) Pillow makes the pixels."""


def scans_fault(content: bytes) -> str | None:
    """Why a JPEG with very many scans is refused, to follow the image's name; None if it has few."""
    if content.count(b"\xff\xda") <= limit("jpeg_scans"):  # at least as many as there are, and much faster
        return None
    scans = jpeg_scans(content)
    return f"has {scans:,} scans; the limit is {limit('jpeg_scans')}" if scans > limit("jpeg_scans") else None


def decode_whole(content: bytes, opened: PIL.Image.Image) -> PIL.Image.Image | None:
    """The pixels of a JPEG as Pillow opened it, at the size it was drafted to; None where Pillow must decode it.

    Raises:
        ValueError: if a part of the data is missing; the message goes on after the name of the image.
    """
    colour = COLOURS.get(opened.mode)
    if colour is None:
        require_whole(content)
        return None
    width, height = opened.size
    scale = getattr(opened, "decoderconfig", None) or (1,)
    try:
        pixels = simplejpeg.decode_jpeg(
            content, colour, min_height=height, min_width=width, min_factor=max(1, scale[0])
        )
    except ValueError as error:
        if reason := _loss(str(error), len(content)):
            raise ValueError(reason) from error
        return None  # odd, but not incomplete
    if pixels.shape[:2] != (height, width):
        return None
    return PIL.Image.fromarray(pixels[..., 0] if colour == "GRAY" else pixels)


def require_whole(content: bytes) -> None:
    """Raise a ValueError if a part of a JPEG's data is missing; at an eighth of its size, which costs a third."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(content)
        wanted = "CMYK" if colour in ("CMYK", "YCCK") else "GRAY" if colour == "Gray" else "RGB"
        simplejpeg.decode_jpeg(content, wanted, min_height=-(-height // 8), min_width=-(-width // 8), min_factor=8)
    except ValueError as error:
        if reason := _loss(str(error), len(content)):
            raise ValueError(reason) from error


def is_whole(content: bytes) -> bool:
    """Whether libjpeg finds all data of a JPEG."""
    try:
        require_whole(content)
    except ValueError:
        return False
    return True


def _loss(warning: str, size: int) -> str | None:
    """What a warning of libjpeg says about missing pixels; None if it says nothing of that."""
    if "Premature end of JPEG file" in warning:
        return "is truncated"
    left_over = LEFT_OVER.search(warning)
    if left_over and int(left_over[1]) > max(HARMLESS_BYTES, HARMLESS_SHARE * size):
        return f"is damaged: its header counts fewer rows than there are, or a part is missing ({warning})"
    if MISSING.search(warning):
        return f"is damaged: a part of its data is missing ({warning.removeprefix('Corrupt JPEG data: ')})"
    return None
