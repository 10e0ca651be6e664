"""Which images the server decodes itself."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.deploy.serve import session
from kerasimg.deploy.serve.plain import is_plain
from kerasimg.spec.document import Image


def saved(kind: str, side: int = 32, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.new(mode, (side, side), 7).save(file, kind, **options)
    return file.getvalue()


def text() -> PngInfo:
    info = PngInfo()
    info.add_text("comment", "a" * 1000, zip=True)
    return info


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (saved("PNG"), True),
        (saved("PNG", mode="P"), True),
        (saved("JPEG"), True),
        (saved("JPEG", mode="L"), True),
        (saved("JPEG", 256), True),
        (saved("JPEG", 257), False),
        (saved("PNG", 257), False),
        (saved("JPEG", progressive=True), False),
        (saved("JPEG") * 2, False),
        (saved("JPEG", exif=PIL.Image.Exif()), True),
        (saved("PNG", pnginfo=text()), False),
        (saved("PNG", icc_profile=b"profile" * 9), False),
        (saved("PNG")[:-1], False),
        (saved("PNG") + b"more", False),
        (saved("JPEG")[:2] + b"\xff\xfe\0\2" * 100 + saved("JPEG")[2:], False),  # comments
        (saved("PNG")[:33] + b"\0\0\0\0IDAT\x35\xaf\x06\x1e" * 100 + saved("PNG")[33:], False),
        (saved("GIF"), False),
        (saved("WEBP"), False),
        (b"\xff\xd8\xff", False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"", False),
    ],
)
def test_only_small_images_of_plain_kinds_are_decoded_by_the_server(data: bytes, plain: bool):
    assert is_plain(data) is plain


def test_a_limit_of_pixels_below_its_own_holds():
    assert is_plain(saved("PNG", 20), 400)
    assert not is_plain(saved("PNG", 21), 400)


def test_every_byte_of_a_header_may_be_anything():
    random = np.random.default_rng(0)
    for data in (saved("PNG", 8), saved("JPEG", 8)):
        for _ in range(300):
            changed = bytearray(data)
            for position in random.integers(2, min(60, len(data)), 3):
                changed[position] = random.integers(256)
            assert is_plain(bytes(changed)) in (True, False)
            assert is_plain(bytes(changed[: random.integers(len(data))])) in (True, False)


@pytest.mark.parametrize("options", [{}, {"channels": 1}, {"size": [20, 24]}, {"crop_fraction": 0.8, "resize": "crop"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("opencv", [True, False])
def test_the_server_decodes_plain_images_as_a_worker_does(
    options: dict[str, Any], mode: str, opencv: bool, monkeypatch: pytest.MonkeyPatch
):
    if not opencv:  # as in a container
        monkeypatch.setattr(session, "plain_pixels", None)
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(values).convert(mode).save(file, "PNG")
    image = Image(**({"size": [32, 32]} | options))
    np.testing.assert_array_equal(
        session.decode_plain(file.getvalue(), image), decode(file.getvalue(), image), strict=True
    )


def test_the_server_refuses_files_for_a_model_of_many_channels():
    with pytest.raises(BadImage, match="sent as tensors"):
        session.decode_plain(saved("PNG"), Image(size=[32, 32], channels=5))
