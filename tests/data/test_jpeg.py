"""A JPEG that lost a part of its data is named, by whatever decodes it; a whole one is decoded as Pillow does."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data import jpeg, readable
from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage, TooCostly, read_image
from kerasimg.data.images import from_pil
from kerasimg.data.sources import open_source
from kerasimg.data.summary import summarize
from kerasimg.spec.document import Image

PHOTO = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
SMOOTH = PIL.Image.fromarray(PHOTO).resize((220, 180), PIL.Image.Resampling.BICUBIC)


def written(image: PIL.Image.Image = SMOOTH, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


KINDS = {
    "4:2:0": written(),
    "4:4:4": written(subsampling=0),
    "4:2:2": written(subsampling=1),
    "progressive": written(progressive=True),
    "restarts": written(restart_marker_rows=1),
    "optimised": written(optimize=True),
    "grey": written(SMOOTH.convert("L")),
    "CMYK": written(SMOOTH.convert("CMYK")),
}


def rows(content: bytes, change: Callable[[int], int]) -> bytes:
    """The file with another number of rows in its header."""
    start = next(place for marker in (b"\xff\xc0", b"\xff\xc2") if (place := content.find(marker)) > 0) + 5
    (height,) = struct.unpack_from(">H", content, start)
    return content[:start] + struct.pack(">H", change(height)) + content[start + 2 :]


def scan(content: bytes, share: float) -> int:
    """A place within the coded pixels."""
    start = content.index(b"\xff\xda") + 14
    return start + int(share * (len(content) - start))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in half and closed": lambda content: content[: scan(content, 0.5)] + b"\xff\xd9",
    "lost its middle": lambda content: content[: scan(content, 0.3)] + content[scan(content, 0.7) :],
    "ten times the rows": lambda content: rows(content, lambda height: 10 * height),
    "16 rows more": lambda content: rows(content, lambda height: height + 16),
    "half of the rows": lambda content: rows(content, lambda height: height // 2),
    "cut short": lambda content: content[: scan(content, 0.9)],
}

IMAGE = Image(size=[32, 32])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "decoder", [lambda content: decode_fast(content, IMAGE), lambda content: decode(content, IMAGE), read_image]
)
def test_a_jpeg_that_lost_data_is_named(kind: str, damage: str, decoder: Callable[[bytes], Any]):
    with pytest.raises(BadImage, match=r"is damaged|is truncated"):
        decoder(DAMAGES[damage](KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_is_decoded_as_pillow_does(kind: str):
    with PIL.Image.open(io.BytesIO(KINDS[kind])) as opened:
        assert np.array_equal(np.asarray(read_image(KINDS[kind])), np.asarray(opened.convert("RGB")))
        assert (jpeg.decode_whole(KINDS[kind], opened, opened.size) is None) is (kind == "CMYK")


def test_what_libjpeg_warns_of_and_loses_nothing_is_decoded():
    for extra in (b"\0", b"\0" * 100):
        padded = KINDS["grey"][:-2] + extra + KINDS["grey"][-2:]
        assert np.array_equal(decode(padded, IMAGE), decode(KINDS["grey"], IMAGE))
        decode_fast(padded, IMAGE)
    assert np.array_equal(decode(KINDS["4:2:0"] + bytes(50), IMAGE), decode(KINDS["4:2:0"], IMAGE))


def test_data_check_names_a_jpeg_that_lost_its_middle(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.jpg").write_bytes(written(SMOOTH.rotate(9 * number)))
    (tmp_path / "a" / "3.jpg").write_bytes(DAMAGES["lost its middle"](KINDS["4:2:0"]))
    (tmp_path / "a" / "4.jpg").write_bytes(DAMAGES["ten times the rows"](KINDS["4:2:0"]))
    checked = kerasimg.check_data(tmp_path)
    assert sorted(checked.source.items[index].id for index in checked.seen.reasons) == ["a/3.jpg", "a/4.jpg"]


def many_scans(count: int = 120) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    plain = KINDS["progressive"]
    return plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def test_a_jpeg_with_many_scans_is_refused_by_every_reader(tmp_path):
    (tmp_path / "bomb.jpg").write_bytes(many_scans())
    for image in (many_scans(), str(tmp_path / "bomb.jpg")):
        for decoder in (read_image, lambda image: decode_fast(image, IMAGE), lambda image: decode(image, IMAGE)):
            with pytest.raises(TooCostly, match=r"has 1\d\d scans; the limit is 100$"):
                decoder(image)
    with PIL.Image.open(tmp_path / "bomb.jpg") as opened, pytest.raises(TooCostly, match="scans; the limit is 100"):
        from_pil(opened)
    grey = written(PIL.Image.new("RGB", (60, 60), (90, 90, 90)))  # so that the summary looks for colours in every image
    for place, content in {"a/0": grey, "b/0": grey, "b/1": many_scans()}.items():
        path = tmp_path / "data" / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    source = open_source(tmp_path / "data")
    [bad] = readable.scan(source)
    assert bad.id == "b/1.jpg"
    assert bad.reason.endswith("scans; the limit is 100")
    assert summarize(source).unreadable == 1


def test_a_large_jpeg_may_have_fewer_scans():
    content = many_scans(40)
    assert jpeg.scans_fault(content, 10_000_000) is None
    assert str(jpeg.scans_fault(content, 49_000_000)).endswith("scans; the limit is 20 for 49 million pixels")
    assert jpeg.scans_fault(many_scans(1), 170_000_000) is None


def test_only_the_scans_of_the_image_itself_count():
    marker = b"\xff\xda\x00\x02"
    film = KINDS["progressive"] + marker * 200
    assert np.array_equal(read_image(film), read_image(KINDS["progressive"]))
    metadata = b"\xff\xec" + struct.pack(">H", 802) + marker * 200
    assert np.array_equal(read_image(KINDS["4:2:0"][:2] + metadata + KINDS["4:2:0"][2:]), read_image(KINDS["4:2:0"]))


def test_a_png_whose_header_claims_more_rows_is_named():
    file = io.BytesIO()
    SMOOTH.save(file, "PNG")
    content = file.getvalue()
    import zlib

    head = b"IHDR" + content[16:20] + struct.pack(">I", 1800) + content[24:29]
    taller = content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    for decoder in (read_image, lambda content: decode_fast(content, IMAGE)):
        with pytest.raises(BadImage, match="fewer rows than its header says"):
            decoder(taller)
    black = io.BytesIO()
    PIL.Image.new("RGB", (40, 40)).save(black, "PNG")
    assert not np.asarray(read_image(black.getvalue())).any()


def test_a_header_that_claims_more_pixels_than_the_bytes_can_hold_is_named_before_they_are_decoded():
    content = bytearray(KINDS["progressive"])
    frame = content.index(b"\xff\xc2")
    content[frame + 5 : frame + 9] = (12_000).to_bytes(2, "big") * 2
    with pytest.raises(BadImage, match=r"is truncated: [\d,]+ bytes cannot hold 12000 x 12000 pixels"):
        read_image(bytes(content))
    for flat in (PIL.Image.new("L", (3000, 3000)), PIL.Image.new("RGB", (3000, 3000), (9, 90, 200))):
        for progressive in (True, False):
            file = io.BytesIO()
            flat.save(file, "JPEG", quality=1, optimize=True, progressive=progressive)
            assert read_image(file.getvalue()).size == (3000, 3000)
