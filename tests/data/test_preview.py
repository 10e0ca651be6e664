from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.preview import GAP, LETTERS, choose_images, contact_sheet, write_sheet
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

PIXELS = np.zeros((12, 100, 100, 3), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
SOURCE = open_source((PIXELS, np.arange(12) % 3))
IMAGE = Image(size=[100, 100])


def test_images_are_of_as_many_classes_as_there_are():
    assert sorted(SOURCE.label_ids(choose_images(SOURCE, 3)).tolist()) == [0, 1, 2]
    assert sorted(SOURCE.label_ids(choose_images(SOURCE, 5)).tolist()) == [0, 0, 1, 1, 2]
    assert len(choose_images(SOURCE, 50)) == 12


def test_a_sheet_shows_each_image_as_decoded_and_as_augmented():
    sheet = contact_sheet(SOURCE, IMAGE, [("RandomBrightness", {"factor": [0.2, 0.2]})], rows=3, draws=2)
    line = LETTERS + 2 * GAP
    assert sheet.size == (GAP + 3 * (100 + GAP), GAP + 3 * (100 + line))
    pixels = np.asarray(sheet)
    for row, index in enumerate(choose_images(SOURCE, 3)):
        middle = GAP + row * (100 + line) + LETTERS + GAP + 50
        values = [pixels[middle, GAP + column * (100 + GAP) + 50, 0] for column in range(3)]
        assert values[0] == PIXELS[index, 0, 0, 0]
        assert values[1] == values[2] == min(255, values[0] + 51)


def test_draws_differ_and_without_augmentation_there_are_none():
    grey = open_source((np.full((2, 100, 100, 3), 128, np.uint8), np.arange(2)))
    draws = contact_sheet(grey, IMAGE, [("RandomBrightness", {"factor": 0.4})], rows=1, draws=4)
    assert len({draws.getpixel((GAP + column * (100 + GAP) + 50, 70)) for column in range(5)}) == 5
    assert contact_sheet(SOURCE, IMAGE, rows=1).width == GAP + 100 + GAP


def test_small_images_are_enlarged_and_grey_ones_shown():
    sheet = contact_sheet(SOURCE, Image(size=[10, 30], channels=1), rows=1)
    assert sheet.size == (GAP + 120 + GAP, GAP + 40 + LETTERS + 2 * GAP)


def test_a_sheet_is_written_as_png(tmp_path: Path):
    sheet = contact_sheet(SOURCE, IMAGE, rows=1)
    write_sheet(tmp_path / "new" / "sheet.png", sheet)
    with PIL.Image.open(tmp_path / "new" / "sheet.png") as written:
        assert written.size == sheet.size
    with pytest.raises(CallError, match=r"ends in \.png, got .*sheet\.jpg"):
        write_sheet(tmp_path / "sheet.jpg", sheet)
    with pytest.raises(CallError, match="expected a row or more"):
        contact_sheet(SOURCE, IMAGE, rows=0)


def test_an_image_that_cannot_be_read_is_named(folder):
    root = folder("cat/1.png", "dog/1.png")
    source = open_source(root)
    (root / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/1\.png: is empty"):
        contact_sheet(source, Image(size=[8, 8]))
