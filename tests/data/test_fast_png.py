import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from kerasimg.data import fast_png
from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage
from kerasimg.spec.document import Image

VALUES = np.random.default_rng(0).integers(0, 256, (28, 20, 3), dtype=np.uint8)


def png(pixels: np.ndarray = VALUES, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(content: bytes, name: bytes, data: bytes) -> bytes:
    return content[:33] + chunk(name, data) + content[33:]


def rows(filters: list[int]) -> bytes:
    """A PNG whose rows are filtered in these ways, written by hand: 5 pixels each, RGB."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, len(filters), 8, 2, 0, 0, 0))
    values = np.random.default_rng(1).integers(0, 256, (len(filters), 15), dtype=np.uint8)
    data = b"".join(bytes([way]) + row.tobytes() for way, row in zip(filters, values, strict=True))
    return fast_png.SIGNATURE + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_plain_images_have_exactly_the_pixels_of_the_reference():
    smooth = np.arange(560, dtype=np.uint16).reshape(28, 20).astype(np.uint8)
    resolution = with_chunk(png(), b"pHYs", struct.pack(">IIB", 1, 1, 1))
    for content in (png(), png(mode="L"), png(smooth), png(compress_level=0), rows([0, 1, 2, 3, 4] * 2), resolution):
        assert fast_png.plain_pixels(content) is not None
        for image in (
            *(Image(size=[28, 20], channels=channels) for channels in (1, 3)),
            *(Image(size=[9, 31], resize=policy) for policy in ("stretch", "crop", "pad")),
            Image(size=[28, 20], interpolation="lanczos", resize="crop"),
        ):
            assert np.array_equal(decode_fast(content, image), decode(content, image))


@pytest.mark.parametrize(
    "content",
    [
        png(mode="P"),
        png(mode="RGBA"),
        png(mode="1"),
        png(np.full((9, 9), 40_000, np.uint16)),
        png(transparency=(1, 2, 3)),
        png(np.zeros((130, 130), np.uint8)),
        with_chunk(png(), b"eXIf", b"MM\0*\0\0\0\x08\0\0"),
        with_chunk(png(), b"tEXt", b"Raw profile type exif\0"),
        with_chunk(png(), b"acTL", bytes(8)),
        rows([0, 5]),
        png() + b"more",
        png()[:-4],
        png()[:-12],
        png()[:60] + b"\0" + png()[61:],
        png()[:20],
        with_chunk(png(), b"IDAT", b"not it"),
        b"\x89PNG",
        b"",
    ],
)
def test_what_is_not_plain_or_not_whole_is_left_to_the_reference(content: bytes):
    assert fast_png.plain_pixels(content) is None
    image = Image(size=[28, 20])
    outcomes = []
    for function in (decode, decode_fast):
        try:
            outcomes.append(function(content, image).tolist())
        except BadImage as error:
            outcomes.append(error.reason)
    assert outcomes[0] == outcomes[1]


def test_files_are_read_as_the_reference_reads_them(tmp_path):
    image = Image(size=[28, 20])
    files = {"a.png": png(), "big.png": png(np.zeros((300, 300, 3), np.uint8), compress_level=0), "empty.png": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for path in (str(tmp_path / name) for name in ("a.png", "big.png")):
        assert np.array_equal(decode_fast(path, image), decode(path, image))
    for name, reason in (("empty.png", "is empty"), ("none.png", "does not exist"), (".", "is a folder")):
        with pytest.raises(BadImage, match=reason):
            decode_fast(str(tmp_path / name), image)
