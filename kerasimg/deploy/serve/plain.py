"""Finds images that are so small and plain that the server decodes them itself instead of asking a worker process.

The way to a worker and back costs more than decoding such an image. Nobody may hold up or crash the server by one: it
is a JPEG in one baseline scan, or a PNG with nothing but pixels, of at most `MOST_PIXELS`. Anything else, and anything
whose structure is damaged, goes to a worker.
"""

from __future__ import annotations

MOST_BYTES = 2**16
MOST_PIXELS = 2**16
"""Decoding one of 256 x 256 takes about a millisecond."""

MOST_SEGMENTS = 32
"""Chunks of a PNG, or segments of a JPEG: 64 KB of empty ones would take 20 ms."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset((b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD", b"sBIT", b"tIME"))
"""Chunks that are short, or pixels; compressed texts and colour profiles are not among them."""
_JPEG = b"\xff\xd8\xff"
_BASELINE = b"\xff\xc0"
_SCAN = b"\xff\xda"


def is_plain(data: bytes, max_pixels: int = MOST_PIXELS) -> bool:
    """Returns whether an image file is small, of a plain kind, and has at most `max_pixels`."""
    if len(data) > MOST_BYTES:
        return False
    if data.startswith(_JPEG):
        size = _jpeg_size(data)
    elif data.startswith(_PNG):
        size = _png_size(data)
    else:
        return False
    return 0 < size <= min(max_pixels, MOST_PIXELS)


def _png_size(data: bytes) -> int:
    """Returns the pixels of a PNG that is complete and has plain chunks only; otherwise 0."""
    if data[8:16] != b"\0\0\0\rIHDR":
        return 0
    position = 33
    for _ in range(MOST_SEGMENTS):
        if position + 12 > len(data):
            return 0
        kind = data[position + 4 : position + 8]
        if kind == b"IEND":
            return _number(data, 16, 4) * _number(data, 20, 4) if position + 12 == len(data) else 0
        if kind not in _PNG_CHUNKS:
            return 0
        position += 12 + _number(data, position, 4)
    return 0


def _jpeg_size(data: bytes) -> int:
    """Returns the pixels of a baseline JPEG of one scan; otherwise 0."""
    if data.count(_SCAN) != 1:
        return 0
    position, size = 2, 0
    for _ in range(MOST_SEGMENTS):
        if position + 9 > len(data) or data[position] != 0xFF:
            return 0
        marker = data[position : position + 2]
        if marker == _SCAN:
            return size
        if marker == _BASELINE:
            size = _number(data, position + 5, 2) * _number(data, position + 7, 2)
        elif 0xC1 <= marker[1] <= 0xCF and marker[1] != 0xC4:  # another kind of frame; C4 is a table
            return 0
        position += 2 + _number(data, position + 2, 2)
    return 0


def _number(data: bytes, position: int, size: int) -> int:
    return int.from_bytes(data[position : position + size], "big")
