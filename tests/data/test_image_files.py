"""Odd and malformed images: each comes out right or is named."""

import contextlib
import io
import os
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import (
    BYTES_PER_PIXEL,
    MAX_PIXELS,
    OTHERS,
    TRANSPOSED,
    BadImage,
    TooCostly,
    memory_for,
    read_image,
    read_pixels,
)
from kerasimg.spec.document import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def written(image: PIL.Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its parts: for kinds that Pillow does not write."""
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(image, background=WHITE) -> list:
    read = read_image(image, background)
    assert read.mode == "RGB"
    return np.asarray(read).tolist()


def reason(image) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(image)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def test_a_truncated_jpeg_is_named():
    whole = written(PIL.Image.fromarray(NOISE), "JPEG")
    for share in (0.3, 0.6, 0.95):
        assert reason(whole[: int(len(whole) * share)]) == "is truncated"
    assert reason(whole[:3]) == "is truncated or damaged within its header"


def test_a_truncated_png_is_named():
    whole = written(PIL.Image.fromarray(NOISE), "PNG")
    for share in (0.3, 0.6, 0.95):
        assert reason(whole[: int(len(whole) * share)]) == "is truncated"
    assert reason(whole[:20]) == "is truncated"


CUT_FORMS = {
    **{
        form: {}
        for form in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA", "QOI", "PCX")
    },
    "ICO": {"bitmap_format": "bmp", "sizes": [(48, 48)]},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF jpeg": {"compression": "jpeg"},
    "JPEG2000 stream": {"no_jp2": True},
    "WEBP lossless": {"lossless": True},
    "HEIF": {},
}


@pytest.mark.parametrize("form", CUT_FORMS)
def test_a_cut_image_of_any_format_is_truncated(form: str):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    whole = written(PIL.Image.fromarray(NOISE), form.split()[0], **CUT_FORMS[form])
    for percent in (10, 50, 90):
        assert reason(whole[: len(whole) * percent // 100]).startswith("is truncated")


def test_an_empty_file_is_named(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.touch()
    assert reason(path) == reason(b"") == "is empty"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\n<!DOCTYPE html><html>404", "is not an image (it begins like an HTML page)"),
        (b"<?xml version='1.0'?><svg/>", "is not an image (it begins like an XML or SVG document)"),
        (b'{"error": "not found"}', "is not an image (it begins like a JSON document)"),
        (b"%PDF-1.7", "is not an image (it begins like a PDF document)"),
        (b"PK\x03\x04\x14\0", "is not an image (it begins like a ZIP archive)"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, not the image: run `git lfs pull`"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is not an image of a known format"),
    ],
)
def test_a_file_that_is_no_image_is_named_for_what_it_is(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert reason(path) == expected


def test_random_bytes_are_named():
    for seed in range(200):
        assert reason(np.random.default_rng(seed).bytes(500)).startswith("is ")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PCX"])
def test_a_image_with_altered_bytes_is_read_or_named(form: str):
    whole = written(PIL.Image.fromarray(NOISE), form)
    random = np.random.default_rng(2)
    for _ in range(50):
        altered = np.frombuffer(whole, np.uint8).copy()
        altered[random.integers(0, min(len(whole), 400), 8)] = random.integers(0, 256, 8)
        with contextlib.suppress(BadImage):
            assert read_image(altered.tobytes()).mode == "RGB"


def test_a_wrong_extension_is_no_matter(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(written(PIL.Image.new("RGB", (1, 1), RED), "PNG"))
    assert pixels(path) == pixels(str(path)) == [[list(RED)]]


def test_cmyk_becomes_rgb_inverted_or_not():
    ink = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert pixels(written(ink, "TIFF"))[0][0] == list(RED)
    adobe = written(ink, "JPEG", quality=100)  # Pillow writes the Adobe marker and inverts, as Photoshop does
    assert b"Adobe" in adobe
    assert np.abs(np.array(pixels(adobe)[4][4]) - RED).max() <= 2


def test_a_palette_with_transparency_is_laid_over_the_background():
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    assert pixels(written(image, "PNG", transparency=1), BLACK) == [[list(RED), list(BLACK), list(BLUE)]]
    graded = written(image, "PNG", transparency=bytes([255, 0, 128]))
    assert pixels(graded, WHITE) == [[list(RED), list(WHITE), [127, 127, 255]]]
    assert pixels(written(image, "GIF", transparency=0), WHITE) == [[list(WHITE), list(GREEN), list(BLUE)]]


def test_rgba_and_la_are_laid_over_the_background():
    colour = PIL.Image.new("RGBA", (1, 1), (200, 100, 0, 51))
    assert pixels(written(colour, "PNG"), (100, 100, 100)) == [[[120, 100, 80]]]
    grey = PIL.Image.new("LA", (1, 1), (0, 0))
    assert pixels(written(grey, "PNG"), (10, 20, 30)) == [[[10, 20, 30]]]


def test_a_colour_that_means_transparent_is_replaced_in_rgb_grey_and_1_bit():
    rgb = PIL.Image.fromarray(np.array([[RED, GREEN]], np.uint8))
    assert pixels(written(rgb, "PNG", transparency=RED), BLUE) == [[list(BLUE), list(GREEN)]]
    grey = PIL.Image.fromarray(np.array([[7, 8]], np.uint8))
    assert pixels(written(grey, "PNG", transparency=7), BLUE) == [[list(BLUE), [8, 8, 8]]]
    ink = PIL.Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert pixels(written(ink, "PNG", transparency=0), BLUE) == [[list(BLUE), list(WHITE)]]


def test_16_bit_grey_is_divided_by_257():
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = [[[v] * 3 for v in (0, 0, 1, 1, 128, 255)]]
    for form in ("PNG", "TIFF"):
        assert pixels(written(PIL.Image.fromarray(values), form)) == expected
    assert pixels(written(PIL.Image.fromarray(values.astype(np.int32)), "TIFF")) == expected
    portable = b"P5 6 1 65535\n" + values.astype(">u2").tobytes()
    assert pixels(portable) == expected


def test_16_bit_grey_with_a_transparent_value():
    rows = b"\0" + struct.pack(">2H", 1000, 1001)
    file = png(2, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 1000)))
    assert pixels(file, BLUE) == [[list(BLUE), [4, 4, 4]]]


def test_16_bit_colour_keeps_its_high_byte():
    rows = b"\0" + struct.pack(">6H", 65535, 0x80FF, 0, 0x1234, 0x5678, 0x9ABC)
    assert pixels(png(2, 1, 16, 2, rows)) == [[[255, 128, 0], [0x12, 0x56, 0x9A]]]
    clear = (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    assert pixels(png(2, 1, 16, 2, rows, clear), BLUE) == [[[255, 128, 0], list(BLUE)]]
    rows = b"\0" + struct.pack(">4H", 65535, 0, 0, 0)
    assert pixels(png(1, 1, 16, 6, rows), BLUE) == [[list(BLUE)]]


def test_floating_point_counts_to_255():
    values = np.array([[0.0, 1.4, 200.6, 255.0]], np.float32)
    assert pixels(written(PIL.Image.fromarray(values), "TIFF")) == [[[v] * 3 for v in (0, 1, 201, 255)]]
    assert reason(written(PIL.Image.fromarray(values / 255), "TIFF")) == (
        "holds floating-point values from 0 to 1; 0 to 255 is expected"
    )
    assert reason(written(PIL.Image.fromarray(values * 2), "TIFF")) == (
        "holds values from 0 to 510; 0 to 255 is expected"
    )
    assert "holds values from nan" in reason(written(PIL.Image.fromarray(values * np.nan), "TIFF"))


def test_32_bit_values_beyond_16_bits_are_refused():
    values = np.array([[-1, 70000]], np.int32)
    assert reason(written(PIL.Image.fromarray(values), "TIFF")) == (
        "holds values from -1 to 70000; 0 to 65535 is expected"
    )


def test_1_bit_is_black_and_white():
    ink = PIL.Image.new("1", (2, 1))
    ink.putpixel((1, 0), 1)
    for form in ("PNG", "TIFF", "BMP"):
        assert pixels(written(ink, form)) == [[list(BLACK), list(WHITE)]]


def test_ycbcr_and_lab_become_rgb():
    red = PIL.Image.new("RGB", (1, 1), RED)
    assert np.abs(np.array(pixels(written(red.convert("YCbCr"), "TIFF"))) - RED).max() <= 1
    lab = PIL.Image.new("LAB", (1, 1), (255, 128, 128))
    assert np.abs(np.array(pixels(written(lab, "TIFF"))) - WHITE).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(form: str):
    first, second = (PIL.Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE))
    options = {"lossless": True} if form == "WEBP" else {}
    animated = written(first, form, save_all=True, append_images=[second], **options)
    assert pixels(animated)[0][0] == list(RED)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_turned_upright(orientation: int, form: str):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12], upright[:8, 12:], upright[8:, :12] = RED, GREEN, BLUE
    back = {6: PIL.Image.Transpose.ROTATE_90, 8: PIL.Image.Transpose.ROTATE_270}
    stored = PIL.Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(back.get(orientation, TRANSPOSED.get(orientation)))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    read = np.array(pixels(written(stored, form, exif=exif, **options)))
    assert read.shape == upright.shape
    assert np.abs(read - upright).max() <= (8 if form == "JPEG" else 0)


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"])
def test_a_corrupt_exif_block_is_as_none(block: bytes):
    for form in ("JPEG", "PNG", "WEBP"):
        file = written(PIL.Image.new("RGB", (2, 2), WHITE), form, exif=block)
        assert pixels(file) == [[list(WHITE)] * 2] * 2


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_turns_nothing(orientation: int):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    assert pixels(written(PIL.Image.new("RGB", (2, 1), RED), "PNG", exif=exif)) == [[list(RED)] * 2]


def test_a_corrupt_colour_profile_is_ignored():
    for form in ("JPEG", "PNG", "TIFF"):
        file = written(PIL.Image.new("RGB", (1, 1), WHITE), form, icc_profile=b"no profile")
        assert pixels(file) == [[list(WHITE)]]


def test_a_decompression_bomb_is_refused_by_its_header():
    bomb = png(60000, 60000, 8, 2, b"\0")
    assert len(bomb) < 100
    assert reason(bomb) == "has 3,600 million pixels; the limit is 178 million"


def test_the_limit_does_not_depend_on_that_of_pillow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert reason(png(60000, 60000, 8, 2, b"\0")) == "has 3,600 million pixels; the limit is 178 million"
    assert reason(png(MAX_PIXELS // 2, 1, 8, 0, b"\0")) == "is truncated"  # within the limit: decoding begins
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    assert reason(png(60, 60, 8, 2, b"\0")).startswith("is too large (")


def test_a_large_image_within_the_limit_is_read_without_a_warning():
    ink = written(PIL.Image.new("1", (9000, 9000)), "PNG")
    pixels = read_pixels(ink)
    assert (pixels.width, pixels.height) == (9000, 9000)


def test_one_pixel_and_20000_in_a_row_are_read():
    assert pixels(written(PIL.Image.new("L", (1, 1), 7), "PNG")) == [[[7, 7, 7]]]
    assert read_image(written(PIL.Image.new("RGB", (20000, 1), RED), "PNG")).size == (20000, 1)


def test_what_is_no_file_is_named(tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    assert reason(tmp_path / "folder.png") == "is a folder"
    assert reason(tmp_path / "missing.png") == "does not exist"
    (tmp_path / "link.png").symlink_to(tmp_path / "missing.png")
    assert reason(tmp_path / "link.png") == "is a link to a file that does not exist"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert reason(tmp_path / "loop.png").startswith("cannot be read (")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "is not a file"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert reason(path) == "cannot be read (Permission denied)"


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_arrays_become_rgb(shape: tuple[int, ...]):
    grey = np.arange(6, dtype=np.uint8).reshape(shape)
    assert np.array_equal(pixels(grey), np.repeat(grey.reshape(2, 3, 1), 3, axis=2))


def test_arrays_of_colour_are_read_and_a_fourth_channel_is_not_taken_for_alpha():
    assert np.array_equal(pixels(NOISE), NOISE)
    with pytest.raises(BadImage, match=r"has 4 channels.*PIL\.Image\.fromarray\(image\)"):
        pixels(np.array([[[*RED, 255], [*RED, 0]]], np.uint8), BLUE)


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "uint16"])
def test_arrays_of_other_numbers_count_to_255(kind: str):
    assert np.array_equal(pixels(NOISE.astype(kind)), NOISE)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 2, 2), np.uint8), "has the shape (2, 2, 2); expected (height, width), or 1 or 3 channels"),
        (np.zeros(4, np.uint8), "has the shape (4,)"),
        (np.zeros((0, 2), np.uint8), "has no pixels"),
        (np.full((2, 2), 256), "holds values from 256 to 256; 0 to 255 is expected"),
        (np.full((2, 2), np.nan), "holds values from nan to nan"),
        (np.full((2, 2), "a"), "holds <U1, not numbers"),
    ],
)
def test_arrays_that_are_no_images_are_named(array: np.ndarray, expected: str):
    assert reason(array).startswith(expected)


def test_threads_do_not_disturb_each_other():
    files = [written(PIL.Image.fromarray(np.roll(NOISE, shift, 0)), "PNG") for shift in range(16)] * 8
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(pixels, files))
    assert all(np.array_equal(one, np.roll(NOISE, index % 16, 0)) for index, one in enumerate(read))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("last", [0, 165, 255])
def test_a_png_that_lacks_rows_is_named_and_a_plain_last_row_is_not_taken_for_a_missing_one(mode: str, last: int):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    values[-1] = last
    image = PIL.Image.fromarray(values).convert("L" if mode == "I;16" else "RGB" if mode == "P" else mode)
    if mode == "P":
        image = image.convert("P")
    if mode == "I;16":
        image = PIL.Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    file = io.BytesIO()
    image.save(file, "PNG")
    content = file.getvalue()
    assert read_image(content).size == (30, 20)
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start])
    rows = zlib.decompress(content[start + 4 : start + 4 + length])
    for count in (0, 10, 19):
        data = zlib.compress(rows[: count * len(rows) // 20])
        chunk = len(data).to_bytes(4) + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4)
        with pytest.raises(BadImage, match=r"fewer rows than its header says|is truncated"):
            read_image(content[: start - 4] + chunk + content[start + 8 + length :])


@pytest.mark.parametrize("colour", [0, 2, 6])
def test_an_interlaced_png_that_lacks_rows_is_named(colour: int):
    channels = {0: 1, 2: 3, 6: 4}[colour]
    passes = [(4, 3), (4, 3), (8, 2), (7, 5), (15, 5), (15, 10), (30, 10)]  # columns and rows, of 30 x 20
    rows = [bytes(1 + columns * channels) for columns, count in passes for _ in range(count)]
    whole = png(30, 20, 8, colour, b"".join(rows)).replace(*interlaced(30, 20, colour))
    assert read_image(whole).size == (30, 20)
    for count in (1, 20, len(rows) - 1):
        part = png(30, 20, 8, colour, b"".join(rows[:count])).replace(*interlaced(30, 20, colour))
        assert re.search("fewer rows than its header says|is truncated", reason(part))


def interlaced(width: int, height: int, colour: int) -> tuple[bytes, bytes]:
    """The header of a PNG, with its checksum, as it is and interlaced."""
    headers = [b"IHDR" + struct.pack(">2I5B", width, height, 8, colour, 0, 0, way) for way in (0, 1)]
    return tuple(header + struct.pack(">I", zlib.crc32(header)) for header in headers)  # type: ignore[return-value]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_large_images_are_resized_in_strips_with_the_result_of_pillow(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kerasimg.data.image_files.STRIP", 1000)
    noise = np.random.default_rng(0).integers(0, 2, (70, 90, 4), dtype=np.uint8) * 255  # filters overshoot the most
    image = PIL.Image.fromarray(noise).convert("RGB" if mode == "P" else mode if mode != "I;16" else "L")
    image = image.convert("P") if mode == "P" else image
    if mode == "I;16":
        image = PIL.Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    for orientation in (1, *TRANSPOSED):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        content = written(image, "PNG", exif=exif)
        for filter_ in (PIL.Image.Resampling.BICUBIC, PIL.Image.Resampling.LANCZOS, PIL.Image.Resampling.BOX):
            for size, box in (((13, 11), None), ((13, 11), (3.5, 1.25, 60.0, 66.5)), ((41, 7), None)):
                strips = read_pixels(content).resize(size, filter_, box)
                assert np.array_equal(strips, read_image(content).resize(size, filter_, box))


@pytest.mark.parametrize(
    ("form", "mode", "reduced"),
    [
        *(("JPEG", mode, (30, 20)) for mode in ("RGB", "L", "CMYK")),
        *(("JPEG2000", mode, (30, 20)) for mode in ("RGB", "L", "RGBA")),
        *((form, "RGBA", None) for form in ("PNG", "WEBP", "AVIF", "TIFF")),
        *((form, "RGB", None) for form in ("PNG", "WEBP", "AVIF", "TIFF", "QOI", "TGA", "PPM")),
        ("PNG", "I;16", None),
        ("TIFF", "F", None),
        ("GIF", "P", None),
    ],
)
def test_memory_is_bounded_by_the_bytes_of_the_file(
    form: str, mode: str, reduced: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
):
    content = written(PIL.Image.new(mode, (60, 40)), form)
    with PIL.Image.open(io.BytesIO(content)) as opened:
        keys = (f"{form} {opened.mode}", form, opened.mode)
    needed = 60 * 40 * next((BYTES_PER_PIXEL[key] for key in keys if key in BYTES_PER_PIXEL), OTHERS)
    monkeypatch.setattr("kerasimg.data.image_files.memory_for", lambda length: needed)
    assert read_image(content).size == (60, 40)
    monkeypatch.setattr("kerasimg.data.image_files.memory_for", lambda length: needed - 1)
    if reduced:
        assert read_image(content).size == reduced
        assert decode_fast(content, Image(size=[8, 9])).shape == (8, 9, 3)
    else:
        with pytest.raises(TooCostly, match=r"has 60 x 40 pixels, which take"):
            read_image(content)
        if form not in ("TGA", "PPM"):  # of a cut file that is the better reason
            assert reason(content[: len(content) // 2]).startswith("is truncated")


def test_a_small_file_may_take_less_memory_than_a_large_one():
    assert memory_for(999_999) == 90_000_000 < memory_for(1_000_000)


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_a_webp_has_the_pixels_that_pillow_gives(options: dict[str, object]):
    content = written(PIL.Image.fromarray(NOISE), "WEBP", **options)
    with PIL.Image.open(io.BytesIO(content)) as opened:
        assert np.array_equal(np.asarray(read_image(content)), np.asarray(opened.convert("RGB")))
    for cut in (40, len(content) // 2, len(content) - 2):
        assert reason(content[:cut])


@pytest.mark.parametrize(("form", "length"), [("AVIF", 200), ("JPEG2000", 20), ("QOI", 8)])
def test_a_file_cut_within_its_header_is_named_as_an_image(form: str, length: int):
    assert re.search("truncated|damaged", reason(written(PIL.Image.fromarray(NOISE), form)[:length]))
