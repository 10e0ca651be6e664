"""SVG charts and their colours."""

import re

import numpy as np
import pytest

from kerasimg.reporting import charts as drawing
from kerasimg.reporting.report import TEMPLATES

CONTRAST = 4.5
"""Least contrast between text and its background, WCAG 2.2 AA."""


def test_text_has_enough_contrast_on_every_background():
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([\w-]+):(#\w{6})", block)) for block in re.findall(r":root\{([^}]*)\}", style)]
    light, dark = themes[:2]
    for colours in (light, dark):
        for ink in ("ink", "soft", "link"):
            for ground in ("paper", "raised"):
                assert contrast(colours[ink], colours[ground]) >= CONTRAST, (ink, ground)
        assert contrast(colours["ink"], colours["bar"]) >= CONTRAST
        assert contrast(colours["warn"], colours["warn-ground"]) >= CONTRAST
        for line in ("first", "second"):
            assert contrast(colours[line], colours["paper"]) >= 3
    for theme in ("light", "dark"):
        for _, colour, ink in drawing.level_styles(theme):
            assert contrast(colour, {"#000": "#000000", "#fff": "#ffffff"}[ink]) >= CONTRAST


def contrast(first: str, second: str) -> float:
    low, high = sorted(
        drawing.luminance([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) for colour in (first, second)
    )
    return (high + 0.05) / (low + 0.05)


def test_many_classes_are_drawn_as_one_image():
    counts = (np.eye(60, dtype=int) * 3).tolist()
    drawn = drawing.confusion(counts, [f"class {number}" for number in range(60)])
    assert drawn.startswith('<img class="matrix" src="data:image/png;base64,')
    assert "180 of 180 lie on the diagonal" in drawn
    assert len(drawn) < 2000


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 14, [5, 10]), (0.31, 0.88, [0.4, 0.6, 0.8]), (2, 2, [2])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]):
    found = drawing.ticks(low, high)
    assert found[:1] == expected[:1]
    assert found == pytest.approx(expected)
