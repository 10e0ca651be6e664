"""What the `image` section does to images, in figures and as a contact sheet."""

import numpy as np
import pytest

from kerasimg.data.audit.framing import choose, contact_sheet, describe, framing, shown, summary
from kerasimg.data.items import Item
from kerasimg.spec.document import Image, ResizePolicy

SIZES = np.array([[400, 200], [100, 100], [50, 100]])


@pytest.mark.parametrize(
    ("resize", "scale", "cut_off", "filled", "distorted"),
    [
        ("stretch", [0.5, 1, 2], [0, 0, 0], [0, 0, 0], [2, 1, 2]),
        ("crop", [0.5, 1, 2], [0.5, 0, 0.5], [0, 0, 0], [1, 1, 1]),
        ("pad", [0.25, 1, 1], [0, 0, 0], [0.5, 0, 0.5], [1, 1, 1]),
    ],
)
def test_each_policy_costs_what_it_costs(resize: ResizePolicy, scale, cut_off, filled, distorted):
    framed = framing(SIZES, Image(size=[100, 100], resize=resize))
    assert [column.tolist() for column in framed] == [scale, cut_off, filled, distorted]


def test_the_figures_are_reported_in_a_sentence():
    image = Image(size=[100, 100], resize="crop")
    figures = summary(framing(SIZES, image), image)
    assert figures == {
        "size": [100, 100],
        "resize": "crop",
        "enlarged": 0.3333,
        "enlarged_twofold": 0.3333,
        "scale_median": 1.0,
        "cut_off_median": 0.5,
        "cut_off_over_a_quarter": 0.6667,
    }
    assert describe(figures) == (
        "to 100 x 100 by crop; 33% are enlarged, 33% twofold or more; half lose 50% of their area or more; "
        "67% lose more than a quarter"
    )


def test_the_sheet_shows_what_is_changed_most_and_then_each_class_in_turn():
    sizes = np.array([[100, 100]] * 8 + [[900, 100]])
    framed = framing(sizes, Image(size=[100, 100], resize="crop"))
    readable = np.arange(9) != 4
    assert choose(framed, readable, list("aaaabbbbb"), 4) == [8, 0, 5, 1]


def test_beside_each_image_is_what_the_model_gets():
    half = np.zeros((100, 300, 3), np.uint8)
    half[:, :100] = (255, 0, 0)
    items = [Item("half", half, ("a",)), Item("gone", "nowhere.png", ("a",))]
    image = Image(size=[50, 50], resize="crop")
    sizes = np.array([[300, 100], [300, 100]])
    (one,) = shown(items, [0, 1], framing(sizes, image), sizes, image)
    assert (one.place, one.before.size, one.after.size) == (0, (128, 43), (128, 128))
    assert one.caption == "300 x 100, cut off 67%"
    assert one.before.getpixel((2, 20)) == (255, 0, 0)
    assert one.after.getpixel((20, 20)) == (0, 0, 0)
    sheet = contact_sheet([one], ["päd.png"])
    assert sheet.size == (4 * (2 * 128 + 24), 128 + 26 + 16)
    # The image begins in the middle of its cell of 128 pixels, 8 from the edge.
    assert sheet.getpixel((8 + 2, 8 + 64)) == (255, 0, 0)
