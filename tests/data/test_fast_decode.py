import io
from typing import get_args

import cv2
import numpy as np
import PIL.Image
import pytest
import simplejpeg

from kerasimg.data import fast_decode
from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import LARGEST, MEAN_BOUND, SMALLEST_RATIO, decode_fast, divisor, roughness, weights
from kerasimg.data.image_files import BadImage, Pixels, read_pixels
from kerasimg.spec.document import Image, ResizePolicy

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def photos() -> dict[str, PIL.Image.Image]:
    data = pytest.importorskip("skimage.data")
    return {name: PIL.Image.fromarray(getattr(data, name)()) for name in PHOTOS}


def jpeg(image: PIL.Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def difference(content: bytes, image: Image) -> np.ndarray:
    fast, exact = decode_fast(content, image), decode(content, image)
    assert fast.shape == exact.shape
    assert fast.dtype == np.uint8
    return np.abs(fast.astype(int) - exact)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", get_args(ResizePolicy))
def test_photographs_stay_within_the_bound(photos: dict[str, PIL.Image.Image], policy: ResizePolicy, channels: int):
    for photo in photos.values():
        for width in (300, photo.width):
            content = jpeg(photo.resize((width, width * photo.height // photo.width)))
            for size in ([64, 64], [96, 128], [224, 224]):
                apart = difference(content, Image(size=size, resize=policy, channels=channels))
                assert apart.mean() < MEAN_BOUND
                assert apart.max() <= LARGEST


@pytest.mark.parametrize("size", [24, 48, 64, 99, 170])
def test_the_decoders_own_scaling_stays_within_the_bound(photos: dict[str, PIL.Image.Image], size: int):
    # 512 pixels and 1,024, so that 2, 4 and 8 occur, just above and below what is allowed.
    for factor in (1, 2):
        photo = photos["astronaut"]
        content = jpeg(photo.resize((photo.width * factor, photo.height * factor), PIL.Image.Resampling.LANCZOS))
        apart = difference(content, Image(size=[size, size]))
        assert apart.mean() < MEAN_BOUND
        assert apart.max() <= LARGEST


@pytest.mark.parametrize("name", ["grass", "gravel", "page"])
def test_textures_and_text_stay_within_the_bound(name: str):
    data = pytest.importorskip("skimage.data")
    image = PIL.Image.fromarray(getattr(data, name)())
    for width in (345, 375, 440, 512):
        content = jpeg(image.resize((width, width * image.height // image.width)))
        for size in (128, 160, 224):
            apart = difference(content, Image(size=[size, size], resize="crop"))
            assert apart.mean() < MEAN_BOUND
            assert apart.max() <= LARGEST


def test_roughness_is_twice_the_distance_from_the_mean_of_neighbours():
    assert roughness(np.full((90, 8, 3), 7, np.uint8)) == 0
    assert roughness(np.broadcast_to(np.arange(90, dtype=np.uint8)[:, None, None], (90, 8, 3))) == 0
    stripes = np.zeros((90, 8, 3), np.uint8)
    stripes[:, ::2] = 10
    assert roughness(stripes) == 10  # none down, 20 across
    assert roughness(stripes[:2]) == 0


def test_a_image_is_decoded_at_a_scale_that_leaves_enough_for_the_filter():
    assert [divisor(ratio) for ratio in (0.5, 2.2, 5.99, 6, 11.9, 12, 23.9, 24, 500)] == [1, 1, 1, 2, 2, 4, 4, 8, 8]
    for ratio in np.linspace(1, 60, 500):
        assert divisor(ratio) == 1 or ratio / divisor(ratio) >= SMALLEST_RATIO


@pytest.mark.parametrize("policy", get_args(ResizePolicy))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(
    photos: dict[str, PIL.Image.Image], policy: ResizePolicy, orientation: int
):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(photos["chelsea"], exif=exif)
    for fraction in (1, 0.9):
        image = Image(size=[67, 112], resize=policy, background=[0, 255, 0], crop_fraction=fraction)
        apart = difference(content, image)
        assert apart.mean() < MEAN_BOUND
        assert apart.max() <= LARGEST


def test_grey_and_progressive_jpegs_are_decoded_too(photos: dict[str, PIL.Image.Image]):
    for content in (jpeg(photos["coffee"].convert("L")), jpeg(photos["coffee"], progressive=True)):
        for channels in (1, 3):
            assert difference(content, Image(size=[100, 100], channels=channels)).mean() < MEAN_BOUND


def test_anything_else_is_left_to_the_reference_decoder(photos: dict[str, PIL.Image.Image]):
    photo = photos["chelsea"]
    png = io.BytesIO()
    photo.save(png, "PNG")
    small = Image(size=[40, 40])
    for content, image in [
        (png.getvalue(), small),
        (np.asarray(photo), small),
        (jpeg(photo.convert("CMYK")), small),
        (jpeg(photo), Image(size=[320, 600])),
        *(
            (jpeg(photo), Image(size=[40, 40], interpolation=name))
            for name in ("nearest", "bicubic", "lanczos", "area")
        ),
    ]:
        assert np.array_equal(decode_fast(content, image), decode(content, image))


def test_a_jpeg_is_not_opened_by_pillow_unless_something_could_turn_it_or_is_odd(photos: dict[str, PIL.Image.Image]):
    photo, exif = photos["chelsea"], PIL.Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"progressive": True}, {"comment": b"hello"}, {"icc_profile": bytes(300)}):
        assert fast_decode._header(jpeg(photo, **options)) == (*photo.size, None)
    turned = fast_decode._header(jpeg(photo, exif=exif))
    assert turned.opened is not None
    assert turned.turn == PIL.Image.Transpose.ROTATE_270
    plain = jpeg(photo)
    assert fast_decode._header(plain[:2] + b"\xff" + plain[2:]).opened is not None  # a byte that only fills
    assert fast_decode._header(jpeg(photo.convert("CMYK"))) is None


def test_a_damaged_file_is_named_as_by_the_reference_decoder(photos: dict[str, PIL.Image.Image], tmp_path):
    content = jpeg(photos["rocket"], quality=70)
    draws = np.random.default_rng(0)
    image = Image(size=[50, 50])
    cut = [content[: draws.integers(3, len(content))] for _ in range(12)]
    for damaged in (*cut, content[:-1], content[:-2], b"", b"\xff\xd8\xff", content[:200] + bytes(500) + content[700:]):
        path = tmp_path / "a.jpg"
        path.write_bytes(damaged)
        reasons = []
        for function in (decode, decode_fast):
            for img in (damaged, str(path)):
                try:
                    function(img, image)
                    reasons.append("")
                except BadImage as error:
                    reasons.append(error.reason)
        assert len(set(reasons)) == 1
    with pytest.raises(BadImage, match="does not exist"):
        decode_fast(str(tmp_path / "none.jpg"), image)


def test_the_short_filter_keeps_what_is_flat_and_is_near_to_the_triangle():
    for ratio in (1.5, 2.23, 3.0, 5.7):
        filter_ = weights(ratio)
        assert filter_.sum() == pytest.approx(1, abs=1e-6)
        assert np.array_equal(filter_, filter_[::-1])
        places = np.arange(len(filter_)) - len(filter_) // 2
        # A triangle of half-width r has the variance r²/6, of which linear interpolation brings 1/6 in the mean.
        assert (filter_ * places**2).sum() == pytest.approx((ratio**2 - 1) / 6, abs=0.1)


def test_the_version_names_the_libraries_that_decide_the_pixels():
    libraries = f"simplejpeg {simplejpeg.__version__} opencv {cv2.__version__}"
    assert fast_decode.version() == f"{fast_decode.VERSION} {libraries}"


@pytest.mark.parametrize(
    ("mode", "format", "interpolation", "mean", "largest"),
    [
        ("CMYK", "JPEG", "bilinear", 0.6, 12),
        ("RGB", "JPEG", "lanczos", 0.6, 12),
        ("RGB", "JPEG2000", "bilinear", 1.25, 5),
        ("L", "JPEG2000", "bicubic", 1.25, 5),
    ],
)
@pytest.mark.parametrize("policy", get_args(ResizePolicy))
def test_large_images_of_other_kinds_are_decoded_at_a_fraction_of_their_size(
    photos: dict[str, PIL.Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    format: str,
    interpolation: str,
    mean: float,
    largest: int,
    policy: ResizePolicy,
):
    file = io.BytesIO()
    photo = photos["coffee"].convert(mode)  # 600 x 400
    photo.save(file, format)
    sizes = []

    def read(*arguments: object) -> Pixels:
        pixels = read_pixels(*arguments)
        sizes.append((pixels.width, pixels.height))
        return pixels

    monkeypatch.setattr(fast_decode, "read_pixels", read)
    image = Image(size=[16, 15], resize=policy, interpolation=interpolation, background=[0, 255, 0])
    apart = difference(file.getvalue(), image)
    assert sizes == [(150, 100) if format == "JPEG" else (300, 200)]
    assert apart.mean() < mean
    assert apart.max() <= largest
    assert np.array_equal(
        decode_fast(file.getvalue(), Image(size=[16, 15], interpolation="area")),
        decode(file.getvalue(), Image(size=[16, 15], interpolation="area")),
    )


def test_a_size_that_jpeg_2000_rounds_differently_is_decoded_in_full(photos: dict[str, PIL.Image.Image]):
    for width in (599, 600, 601):
        file = io.BytesIO()
        photos["coffee"].resize((width, 400)).save(file, "JPEG2000")
        assert difference(file.getvalue(), Image(size=[9, 9])).mean() < 1.25
        with pytest.raises(BadImage, match=r"is truncated|is damaged"):
            decode_fast(file.getvalue()[: len(file.getvalue()) // 2], Image(size=[9, 9]))
