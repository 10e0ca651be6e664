"""The page's decoding and resizing in Node equal the reference decoder byte for byte."""

import json
import shutil
import struct
import subprocess
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from kerasimg.data.decode import FILTERS, decode
from kerasimg.data.image_files import BadImage
from kerasimg.spec.document import Image, ResizePolicy

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")

MODULES = ("metadata.js", "pixels.js", "png.js")

READ_PNGS = """
import fs from "node:fs";
import { modelInput, overBackground, upright } from "./pixels.js";
import { readPng } from "./png.js";
const { image, files } = JSON.parse(fs.readFileSync(0));
for (const file of files) {
  try {
    const { width, height, rgba, orientation } = await readPng(new Uint8Array(fs.readFileSync(file)), 1e8);
    const decoded = upright({ width, height, data: overBackground(rgba, image.background) }, orientation);
    fs.writeFileSync(file + ".out", modelInput(decoded, image));
  } catch (error) {
    fs.writeFileSync(file + ".error", error.message);
  }
}
"""

RESIZE_ALL = """
import fs from "node:fs";
import { modelInput } from "./pixels.js";
for (const { image, file, width, height } of JSON.parse(fs.readFileSync(0))) {
  fs.writeFileSync(file + ".out", modelInput({ width, height, data: new Uint8Array(fs.readFileSync(file)) }, image));
}
"""

METADATA = """
import fs from "node:fs";
import { withoutMetadata } from "./metadata.js";
for (const file of JSON.parse(fs.readFileSync(0))) {
  const { bytes, orientation } = withoutMetadata(new Uint8Array(fs.readFileSync(file)));
  fs.writeFileSync(file + ".out", bytes);
  console.log(orientation);
}
"""


@pytest.fixture
def node(tmp_path: Path) -> Any:
    """node(script, content) runs a script with the page's modules; `content` is its stdin as JSON."""
    for name in MODULES:
        (tmp_path / name).write_bytes((files("kerasimg.deploy.web") / "page" / name).read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def run(script: str, content: Any) -> str:
        (tmp_path / "script.js").write_text(script)
        command = ["node", tmp_path / "script.js"]
        return subprocess.run(command, input=json.dumps(content), text=True, check=True, capture_output=True).stdout

    return run


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def lines(values: np.ndarray, depth: int, random: np.random.Generator) -> bytes:
    """Encodes rows of a PNG, each with a random filter."""
    out, above = b"", None
    pixel = max(1, depth * values.shape[2] // 8)
    for row in values.reshape(len(values), -1):
        if depth == 16:
            packed = np.frombuffer(row.astype(">u2").tobytes(), np.uint8).astype(int)
        else:
            bits = np.unpackbits(row.astype(np.uint8)[:, np.newaxis], axis=1)[:, 8 - depth :].reshape(-1)
            packed = np.packbits(bits).astype(int)
        above = np.zeros_like(packed) if above is None else above
        left, corner = (np.concatenate([np.zeros(pixel, int), one])[: len(packed)] for one in (packed, above))
        guess = left + above - corner
        near = [abs(guess - one) for one in (left, above, corner)]
        paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], above, corner))
        kind = int(random.integers(5))
        taken = [0 * packed, left, above, (left + above) >> 1, paeth][kind]
        out += bytes([kind]) + ((packed - taken) % 256).astype(np.uint8).tobytes()
        above = packed
    return out


def png(colour: int, depth: int, size: tuple[int, int], interlaced: bool = False, hidden: bool = False) -> bytes:
    """Encodes random noise as PNG; `hidden` makes some of it transparent by tRNS."""
    random = np.random.default_rng([colour, depth, *size])
    width, height = size
    values = random.integers(0, 2**depth, (height, width, CHANNELS[colour]))
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body += chunk(b"gAMA", struct.pack(">I", 100000))  # decoders must ignore it
    if colour == 3:
        body += chunk(b"PLTE", random.integers(0, 256, 3 * 2**depth).astype(np.uint8).tobytes())
    if hidden and colour == 3:
        body += chunk(b"tRNS", random.integers(0, 256, 2**depth - 1).astype(np.uint8).tobytes())
    elif hidden:
        values[random.random((height, width)) < 0.3] = values[0, 0]
        body += chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    parts = [values[y::rows, x::columns] for x, y, columns, rows in PASSES] if interlaced else [values]
    packed = zlib.compress(b"".join(lines(part, depth, random) for part in parts if part.size))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", packed[:40]) + chunk(b"IDAT", packed[40:]) + chunk(b"IEND", b"")


def test_every_resize_policy_and_filter_matches_the_reference_decoder(node: Any, tmp_path: Path):
    random = np.random.default_rng(0)
    cases, expected = [], []
    for resize in get_args(ResizePolicy):
        for filter_name in FILTERS:
            for number, (width, height) in enumerate([(37, 23), (40, 24), (160, 120), (7, 90), (97, 61), (1, 5)]):
                img = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
                channels: Any = 1 if number == 2 else 3
                image = Image(
                    size=[24, 40],
                    channels=channels,
                    resize=resize,
                    interpolation=filter_name,
                    crop_fraction=0.8 if filter_name == "bicubic" else 1,
                    background=[10, 200, 77],
                )
                file = tmp_path / f"{len(cases)}.rgb"
                img.tofile(file)
                cases.append({"image": image.model_dump(), "file": str(file), "width": width, "height": height})
                expected.append(decode(img, image))
    node(RESIZE_ALL, cases)
    for case, pixels in zip(cases, expected, strict=True):
        np.testing.assert_array_equal(np.fromfile(case["file"] + ".out", np.uint8), pixels.reshape(-1), str(case))


def test_every_kind_of_png_matches_the_reference_decoder(node: Any, tmp_path: Path):
    kinds = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    made: dict[str, bytes] = {}
    for colour, depths in kinds.items():
        for depth in depths:
            for interlaced in (False, True):
                made[f"{colour}-{depth}-{interlaced}"] = png(colour, depth, (37, 29), interlaced)
                made[f"{colour}-{depth}-{interlaced}-narrow"] = png(colour, depth, (1, 3), interlaced)
                if colour in (0, 2, 3):
                    made[f"{colour}-{depth}-{interlaced}-hidden"] = png(colour, depth, (37, 29), interlaced, True)
    image = Image(size=[20, 24], background=[10, 200, 77])
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    node(READ_PNGS, {"image": image.model_dump(), "files": [str(tmp_path / name) for name in made]})
    for name, content in made.items():
        found = np.fromfile(tmp_path / f"{name}.out", np.uint8)
        np.testing.assert_array_equal(found, decode(content, image).reshape(-1), name)


def test_damaged_png_is_refused_like_by_the_reference_decoder(node: Any, tmp_path: Path):
    whole = png(2, 8, (30, 20))
    cut = {"tail": whole[:-40], "data": whole[:200], "header": whole[:20]}
    image = Image(size=[8, 8])
    for name, content in cut.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImage):
            decode(content, image)
    node(READ_PNGS, {"image": image.model_dump(), "files": [str(tmp_path / name) for name in cut]})
    for name in cut:
        assert "truncated" in (tmp_path / f"{name}.error").read_text()


def test_orientation_is_read_and_metadata_removed(node: Any, tmp_path: Path):
    import io

    import PIL.Image
    import PIL.ImageCms

    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    made, expected = [], []
    for kind, orientation, more in [
        *(("JPEG", orientation, {}) for orientation in range(1, 9)),
        ("WEBP", 6, {"lossless": True}),
        ("JPEG", 1, {"xmp": b'<x tiff:Orientation="8"/>'}),
        ("JPEG", 3, {"xmp": b'<x tiff:Orientation="8"/>', "icc_profile": profile}),
        ("WEBP", 1, {"lossless": True, "xmp": b'<x tiff:Orientation="8"/>', "icc_profile": profile}),
    ]:
        if orientation > 1:
            exif = PIL.Image.Exif()
            exif[0x0112] = orientation
            more = {**more, "exif": exif}
        content = io.BytesIO()
        image.save(content, kind, **more)
        made.append(tmp_path / f"{len(made)}.{kind}")
        made[-1].write_bytes(content.getvalue())
        expected.append(orientation if orientation > 1 or "xmp" not in more else 8)
    assert [int(line) for line in node(METADATA, [str(file) for file in made]).split()] == expected
    for file in made:
        with PIL.Image.open(file) as before, PIL.Image.open(f"{file}.out") as after:
            assert not {"exif", "xmp", "icc_profile"} & set(after.info)
            np.testing.assert_array_equal(np.asarray(after.convert("RGB")), np.asarray(before.convert("RGB")))
