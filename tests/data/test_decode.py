import io
from typing import get_args

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.decode import FILTERS, decode, frame
from kerasimg.data.image_files import BadImage
from kerasimg.spec.document import Image, Interpolation, ResizePolicy

NOISE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
THIRDS = np.repeat(np.repeat(np.array([[10, 20, 30]], np.uint8), 20, 1), 20, 0)
"""20 high, 60 wide: three squares of one value each."""


def test_every_interpolation_of_the_spec_has_a_filter():
    assert set(FILTERS) == set(get_args(Interpolation))


@pytest.mark.parametrize("resize", get_args(ResizePolicy))
@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_image_of_the_size_keeps_its_values(resize: str, interpolation: str):
    image = Image(size=[40, 60], resize=resize, interpolation=interpolation)
    assert np.array_equal(decode(NOISE, image), NOISE)


@pytest.mark.parametrize("resize", get_args(ResizePolicy))
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 5), (40, 60)])
def test_any_image_becomes_the_size(resize: str, interpolation: str, channels: int, shape: tuple[int, int]):
    image = Image(size=[13, 17], resize=resize, interpolation=interpolation, channels=channels)
    read = decode(np.full(shape, 255, np.uint8), image)
    assert read.dtype == np.uint8
    assert read.shape == (13, 17, channels)
    assert read.min() == 255  # the background is white as well


def test_stretch_changes_the_aspect():
    read = decode(THIRDS, Image(size=[4, 6], channels=1, interpolation="nearest"))
    assert read[..., 0].tolist() == [[10, 10, 20, 20, 30, 30]] * 4


def test_crop_keeps_the_middle():
    read = decode(THIRDS, Image(size=[4, 4], channels=1, resize="crop", interpolation="area"))
    assert read[..., 0].tolist() == [[20] * 4] * 4
    read = decode(THIRDS.T, Image(size=[4, 8], channels=1, resize="crop", interpolation="area"))
    assert read[..., 0].tolist() == [[20] * 8] * 4


@pytest.mark.parametrize(
    ("resize", "size", "fraction", "resized", "offsets"),
    [  # by torchvision: Resize(256) and CenterCrop(224), Resize((256, 256)); by timm: CenterCropOrPad
        ("crop", (500, 375), 0.875, (341, 256), (58, 16)),  # half is rounded to even
        ("crop", (375, 501), 0.875, (256, 342), (16, 59)),
        ("crop", (500, 375), 0.9, (330, 248), (53, 12)),
        ("crop", (227, 224), 1, (227, 224), (2, 0)),
        ("stretch", (500, 375), 0.875, (256, 256), (16, 16)),
        ("pad", (500, 375), 0.875, (256, 192), (16, -16)),
        ("pad", (300, 101), 1, (224, 75), (0, -74)),
    ],
)
def test_images_are_resized_and_cropped_at_whole_pixels(resize, size, fraction, resized, offsets):
    image = Image(size=[224, 224], resize=resize, crop_fraction=fraction)
    for axis, length, whole, offset in zip(
        frame(resize, *size, (224, 224), image.resized), size, resized, offsets, strict=True
    ):
        scale, used = length / whole, min(whole, 224)
        assert axis == pytest.approx((max(offset, 0) * scale, (max(offset, 0) + used) * scale, used, max(-offset, 0)))


def test_pad_keeps_all_and_fills_with_the_background():
    image = Image(size=[5, 6], resize="pad", interpolation="area", background=[1, 2, 3])
    read = decode(THIRDS, image)
    assert read[:, :, 0].tolist() == [[1] * 6, [10, 10, 20, 20, 30, 30], [10, 10, 20, 20, 30, 30], [1] * 6, [1] * 6]
    assert read[0, 0].tolist() == [1, 2, 3]
    read = decode(THIRDS.T, Image(size=[6, 5], channels=1, resize="pad", interpolation="area", background=[1, 1, 1]))
    assert read[:, :, 0].T.tolist() == [[1] * 6, [10, 10, 20, 20, 30, 30], [10, 10, 20, 20, 30, 30], [1] * 6, [1] * 6]


def test_a_very_thin_image_is_padded_as_one_pixel():
    read = decode(np.zeros((1, 20000), np.uint8), Image(size=[9, 9], channels=1, resize="pad"))
    assert np.flatnonzero(read.min(axis=(1, 2)) == 0).tolist() == [4]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "area"])
def test_shrinking_is_antialiased(interpolation: str):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    read = decode(stripes, Image(size=[8, 8], channels=1, interpolation=interpolation))
    assert np.abs(read[:, 1:-1].astype(int) - 127).max() <= 2


def test_area_is_the_mean_and_nearest_a_single_pixel():
    square = np.array([[0, 100], [200, 255]], np.uint8)
    assert decode(square, Image(size=[1, 1], channels=1, interpolation="area")).item() == 139
    assert decode(square, Image(size=[1, 1], channels=1, interpolation="nearest")).item() == 255


def test_grey_and_colour_turn_into_each_other():
    grey = NOISE[..., 0]
    as_colour = decode(grey, Image(size=[40, 60]))
    assert np.array_equal(as_colour, np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(decode(as_colour, Image(size=[40, 60], channels=1))[..., 0], grey)
    luma = (NOISE.astype(int) @ [19595, 38470, 7471] + 32768) >> 16
    assert np.array_equal(decode(NOISE, Image(size=[40, 60], channels=1))[..., 0], luma)


def test_a_transparent_image_lies_on_the_background_of_the_spec():
    file = io.BytesIO()
    PIL.Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(file, "PNG")
    assert decode(file.getvalue(), Image(size=[1, 1], background=[9, 8, 7])).tolist() == [[[9, 8, 7]]]


def test_the_array_is_free_to_be_changed():
    assert decode(NOISE, Image(size=[40, 60])).flags.writeable


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadImage, match="does not exist"):
        decode(tmp_path / "a.png", Image())


def test_an_array_of_the_right_size_is_copied():
    array = np.zeros((8, 8, 3), np.uint8)
    decoded = decode(array, Image(size=[8, 8]))
    decoded += 1
    assert (array.max(), decoded.min()) == (0, 1)
