"""Decodes JPEGs with libjpeg-turbo and its warnings: a file with missing data is an error, not partly grey.

Pillow uses the same library and returns the same pixels, but hides the warnings: a file that was cut in the middle, or
whose header claims more rows than there are, comes out partly grey. simplejpeg reports them.
"""

from __future__ import annotations

import re

import numpy as np
import PIL.Image
import simplejpeg

from kerasimg.boundary import jpeg_scans, limit

MISSING = re.compile(r"premature end of data segment|bad (huffman|arithmetic) code|instead of RST", re.IGNORECASE)
"""Warnings of libjpeg after which pixels are invented."""
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker")
"""A warning that is harmless for a few bytes, which some cameras write; many bytes are rows missing in the header."""
HARMLESS_BYTES = 256
HARMLESS_SHARE = 0.02
"""Extraneous bytes that are harmless: this number, or this share of the file."""
_FRAME = re.compile(rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf])")
_HUFFMAN = (b"\xc0", b"\xc1", b"\xc2")
"""Markers of frames: baseline, extended and progressive."""
USUAL_SCANS = 16
"""A progressive JPEG has about ten."""
COLOURS = {"L": "GRAY", "RGB": "RGB"}
"""Mode of Pillow -> colour space of libjpeg. Other modes (CMYK) are decoded by Pillow."""


def scans_fault(content: bytes, pixels: int) -> str | None:
    """Why a JPEG with very many scans for its size is refused, to follow the image's name; None if it has few."""
    most = min(limit("jpeg_scans"), max(USUAL_SCANS, limit("jpeg_scan_pixels") // max(pixels, 1)))
    written = np.frombuffer(content, np.uint8)
    markers = np.count_nonzero((written[:-1] == 0xFF) & (written[1:] == 0xDA))  # `bytes.count` takes four times as long
    if markers <= most:  # at least as many as there are scans, and much faster
        return None
    scans = jpeg_scans(content)
    of = f" for {pixels / 1e6:,.0f} million pixels" if most < limit("jpeg_scans") else ""
    return f"has {scans:,} scans; the limit is {most}{of}" if scans > most else None


def _require_data(content: bytes, size: tuple[int, int]) -> None:
    """Raises a ValueError if a Huffman-coded JPEG is too short for its size: each block of 64 takes a bit at least.

    Without it a file of 700 bytes could have a hundred million grey pixels decoded before they are called missing.
    """
    coding = _FRAME.search(content)
    if coding and coding[1] in _HUFFMAN and -(-size[0] // 8) * -(-size[1] // 8) > 8 * len(content):
        raise ValueError(f"is truncated: {len(content):,} bytes cannot hold {size[0]} x {size[1]} pixels")


def decode_whole(content: bytes, opened: PIL.Image.Image, size: tuple[int, int]) -> np.ndarray | None:
    """Decodes a JPEG that Pillow opened, at its draft size: (H, W) or (H, W, 3); None if Pillow must decode it.

    size: width and height at its full size.

    Raises:
        ValueError: if a part of the data is missing; the message follows the name of the image.
    """
    colour = COLOURS.get(opened.mode)
    _require_data(content, size)
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
        return None  # unusual, but complete
    if pixels.shape[:2] != (height, width):
        return None
    return np.asarray(pixels[..., 0] if colour == "GRAY" else pixels)


def require_whole(content: bytes) -> None:
    """Raises a ValueError if a JPEG lacks data; decodes at an eighth of its size, at a third of the cost."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(content)
        colours = "CMYK" if colour in ("CMYK", "YCCK") else "GRAY" if colour == "Gray" else "RGB"
        simplejpeg.decode_jpeg(content, colours, min_height=-(-height // 8), min_width=-(-width // 8), min_factor=8)
    except ValueError as error:
        if reason := _loss(str(error), len(content)):
            raise ValueError(reason) from error


def _loss(warning: str, size: int) -> str | None:
    """What a warning of libjpeg says about missing pixels; None if it is about something else."""
    if "Premature end of JPEG file" in warning:
        return "is truncated"
    left_over = LEFT_OVER.search(warning)
    if left_over and int(left_over[1]) > max(HARMLESS_BYTES, HARMLESS_SHARE * size):
        return f"is damaged: its header counts fewer rows than there are, or a part is missing ({warning})"
    if MISSING.search(warning):
        return f"is damaged: a part of its data is missing ({warning.removeprefix('Corrupt JPEG data: ')})"
    return None
