"""TIFFs that tifffile writes: decoded as tifffile reads them, or named with the reason; never something else."""

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.image_files import BadImage, read_image
from kerasimg.data.sources import open_source

tifffile = pytest.importorskip("tifffile")

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(1, 128, (6, 5)).astype(np.uint8)
GREY[0, 0], GREY[-1, -1] = 0, 127
COLOUR = DRAWS.integers(0, 256, (6, 5, 3)).astype(np.uint8)


def written(array: np.ndarray, **tags: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **tags)
    return file.getvalue()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., np.newaxis], 3, axis=2)


def deep(kind: str, times: int = 257) -> np.ndarray:
    return (GREY.astype("uint32") * times).astype(kind)


BLACK, WHITE = {"photometric": "minisblack"}, {"photometric": "miniswhite"}
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "uint8": (written(GREY, **BLACK), grey(GREY)),
    "uint8, white is 0": (written(GREY, **WHITE), grey(255 - GREY)),
    "1 bit": (written(GREY > 60, **BLACK), grey((GREY > 60) * np.uint8(255))),
    "1 bit, white is 0": (written(GREY > 60, **WHITE), grey((GREY <= 60) * np.uint8(255))),
    "int8 of 0 to 127": (written(GREY.astype("int8"), **BLACK), grey(GREY)),
    "uint16": (written(deep("uint16"), **BLACK), grey(GREY)),
    "uint16, big endian": (written(deep("uint16"), byteorder=">", **BLACK), grey(GREY)),
    "uint16, deflated": (written(deep("uint16"), compression="zlib", predictor=True, **BLACK), grey(GREY)),
    "uint16, white is 0": (written(deep("uint16"), **WHITE), grey(255 - GREY)),
    "int16": (written(deep("int16"), **BLACK), grey(GREY)),
    "int32": (written(deep("int32"), **BLACK), grey(GREY)),
    "int32, big endian": (written(deep("int32"), byteorder=">", **BLACK), grey(GREY)),
    "uint32": (written(deep("uint32"), **BLACK), grey(GREY)),
    "float32": (written(GREY.astype("float32"), **BLACK), grey(GREY)),
    "float32, big endian": (written(GREY.astype("float32"), byteorder=">", **BLACK), grey(GREY)),
    "BigTIFF": (written(GREY, bigtiff=True, **BLACK), grey(GREY)),
    "BigTIFF, white is 0": (written(deep("uint16"), bigtiff=True, **WHITE), grey(255 - GREY)),
    "RGB": (written(COLOUR, photometric="rgb"), COLOUR),
    "RGB in planes": (written(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), COLOUR),
    "RGB of 16 bits": (written(COLOUR.astype("uint16") * 257, photometric="rgb"), COLOUR),
    "RGB in planes, deflated": (
        written(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib"),
        COLOUR,
    ),
    "RGB in planes of tiles": (
        written(
            np.tile(COLOUR, (4, 4, 1)).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(16, 16)
        ),
        np.tile(COLOUR, (4, 4, 1)),
    ),
    "RGB of 16 bits, deflated": (
        written(COLOUR.astype("uint16") * 257, photometric="rgb", compression="zlib", predictor=True),
        COLOUR,
    ),
    "RGB of 16 bits, big endian": (written(COLOUR.astype("uint16") * 257, photometric="rgb", byteorder=">"), COLOUR),
    "several pages, of which the first counts": (written(np.stack([GREY, 255 - GREY]), **BLACK), grey(GREY)),
    "tiles": (written(np.tile(GREY, (8, 8)), tile=(16, 16), **BLACK), grey(np.tile(GREY, (8, 8)))),
}

BANDS = DRAWS.integers(0, 256, (6, 5, 13)).astype(np.uint8)
FOUR = BANDS[..., :4]
NAMED: dict[str, tuple[bytes, str]] = {
    "uint16 of 0 to 127": (written(deep("uint16", 1), **BLACK), "16-bit values from 0 to 127, which would be black"),
    "int16 of 0 to 127": (written(deep("int16", 1), **BLACK), "which would be black"),
    "int32 of 0 to 127": (written(deep("int32", 1), **BLACK), "which would be black"),
    "uint32 of 0 to 127": (written(deep("uint32", 1), **BLACK), "which would be black"),
    "RGB of 16 bits of 0 to 255": (written(COLOUR.astype("uint16"), photometric="rgb"), "which would be black"),
    "uint32 beyond 16 bits": (written(deep("uint32", 2**24), **BLACK), "0 to 65535 is expected"),
    "int16 below 0": (written(deep("int16") - np.int16(9), **BLACK), "0 to 65535 is expected"),
    "int8 below 0": (written(GREY.astype("int8") - np.int8(9), **BLACK), "signed 8-bit values below 0"),
    "uint16, white is 0, big endian": (written(deep("uint16"), byteorder=">", **WHITE), "in a byte order"),
    "uint32, big endian": (written(deep("uint32"), byteorder=">", **BLACK), "in a byte order"),
    "BigTIFF, white is 0, big endian": (
        written(deep("uint16"), bigtiff=True, byteorder=">", **WHITE),
        "in a byte order",
    ),
    "RGB of 16 bits in planes": (
        written(COLOUR.transpose(2, 0, 1).astype("uint16") * 257, photometric="rgb", planarconfig="separate"),
        "in separate planes (tag 284)",
    ),
    "RGBA in planes": (
        written(FOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"]),
        "in separate planes (tag 284)",
    ),
    "int16, white is 0": (written(deep("int16"), **WHITE), "16-bit signed integers"),
    "uint32, white is 0": (written(deep("uint32"), **WHITE), "32-bit unsigned integers"),
    "float32, white is 0": (written(GREY.astype("float32"), **WHITE), "32-bit floating point"),
    "float32 of 0 to 1": (written((GREY / 255).astype("float32"), **BLACK), "floating-point values from 0 to"),
    "float32 of 0 to 1.2": (written((GREY / 127 * 1.2).astype("float32"), **BLACK), "nearly black"),
    "float16": (written(GREY.astype("float16"), **BLACK), "16-bit floating point"),
    "float64": (written(GREY.astype("float64"), **BLACK), "64-bit floating point"),
    "int64": (written(GREY.astype("int64"), **BLACK), "64-bit signed integers"),
    "uint64": (written(GREY.astype("uint64"), **BLACK), "64-bit unsigned integers"),
    "RGB of floating point": (written(COLOUR.astype("float32"), photometric="rgb"), "32-bit floating point with 3"),
    "RGB of int8": (written(COLOUR.astype("int8"), photometric="rgb"), "8-bit signed integers with 3 channels"),
    "RGB of uint32": (written(COLOUR.astype("uint32"), photometric="rgb"), "32-bit unsigned integers"),
    "RGB and a band": (written(FOUR, photometric="rgb", extrasamples=["unspecified"]), "not said to be alpha"),
    "RGB of 16 bits and a band": (
        written(FOUR.astype("uint16") * 257, photometric="rgb", extrasamples=["unspecified"]),
        "not said to be alpha",
    ),
    "grey and a band": (
        written(FOUR[..., :2], planarconfig="contig", extrasamples=["unspecified"], **BLACK),
        "not said to be alpha",
    ),
    **{
        f"{count} bands of {kind}, {order}": (
            written(
                BANDS[..., :count].astype(kind)
                if order == "contig"
                else BANDS[..., :count].transpose(2, 0, 1).astype(kind),
                planarconfig=order,
                **BLACK,
            ),
            f"is a TIFF of {count} channels",
        )
        for count in (3, 4, 6, 13)
        for kind in ("uint8", "uint16", "float32")
        for order in ("contig", "separate")
    },
    **{
        f"RGB and {count - 3} bands": (
            written(BANDS[..., :count], photometric="rgb", planarconfig="contig"),
            f"is a TIFF of {count} channels",
        )
        for count in (5, 6, 13)
    },
}


@pytest.mark.parametrize("case", READ)
def test_a_tiff_is_decoded_as_it_was_written(case: str):
    content, expected = READ[case]
    assert np.array_equal(np.asarray(read_image(content)), expected)


@pytest.mark.parametrize("case", NAMED)
def test_a_tiff_that_is_not_read_is_named_with_the_reason(case: str):
    content, reason = NAMED[case]
    with pytest.raises(BadImage) as caught:
        read_image(content)
    assert reason in caught.value.reason


@pytest.mark.parametrize(("extra", "times"), [("unassalpha", 1), ("unassalpha", 257), ("assocalpha", 1)])
def test_alpha_that_is_said_to_be_alpha_is_used(extra: str, times: int):
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0] = 200, 100, 0, 255
    content = written(clear.astype("uint16") * times if times > 1 else clear, photometric="rgb", extrasamples=[extra])
    assert np.asarray(read_image(content, (9, 8, 7))).tolist() == [[[200, 100, 0]] * 2, [[9, 8, 7]] * 2]


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, count, value, *([0] if kind == 3 else []))


def by_hand(bits: int, photometric: int | None, data: bytes, width: int = 2) -> bytes:
    """A TIFF of one row, uncompressed."""
    tags = [(256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0), (277, 3, 1)]
    tags += [(278, 3, 1), (279, 4, len(data))]
    tags = [tag for tag in tags if tag[2] is not None]
    start = 8 + 2 + 12 * len(tags) + 4
    rows = [entry(tag, kind, 1, start if tag == 273 else value) for tag, kind, value in tags]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4) + data


def test_twelve_bits_count_to_4095():
    packed = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    assert np.asarray(read_image(by_hand(12, 1, packed)))[0, :, 0].tolist() == [255, 128]
    with pytest.raises(BadImage, match="12-bit unsigned integers"):
        read_image(by_hand(12, 0, packed))


def test_a_file_that_does_not_say_what_0_is_is_named():
    assert np.asarray(read_image(by_hand(8, 1, b"\x00\xff")))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(BadImage, match="tag 262, PhotometricInterpretation, is missing"):
        read_image(by_hand(8, None, b"\x00\xff"))


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_damaged_header_is_a_bad_image(cut: int):
    content = bytearray(written(GREY, **BLACK))
    content[cut % len(content)] ^= 0xFF
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            read_image(damaged)
        except BadImage:
            continue


def test_data_check_names_what_it_would_have_called_black(tmp_path):
    import kerasimg

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.tif").write_bytes(written(deep("uint16", 1) + number, **BLACK))
    checked = kerasimg.check_data(open_source(tmp_path).where)
    kinds = {finding.kind for finding in checked.findings}
    assert "unreadable" in kinds
    assert not kinds & {"blank", "duplicate", "conflict"}
    assert all("which would be black" in reason for reason in checked.seen.reasons.values())


def test_a_pil_image_of_a_tiff_is_taken_as_its_file_is():
    from kerasimg.data.images import from_pil

    for case in ("uint16, white is 0", "uint16", "RGB in planes"):
        content, expected = READ[case]
        pixels = from_pil(PIL.Image.open(io.BytesIO(content)))
        assert np.array_equal(np.asarray(read_image(pixels)), expected)
    content, reason = NAMED["RGB and a band"]
    with pytest.raises(BadImage, match=reason):
        from_pil(PIL.Image.open(io.BytesIO(content)))
