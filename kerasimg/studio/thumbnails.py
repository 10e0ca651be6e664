"""Thumbnails of images, decoded as training decodes them, and cached on the disk."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import PIL.Image

from kerasimg.data.image_files import read_pixels
from kerasimg.data.readers.image_store import file_key

SIDE_PX = 192
"""The longer side of a thumbnail."""
LARGE_PX = 1600
"""The longer side of an image that is shown by itself."""
TYPE = "image/webp"


class Thumbnails:
    """The cache of a folder's thumbnails.

    Args:
        folder: where they are stored; it can be removed at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, file: Path) -> bytes:
        """The thumbnail of an image as WebP.

        Raises:
            BadImage: if the image cannot be read.
            OSError: if there is no such file.
        """
        file.stat()  # an OSError where there is none, not the key of a missing file
        name = file_key(os.fsencode(file)).hex()
        cached = self.folder / name[:2] / f"{name}.webp"
        try:
            return cached.read_bytes()
        except FileNotFoundError:
            content = render(file, SIDE_PX)
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Several threads may render the same one; each writes a file of its own, and the last one stays.
        partial = cached.with_name(f".{threading.get_ident()}-{name}")
        partial.unlink(missing_ok=True)  # it may be a link in the folder of a stranger
        partial.write_bytes(content)
        partial.replace(cached)
        return content


def render(file: Path | bytes, side: int) -> bytes:
    """An image as WebP, upright, its longer side at most `side` pixels.

    Raises:
        BadImage: if it cannot be read.
    """

    def reduce(opened: PIL.Image.Image) -> None:
        scale = min(1.0, side / max(opened.size))
        opened.draft(None, (int(opened.width * scale) or 1, int(opened.height * scale) or 1))

    pixels = read_pixels(file, opened=reduce)
    scale = min(1.0, side / max(pixels.width, pixels.height))
    size = (round(pixels.width * scale) or 1, round(pixels.height * scale) or 1)
    image = pixels.resize(size, PIL.Image.Resampling.BILINEAR)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=80, method=0)
    return content.getvalue()
