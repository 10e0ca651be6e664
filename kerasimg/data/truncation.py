"""Whether a file that cannot be decoded was cut: it ends before the end that it declares.

Decoders report a cut file as they please: "broken data stream", "could not create decoder object", "cannot identify".
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import IO, Final

from kerasimg.data import tiff

LARGEST_READ: Final = 256 * 1024**2
"""Bytes of the largest file that is looked at."""


def is_cut(file: IO[bytes]) -> bool:
    """Whether an image file ends too early, as far as its format says where it ends."""
    file.seek(0)
    content = file.read(LARGEST_READ)
    ends_early = next((check for beginning, check in CHECKS.items() if content[4:8] == beginning), None)
    ends_early = ends_early or next(
        (check for beginning, check in CHECKS.items() if content.startswith(beginning)), None
    )
    try:
        return ends_early is not None and len(content) < LARGEST_READ and ends_early(content)
    except (struct.error, IndexError):  # within its header
        return True


def _riff(content: bytes) -> bool:
    return len(content) < 8 + struct.unpack_from("<I", content, 4)[0]


def _bmp(content: bytes) -> bool:
    return len(content) < struct.unpack_from("<I", content, 2)[0]


def _png(content: bytes) -> bool:
    return b"IEND" not in content


def _gif(content: bytes) -> bool:
    return not content.rstrip(b"\0").endswith(b";")


def _qoi(content: bytes) -> bool:
    return not content.endswith(b"\0\0\0\0\0\0\0\1")


def _ico(content: bytes) -> bool:
    count = struct.unpack_from("<H", content, 4)[0]
    entries = [struct.unpack_from("<II", content, 6 + 16 * number + 8) for number in range(count)]
    return any(start + size > len(content) for size, start in entries)


def _boxes(content: bytes) -> bool:
    """AVIF, HEIC and JPEG 2000: boxes one after the other, each with its length; 0: up to the end of the file."""
    start = 0
    while start < len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if size == 1:
            size = struct.unpack_from(">Q", content, start + 8)[0]
        if size == 0 or (kind == b"jp2c" and start + size >= len(content)):
            return start + size > len(content) or (kind == b"jp2c" and _codestream(content))
        if size < 8:
            return False
        start += size
    return start > len(content)


def _codestream(content: bytes) -> bool:
    return not content.endswith(b"\xff\xd9")


def _tiff(content: bytes) -> bool:
    return tiff.ends_early(io.BytesIO(content), len(content))


CHECKS: Final[Mapping[bytes, Callable[[bytes], bool]]] = {
    b"ftyp": _boxes,
    b"RIFF": _riff,
    b"BM": _bmp,
    b"\x89PNG": _png,
    b"GIF8": _gif,
    b"qoif": _qoi,
    b"\0\0\1\0": _ico,
    b"\0\0\0\x0cjP  ": _boxes,
    b"\xff\x4f\xff\x51": _codestream,
    **dict.fromkeys(tiff.BEGINNINGS, _tiff),
}
"""First bytes of a format, or those from the fifth on -> whether such a file was cut."""
