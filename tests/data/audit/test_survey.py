"""One look at an image: its header, whether it can be read, and what it shows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFilter
import pytest

from kerasimg.data.audit.survey import FIGURES, Survey, look, survey
from kerasimg.data.items import Item, ManyFaults
from kerasimg.data.readable import require_readable
from kerasimg.data.sources import open_source


def photo(width: int = 300, height: int = 200, seed: int = 0) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


def file(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def seen(*images: str | bytes | np.ndarray) -> Survey:
    return survey([Item(str(number), image, ("a",)) for number, image in enumerate(images)])


def test_a_image_is_counted_at_its_own_size_though_less_of_it_is_decoded():
    one = seen(file(photo(1000, 600), "JPEG"))
    assert (one.sizes.tolist(), one.kinds.tolist(), one.reasons) == ([[1000, 600]], ["JPEG RGB"], {})


def test_the_thumbnail_of_a_jpeg_decoded_at_a_smaller_scale_is_that_of_the_whole_to_within_two_steps():
    data = file(photo(1000, 600), "JPEG", quality=95)
    whole = np.asarray(PIL.Image.open(io.BytesIO(data)))
    thumbs = seen(data, whole).thumbs.astype(int)
    assert np.abs(thumbs[0] - thumbs[1]).max() <= 2


def test_what_cannot_be_read_is_named_as_training_names_it(tmp_path: Path):
    whole = file(photo(), "JPEG")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "whole.jpg").write_bytes(whole)
    (tmp_path / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "cut.png").write_bytes(file(photo(), "PNG")[:2000])
    (tmp_path / "cat" / "empty.jpg").write_bytes(b"")
    (tmp_path / "cat" / "page.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_source(str(tmp_path))
    with pytest.raises(ManyFaults) as caught:
        require_readable(source)
    named = {fault.path: fault.message for fault in caught.value.faults if fault.path}
    assert {source.items[index].id: reason for index, reason in survey(source.items).reasons.items()} == named
    assert len(named) == 5


@pytest.mark.parametrize(
    ("name", "data", "oddities"),
    [
        ("a.png", file(photo(), "JPEG"), ("extension",)),
        ("a.jpg", file(photo(), "JPEG"), ()),
        ("a.gif", file(photo(), "GIF", save_all=True, append_images=[photo(seed=1)]), ("animated",)),
        ("a.gif", file(photo(), "GIF"), ()),
        ("a.jpg", file(photo().convert("CMYK"), "JPEG"), ("cmyk",)),
        ("a.png", file(PIL.Image.fromarray(np.arange(60000, dtype=np.uint16).reshape(200, 300)), "PNG"), ("deep",)),
    ],
)
def test_what_is_unusual_in_how_a_image_is_stored_is_noted(
    name: str, data: bytes, oddities: tuple[str, ...], tmp_path: Path
):
    (tmp_path / name).write_bytes(data)
    assert look(Item("a", str(tmp_path / name), ("a",))).oddities == oddities


def test_a_image_that_exif_turns_is_noted_and_has_its_upright_size():
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    one = seen(file(photo(), "JPEG", exif=exif))
    assert (one.sizes.tolist(), one.oddities) == ([[200, 300]], {0: ("rotated",)})


def test_arrays_are_seen_as_files_are():
    pixels = np.asarray(photo())
    one = seen(pixels, file(photo(), "PNG"), pixels[..., 0])
    assert one.kinds.tolist() == ["array uint8 3 channels", "PNG RGB", "array uint8 1 channel"]
    assert one.shown[0] == one.shown[1] != one.shown[2]
    assert (one.thumbs[0] == one.thumbs[1]).all()


def test_figures_tell_dark_bright_plain_and_blurred_images_apart():
    black, white = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 255, np.uint8)
    blurred = photo().filter(PIL.ImageFilter.GaussianBlur(9))
    one = seen(black, white, np.asarray(photo()), np.asarray(blurred))
    rows = [dict(zip(FIGURES, row, strict=True)) for row in one.figures.tolist()]
    assert rows[0] == {"darkest": 0, "brightest": 0, "washed_out": 0, "sharpness": 0, "spread": 0}
    assert rows[1] == {"darkest": 255, "brightest": 255, "washed_out": 1, "sharpness": 0, "spread": 0}
    assert rows[3]["sharpness"] < rows[2]["sharpness"] / 5


def test_any_number_of_threads_sees_the_same_and_progress_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kerasimg.data.audit.survey.INTERVAL_S", 0)
    items = [Item(str(seed), np.asarray(photo(seed=seed)), ("a",)) for seed in range(300)]
    calls: list[tuple[int, int]] = []
    one, four = survey(items, threads=1), survey(items, threads=4, progress=lambda *done: calls.append(done))
    assert calls == [(number, 300) for number in (*range(1, 301), 300)]
    assert (one.digests == four.digests).all()
    assert (one.thumbs == four.thumbs).all()
