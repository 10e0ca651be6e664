"""`preprocess.py` of a bundle matches the reference decoder, with only Pillow and NumPy."""

import io
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.decode import FILTERS, decode
from kerasimg.data.image_files import BadImage
from kerasimg.deploy.manifest import Manifest
from kerasimg.deploy.readme import snippet
from kerasimg.deploy.targets import target
from kerasimg.spec.document import Image, ResizePolicy

RANDOM = np.random.default_rng(0)


def saved(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_mode(mode: str, width: int = 37, height: int = 23) -> PIL.Image.Image:
    pixels = RANDOM.integers(0, 256, (height, width, 4)).astype(np.uint8)
    return PIL.Image.fromarray(pixels, "RGBA").convert(mode)


def deep() -> PIL.Image.Image:
    return PIL.Image.fromarray(RANDOM.integers(0, 65536, (23, 37)).astype(np.uint16))


def turned(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return saved(of_mode("RGB"), "JPEG", exif=exif, quality=95)


FILES: dict[str, Callable[[], bytes]] = {
    **{f"exif {orientation}": lambda orientation=orientation: turned(orientation) for orientation in range(1, 9)},
    **{f"png {mode}": lambda mode=mode: saved(of_mode(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "png 16 bit grey": lambda: saved(deep(), "PNG"),
    "png 16 bit grey, one value transparent": lambda: saved(deep(), "PNG", transparency=int(np.asarray(deep())[0, 0])),
    "png transparent colour": lambda: saved(of_mode("RGB"), "PNG", transparency=(10, 20, 30)),
    "png transparent grey": lambda: saved(of_mode("L"), "PNG", transparency=128),
    "palette with transparency": lambda: saved(of_mode("P"), "PNG", transparency=bytes(range(256))),
    "gif": lambda: saved(of_mode("P"), "GIF", transparency=3),
    "tiff 16 bit": lambda: saved(deep(), "TIFF"),
    "tiff float": lambda: saved(PIL.Image.fromarray(RANDOM.uniform(0, 255, (23, 37)).astype("f4")), "TIFF"),
    "tiff cmyk": lambda: saved(of_mode("RGB").convert("CMYK"), "TIFF"),
    "jpeg cmyk": lambda: saved(of_mode("RGB").convert("CMYK"), "JPEG"),
    "jpeg grey": lambda: saved(of_mode("L"), "JPEG"),
    "webp rgba": lambda: saved(of_mode("RGBA"), "WEBP", lossless=True),
    "bmp": lambda: saved(of_mode("RGB"), "BMP"),
    "one pixel": lambda: saved(of_mode("RGB", 1, 1), "PNG"),
    "one row": lambda: saved(of_mode("RGBA", 50, 1), "PNG"),
    "large": lambda: saved(of_mode("RGB", 301, 199), "PNG"),
    "the size itself": lambda: saved(of_mode("RGB", 40, 24), "PNG"),
}


def read_image_of(image: Image) -> Callable[[Any], np.ndarray]:
    model = {"path": "m.tflite", "runtime": "litert", "precision": "float32", "input_dtype": "float32"}
    content = {"name": "x", "target": "litert", "task": "multiclass", "classes": 3, "models": [model], "files": []}
    manifest = Manifest.model_validate({**content, "created": "2026"})
    names: dict[str, Any] = {}
    exec(snippet(target("litert"), "preprocess.py.j2", manifest, image, manifest.models[0]), names)
    return names["read_image"]


@pytest.mark.parametrize("kind", FILES)
def test_unusual_images_match_the_reference_decoder(kind: str, tmp_path: Path):
    content = FILES[kind]()
    for resize, channels in product(get_args(ResizePolicy), (1, 3)):
        image = Image(
            size=[24, 40], channels=channels, resize=resize, interpolation="bicubic", background=[10, 200, 77]
        )
        np.testing.assert_array_equal(read_image_of(image)(io.BytesIO(content)), decode(content, image))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_every_interpolation_matches_the_reference_decoder(interpolation: Any, tmp_path: Path):
    file = tmp_path / "photo.png"
    file.write_bytes(FILES["large"]())
    for resize in get_args(ResizePolicy):
        fraction = 0.8 if interpolation == "bicubic" else 1
        image = Image(size=[24, 40], resize=resize, interpolation=interpolation, crop_fraction=fraction)
        np.testing.assert_array_equal(read_image_of(image)(file), decode(str(file), image))


def test_high_bit_depth_values_are_refused_like_by_the_reference_decoder():
    content = saved(PIL.Image.fromarray((np.asarray(deep()) >> 8).astype(np.uint16)), "PNG")
    image = Image(size=[24, 40])
    with pytest.raises(BadImage):
        decode(content, image)
    with pytest.raises(ValueError, match="the image holds values from 0 to 255; 0 to 65535 is expected"):
        read_image_of(image)(io.BytesIO(content))
