"""One entry point for images: paths, folders, bytes, files, PIL images, arrays, tensors, and lists of them.

`named_images` turns whatever a caller passes into named images that the decoder takes. Arrays are checked by
`pixels.py`. An array of three dimensions is one image (height, width, channels) where its last
dimension is 1, 3 or 4, and else a batch of grey images (N, height, width).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kerasimg.data.image_files import BadImage, to_plain
from kerasimg.data.items import ImageInput, fault
from kerasimg.data.pixels import channels_fault, to_array, type_fault, value_fault
from kerasimg.data.readers.folders import collect
from kerasimg.errors import CallError

Images = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray | Sequence[Any]
"""A path of an image or a folder, an image as bytes, PIL.Image or array (H, W, C), or several of them."""

EXPECTED = "a path, bytes, a file opened for reading bytes, a PIL image, an array, or a list of them"
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:[a-z]+/", re.IGNORECASE)
"""How a URL begins; one slash is enough, since `pathlib.Path` removes the second. Not a drive: "C:/"."""


class NamedImage(NamedTuple):
    """An image and its name."""

    name: str
    """Its path, or its position: "[3]"."""
    image: ImageInput | BadImage
    """A path, the bytes of a file, pixels, or the reason why it is not an image."""

    def read(self) -> ImageInput:
        """The image; raises BadImage if it is not one."""
        if isinstance(self.image, BadImage):
            raise self.image
        return self.image


def named_images(images: Any, channels: int = 3) -> list[NamedImage]:
    """Returns each image that a caller passed, with its name.

    Args:
        given: a path (of a file, or of a folder with images below it), bytes, a file opened for reading bytes, a PIL
            image, an array or tensor ((H, W), (H, W, C), (N, H, W) or (N, H, W, C), 0 to 255), or any list of these.
        channels: of the model's input; distinguishes three grey images from one with its channels first.

    Returns:
        The images in order. One whose type, shape or values are wrong holds a `BadImage`. Files are not read.

    Raises:
        CallError: for what is not an image at all: a URL, an unknown type.
        DataError: for an array of many images of a wrong type, shape or range.
    """
    if _is_array(images):
        array = _array(images, "array")
        if array.ndim != 1 or array.dtype.kind not in "OUS":
            return _of_array(array, channels)
        images = array.tolist()  # paths, or images of several sizes
    if _is_single(images):
        return _dark_together(_of_one(images, 0, channels))
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise _unknown(images, "")
    members = list(images)
    if members and all(isinstance(member, list | tuple | int | float) for member in members):
        return _of_array(_array(members, "array"), channels)
    return _dark_together([image for place, member in enumerate(members) for image in _of_one(member, place, channels)])


def require_local(path: str) -> None:
    """Raises a CallError if a path is a URL."""
    if ADDRESS.match(path):
        shown = path if len(path) <= 80 else f"{path[:80]}..."
        raise CallError(f"'{shown}': addresses are not fetched; download the file and pass its path, or pass its bytes")


def from_pil(image: PIL.Image.Image) -> ImageInput:
    """Converts a PIL image to pixels, (H, W) or (H, W, 3) uint8, upright; to the bytes of a PNG if it is transparent.

    Raises:
        BadImage: if it cannot be loaded, or its values are out of range.
    """
    plain = to_plain(image)
    if plain.mode in ("L", "RGB"):
        return np.array(plain)
    file = io.BytesIO()
    plain.save(file, "PNG", compress_level=1)
    return file.getvalue()


def as_image(member: Any, where: str = "", channels: int = 3) -> ImageInput:
    """Converts one image of any kind to a path, bytes or pixels.  channels: of the model's input.

    Raises:
        CallError: for what is not an image at all.
        BadImage: for an image of a wrong type, shape or range.
    """
    if isinstance(member, str | os.PathLike):
        path = os.fspath(member)
        if not isinstance(path, str):
            path = os.fsdecode(path)
        require_local(path)
        return path
    if isinstance(member, bytes | bytearray | memoryview):
        return bytes(member)
    if isinstance(member, PIL.Image.Image):
        return from_pil(member)
    if callable(getattr(member, "read", None)):
        return _from_file(member, where)
    if _is_array(member) or isinstance(member, list | tuple):
        pixels = _array(member, where)
        if reason := _single_fault(pixels, channels):
            raise BadImage(reason)
        return pixels
    raise _unknown(member, where)


def _of_one(member: Any, place: int, channels: int) -> list[NamedImage]:
    name = f"[{place}]"
    if isinstance(member, str | os.PathLike):
        path = as_image(member)
        if isinstance(path, str) and os.path.isdir(path):
            return [NamedImage(file, file) for file in sorted(collect(path)[0])]
        return [NamedImage(str(path), path)]
    if not isinstance(member, PIL.Image.Image) and isinstance(getattr(member, "name", None), str):
        name = member.name  # an open file
    try:
        return [NamedImage(name, as_image(member, name, channels))]
    except BadImage as error:
        return [NamedImage(name, error)]


def _of_array(pixels: np.ndarray, channels: int) -> list[NamedImage]:
    """The images of a single array."""
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4, channels)):
        reason = _single_fault(pixels, channels)
        return _dark_together([NamedImage("[0]", BadImage(reason) if reason else pixels)])
    if pixels.ndim == 3 and pixels.shape[0] == channels == 3:
        raise fault(
            "array",
            "",
            f"{pixels.shape} is one image with its channels first, or three grey images; say which: "
            "image.transpose(1, 2, 0), or images[..., numpy.newaxis]",
        )
    if reason := batch_fault(pixels, channels):
        raise fault("array", "", reason)
    return [NamedImage(f"[{place}]", image) for place, image in enumerate(pixels)]


def batch_fault(pixels: np.ndarray, channels: int = 3) -> str | None:
    """What is wrong with an array of images, (N, H, W) or (N, H, W, C); None if it is valid.

    channels: `image.channels`; if they are more than 3, `image.range` says what the values mean.
    """
    if reason := type_fault(pixels):
        return f"{reason}, of shape (N, height, width) or (N, height, width, channels); got {_got(pixels)}"
    if pixels.ndim not in (3, 4):
        shapes = "(N, height, width) or (N, height, width, channels)"
        return f"expected numbers of shape {shapes}, got {_got(pixels)}"
    if pixels.ndim == 4 and (reason := channels_fault(pixels.shape[3], pixels.shape, channels)):
        return reason
    if not pixels.size:
        return "holds no images"
    return None if channels > 3 else value_fault(pixels)


def _single_fault(pixels: np.ndarray, channels: int) -> str | None:
    if reason := type_fault(pixels):
        return reason
    if pixels.ndim not in (2, 3):
        return f"has the shape {pixels.shape}; expected one image, (height, width) or (height, width, channels)"
    if pixels.ndim == 3 and (reason := channels_fault(pixels.shape[2], pixels.shape, channels)):
        return reason
    if not pixels.size:
        return "has no pixels"
    # A single uint8 image may be nearly black: see `_dark_together`.
    return None if channels > 3 or pixels.dtype == np.uint8 else value_fault(pixels)


def _dark_together(images: list[NamedImage]) -> list[NamedImage]:
    """Refuse uint8 arrays if none of them has a value above 1."""
    arrays = {place: named.image for place, named in enumerate(images) if isinstance(named.image, np.ndarray)}
    places = [place for place, pixels in arrays.items() if pixels.dtype == np.uint8 and pixels.shape[2:] < (4,)]
    maxima = np.array([arrays[place].max() for place in places] or [0], np.uint8)
    if reason := value_fault(maxima):
        for place in places:
            images[place] = images[place]._replace(image=BadImage(reason))
    return images


def _is_array(value: Any) -> bool:
    """Whether it is an array or a tensor; a PIL image is not, although NumPy could read it."""
    if isinstance(value, PIL.Image.Image | str | bytes):
        return False
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "shape"))


def _is_single(images: Any) -> bool:
    kinds = str | os.PathLike | bytes | bytearray | memoryview | PIL.Image.Image
    return isinstance(images, kinds) or callable(getattr(images, "read", None))


def _array(value: Any, where: str) -> np.ndarray:
    try:
        return to_array(value)
    except ValueError as error:
        raise fault(where, "", f"cannot be made an array ({error}); expected {EXPECTED}") from error


def _from_file(file: Any, where: str) -> bytes:
    place = file.tell() if callable(getattr(file, "tell", None)) and getattr(file, "seekable", bool)() else 0
    content = file.read()
    if isinstance(content, str):
        raise CallError(f"{where or 'the file'}: opened as text; open it for reading bytes: open(path, 'rb')")
    if not content and place:
        raise BadImage("is at its end, nothing is left to read; go back to its beginning: file.seek(0)")
    return bytes(content)


def _got(pixels: np.ndarray) -> str:
    kind = "object" if pixels.dtype.kind == "O" else pixels.dtype
    return f"{kind} of shape {pixels.shape}"


def _unknown(member: Any, where: str) -> CallError:
    place = f"{where}: " if where else ""
    return CallError(f"{place}expected {EXPECTED}, got {type(member).__name__}")
