"""Small plain PNGs, for which the Python overhead per file dominates: the same pixels with less overhead.

Plain means 8 bits, grey or RGB, not interlaced, no transparency, and no metadata that could rotate the image. Checksums
and lengths are checked here; a file with any error is left to the reference decoder, which reports it.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""
LARGEST = 128 * 128
"""Pixels of the largest image that is decoded here; for larger ones the overhead does not matter."""
LARGEST_FILE = 1 << 16
"""Bytes of the largest file that is read as a whole."""
CHANNELS = {0: 1, 2: 3}
"""Colour type -> channels, for the plain ones."""
HARMLESS = frozenset((b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tIME", b"bKGD", b"sBIT"))
"""Chunks that do not change pixels: resolution, colour space (values are as stored), time, and hints."""


def plain_pixels(content: bytes) -> np.ndarray | None:
    """The pixels of a plain PNG, (H, W) or (H, W, 3) uint8; None for any other file."""
    parts = _parts(content)
    if parts is None:
        return None
    width, height, channels, data = parts
    stride = 1 + width * channels
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(data, height * stride + 1)
    except zlib.error:
        return None
    # The first byte of each row is its filter, one of five.
    if len(rows) != height * stride or not inflate.eof or inflate.unused_data or max(rows[::stride]) > 4:
        return None
    pixels = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    return pixels if channels == 1 else np.ascontiguousarray(pixels[..., ::-1])


def _parts(content: bytes) -> tuple[int, int, int, bytes] | None:
    """Width, height, channels and the compressed rows of a plain PNG whose chunks are whole; None for others."""
    if len(content) < 57 or not content.startswith(SIGNATURE) or content[12:16] != b"IHDR":
        return None
    width, height, depth, colour, *ways = struct.unpack_from(">IIBBBBB", content, 16)
    if depth != 8 or colour not in CHANNELS or any(ways) or not 0 < width * height <= LARGEST:
        return None
    data: list[bytes] = []
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        name, end = content[start + 4 : start + 8], start + 8 + length
        if content[end : end + 4] != zlib.crc32(content[start + 4 : end]).to_bytes(4, "big"):
            return None
        if name == b"IEND":
            whole = end + 4 == len(content) and length == 0
            return (width, height, CHANNELS[colour], b"".join(data)) if whole else None
        if name == b"IDAT":
            data.append(content[start + 8 : end])
        elif name not in HARMLESS and (name != b"IHDR" or start != len(SIGNATURE) or length != 13):
            return None
        start = end + 4
    return None
