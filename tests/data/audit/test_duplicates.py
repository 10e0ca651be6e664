"""The same image twice, and copies of it."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from PIL.Image import Transpose

from kerasimg.data.audit import duplicates
from kerasimg.data.audit.duplicates import CHANGES, ORIENTATIONS, NearPairs, components, near, same, unit_vectors
from kerasimg.data.audit.survey import survey
from kerasimg.data.items import Item


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC)


def items(*images: PIL.Image.Image | bytes) -> list[Item]:
    return [
        Item(str(number), one if isinstance(one, bytes) else np.asarray(one), ("a",))
        for number, one in enumerate(images)
    ]


def png(image: PIL.Image.Image, level: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=level)
    return file.getvalue()


def pairs_of(every: list[Item]) -> list[tuple[int, int, str]]:
    seen = survey(every)
    pairs = near(every, seen, same(every, seen))
    changes = [CHANGES[change] for change in pairs.change]
    return sorted(zip(pairs.first.tolist(), pairs.second.tolist(), changes, strict=True))


def test_the_same_bytes_and_the_same_pixels_are_one_group():
    one = photo(0)
    every = items(png(one, 0), photo(1), png(one, 9), one, png(one, 0))
    assert same(every, survey(every)) == [[0, 2, 3, 4]]


def test_images_that_differ_in_one_pixel_that_no_thumbnail_shows_are_not_the_same():
    large = photo(0, (1600, 1200))
    other = large.copy()
    other.putpixel((7, 7), (large.getpixel((7, 7))[0] ^ 1, 0, 0))
    every = items(large, other)
    seen = survey(every)
    seen.shown[1] = seen.shown[0]
    assert same(every, seen) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda one: one.resize((100, 75), PIL.Image.Resampling.LANCZOS), ""),
        (lambda one: one.resize((120, 120)), ""),
        (lambda one: PIL.Image.open(io.BytesIO(_jpeg(one, 30))), ""),
        (PIL.ImageOps.mirror, "mirrored"),
        (lambda one: PIL.Image.open(io.BytesIO(_jpeg(PIL.ImageOps.mirror(one), 60))).resize((90, 70)), "mirrored"),
        (lambda one: one.point([min(255, round(value * 1.1 + 10)) for value in range(256)] * 3), ""),
        (lambda one: one.crop((1, 1, 159, 119)), ""),
        (lambda one: one.transpose(Transpose.ROTATE_90), "rotated by 90 degrees"),
        (lambda one: one.rotate(180).resize((80, 60)), "rotated by 180 degrees"),
        (
            lambda one: PIL.Image.open(io.BytesIO(_jpeg(one.transpose(Transpose.ROTATE_270), 60))),
            "rotated by 270 degrees",
        ),
        (PIL.ImageOps.flip, "mirrored upside down"),
        (lambda one: one.transpose(Transpose.TRANSPOSE), "mirrored, rotated by 90 degrees"),
        (lambda one: one.transpose(Transpose.TRANSVERSE), "mirrored, rotated by 270 degrees"),
        (lambda one: one.convert("L"), "one is grey"),
        (lambda one: one.convert("L").rotate(180), "rotated by 180 degrees, one is grey"),
    ],
)
def test_a_copy_is_found_among_others(change, named: str):
    every = items(*map(photo, range(40)), change(photo(7)))
    assert pairs_of(every) == [(7, 40, named)]


def test_images_of_the_same_shape_in_another_colour_or_light_are_no_copies():
    one = photo(3)
    red, green, blue = one.split()
    dark = one.point([value // 4 for value in range(256)] * 3)
    assert pairs_of(items(*map(photo, range(20)), PIL.Image.merge("RGB", (blue, red, green)), dark)) == []


def test_two_grey_images_are_compared_as_grey_even_beside_coloured_ones():
    one, other = photo(1).convert("L"), photo(2).convert("L")
    assert pairs_of(items(*map(photo, range(3, 20)), one, other, one.resize((80, 60)))) == [(17, 19, "")]


def test_images_of_hardly_any_contrast_are_not_compared():
    grey = [PIL.Image.new("RGB", (32, 32), (value, value, value)) for value in (100, 101, 102)]
    assert pairs_of(items(*grey)) == []


def test_of_the_same_images_the_first_represents_all():
    copy = photo(5).resize((80, 60))
    assert pairs_of(items(photo(5), photo(5), photo(6), copy)) == [(0, 3, "")]


def test_the_tree_finds_every_pair_that_comparing_all_with_all_finds():
    drawn = np.random.default_rng(0)
    kinds = drawn.integers(0, 256, (12, 16, 16, 3))
    thumbs = (kinds[drawn.integers(0, 12, 400)] + drawn.integers(-60, 61, (400, 16, 16, 3))).clip(0, 255).astype("u1")
    thumbs[300:350] = (thumbs[:50].astype(int) + drawn.integers(-9, 10, (50, 16, 16, 3))).clip(0, 255)
    thumbs[350:] = thumbs[100:150, :, ::-1]
    every = [Item(str(number), thumb, ("a",)) for number, thumb in enumerate(thumbs)]
    seen = survey(every)
    vectors = unit_vectors(seen.thumbs)
    radii = duplicates._radii(vectors, vectors)
    nearest: dict[tuple[int, int], tuple[float, str]] = {}
    for name, turn in ORIENTATIONS.items():
        distances = np.linalg.norm(unit_vectors(turn(seen.thumbs))[:, np.newaxis] - vectors[np.newaxis], axis=2)
        near_by = distances <= np.minimum(radii[:, np.newaxis], radii)
        for a, b in np.argwhere(near_by).tolist():
            if a < b:
                nearest[a, b] = min(nearest.get((a, b), (9.0, "")), (float(distances[a, b]), name))
    wanted = {(a, b, name) for (a, b), (_, name) in nearest.items()}
    assert len(wanted) >= 100
    assert set(pairs_of(every)) == wanted


def test_an_image_with_more_copies_than_are_looked_at_is_still_joined_with_all():
    drawn = np.random.default_rng(0)
    base = np.asarray(photo(0, (16, 12))).astype(int)
    copies = [(base + drawn.integers(-3, 4, base.shape)).clip(0, 255).astype(np.uint8) for _ in range(80)]
    every = [Item(str(number), one, ("a",)) for number, one in enumerate(copies)]
    seen = survey(every)
    assert components(near(every, seen, [])) == [list(range(80))]


def test_pairs_that_share_an_image_are_one_group():
    first, second = np.array([1, 5, 2]), np.array([2, 6, 9])
    assert components(NearPairs(first, second, np.zeros(3), np.zeros(3, int))) == [[1, 2, 9], [5, 6]]


def _jpeg(image: PIL.Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
