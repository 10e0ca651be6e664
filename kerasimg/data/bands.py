"""Images of 4 to 16 channels: multispectral TIFF and .npy files, as remote sensing and microscopy use them.

A TIFF is read by tifffile (the extra `multispectral`), a .npy file by NumPy; neither runs code. Bands keep their order
and are no colours: there is no alpha, no conversion, and no orientation. Values become 8 bits by `image.range`, which
the spec states; nothing is guessed from the values. The bands are resized one by one, as grey images are.
"""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.data import tiff
from kerasimg.data.image_files import MAX_PIXELS, BadImage, ImageInput, open_image, read_image
from kerasimg.errors import counted

NPY = b"\x93NUMPY"
"""First bytes of a .npy file."""
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Version of the format -> NumPy's reader of its header."""
EXAMPLE = '"range": [0, 10000]'


def read_bands(img: ImageInput, channels: int, limits: list[float] | None) -> np.ndarray:
    """Reads an image of several bands: uint8, (height, width, channels).

    Args:
        img: a path, the bytes of a file, or an array (H, W, C).
        channels: the number of bands that it must have.
        limits: `image.range`: the values that become 0 and 255; None: 0 and 255 themselves.

    Raises:
        BadImage: if it cannot be read, has another number of bands, or values that the range does not explain.
    """
    values = img if isinstance(img, np.ndarray) else _from_file(_content(img))
    if values.ndim != 3 or values.shape[-1] != channels or not values.size:
        shape = " x ".join(map(str, values.shape))
        raise BadImage(f"has the shape {shape}; expected height x width x {channels} (image.channels)")
    return _to_bytes(values, limits)


def several_bands(img: ImageInput) -> np.ndarray | None:
    """The values of an image of 4 to 16 bands, (height, width, bands), as they are stored; None for any other.

    A finite number is needed for each value. A TIFF whose fourth channel is declared as alpha is an image in colour.
    """
    try:
        values = img if isinstance(img, np.ndarray) else _from_file(_content(img))
    except BadImage:
        return None
    bands = values.ndim == 3 and values.size and 4 <= values.shape[-1] <= 16 and values.dtype.kind in "uif"
    return values if bands and np.isfinite(values).all() else None


def preview(values: np.ndarray) -> PIL.Image.Image:
    """The first three bands as RGB, each between its least and its greatest value."""
    three = values[..., :3].astype(np.float32)
    low, high = three.min((0, 1)), three.max((0, 1))
    return PIL.Image.fromarray(np.rint((three - low) * (255 / np.maximum(high - low, 1e-9))).astype(np.uint8))


def read_shown(img: ImageInput) -> PIL.Image.Image:
    """An image as a report shows it: in RGB, or the preview of its bands; BadImage if it is neither."""
    try:
        return read_image(img)
    except BadImage:
        values = several_bands(img)
        if values is None:
            raise
        return preview(values)


def _content(img: str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(img, bytes):
        return img
    with open_image(img) as file:
        return file.read()


def _from_file(content: bytes) -> np.ndarray:
    if not content:
        raise BadImage("is empty")
    read = _read_tiff if content.startswith(tiff.BEGINNINGS) else _read_npy if content.startswith(NPY) else None
    if read is None:
        raise BadImage("is neither a TIFF nor a .npy file, which hold images of more than 3 channels")
    try:
        return read(content)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImage(f"cannot be read ({text})") from error


def _read_npy(content: bytes) -> np.ndarray:
    # `np.load` gets memory for the shape in the header before it looks for the bytes.
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in NPY_HEADERS:
        raise BadImage(f"has version {'.'.join(map(str, version))} of the format; expected 1.0 or 2.0")
    shape, by_columns, dtype = NPY_HEADERS[version](file)
    if dtype.hasobject:
        raise BadImage("holds Python objects, which are never loaded")
    count = math.prod(shape)
    _check_size(count)
    if min(shape, default=0) < 0 or count * dtype.itemsize > len(content) - file.tell():
        raise BadImage(f"is truncated: its header declares the shape {shape} of {dtype}")
    values = np.frombuffer(content, dtype, count, file.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


def _read_tiff(content: bytes) -> np.ndarray:
    try:
        import tifffile
    except ImportError:
        raise BadImage('needs tifffile for its channels: pip install "kerasimg[multispectral]"') from None
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages[0]
        pages = len(file.pages)
        bands = page.samplesperpixel if page.samplesperpixel > 1 else min(pages, 16)
        _check_size(page.imagelength * page.imagewidth * bands)
        if page.samplesperpixel == 1 and 3 < pages <= 16:
            return np.stack([each.asarray() for each in file.pages], axis=-1)  # one band a page, as in microscopy
        pixels: np.ndarray = page.asarray()
        # Separate planes come first.
        return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and page.planarconfig == 2 else pixels


def _check_size(values: int) -> None:
    if values > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise BadImage(f"has {counted(values // 1_000_000, 'million value')}; the limit is {most} million")


def _to_bytes(values: np.ndarray, limits: list[float] | None) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise BadImage(f"holds {values.dtype}, not numbers")
    if limits is None:
        if values.dtype != np.uint8:
            raise BadImage(
                f"holds {values.dtype} from {values.min():g} to {values.max():g}; say which values become 0 and 255, "
                f"as in {EXAMPLE} (image.range)"
            )
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadImage("holds NaN or infinity; replace them, for example by 0")
    low, high = limits
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
