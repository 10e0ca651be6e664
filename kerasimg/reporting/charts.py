"""The figures of a report as inline SVG: their colours are the page's, and they are drawn sharp at any size.

Every figure has a title and a description for those who do not see it. Colours come from classes that the page's style
sheet defines for a light and a dark ground.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from markupsafe import Markup, escape
from numpy.typing import ArrayLike

from kerasimg.errors import counted

LEVELS = 12
"""Colours of a confusion matrix."""
COUNTED = 20
"""Largest number of classes whose cells have counts and whose rows have names; of more, the matrix is an image."""
GROUND = {"light": (252, 251, 248), "dark": (22, 24, 28)}
"""Of a cell that holds nothing of its row: the page's own."""
LEAST, FULL = {"light": (222, 236, 243), "dark": (30, 50, 62)}, {"light": (4, 62, 92), "dark": (140, 211, 240)}
"""Of a cell that holds next to nothing, and all, of its row."""


class Line(NamedTuple):
    """One curve of a chart."""

    name: str
    style: str
    """Class of its colour: "first" or "second"."""
    points: Sequence[tuple[float, float]]
    marked: tuple[float, float] | None = None
    """A point to be ringed."""


class Axis(NamedTuple):
    """What one side of a chart shows."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]


def chart(
    title: str,
    about: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    bounds: Sequence[tuple[float, str]] = (),
    diagonal: bool = False,
) -> Markup:
    """Curves in a frame.  bounds: (x, name) of what begins there, drawn as an upright line."""
    width, height, left, top, right, bottom = 460, 270, 50, 26, 12, 40

    def across(value: float) -> float:
        return left + (width - left - right) * (value - x.low) / ((x.high - x.low) or 1)

    def down(value: float) -> float:
        return height - bottom - (height - top - bottom) * (value - y.low) / ((y.high - y.low) or 1)

    parts = []
    for tick in y.ticks:
        at = down(tick)
        parts.append(tag("line", x1=left, x2=width - right, y1=at, y2=at, cls="grid"))
        parts.append(label(left - 7, at + 4, f"{tick:g}", "end"))
    for tick in x.ticks:
        parts.append(label(across(tick), height - bottom + 17, f"{tick:g}", "middle"))
    for value, name in bounds:
        at = across(value)
        if value > x.low:
            parts.append(tag("line", x1=at, x2=at, y1=top - 12, y2=height - bottom, cls="bound"))
        parts.append(label(at + 5, top - 6, name, "start", "stage"))
    if diagonal:
        parts.append(tag("line", x1=across(0), y1=down(0), x2=across(1), y2=down(1), cls="bound"))
    for line in lines:
        parts.append(polyline(line, [(across(a), down(b)) for a, b in line.points]))
        if line.marked:
            parts.append(
                tag("circle", cx=across(line.marked[0]), cy=down(line.marked[1]), r=4.5, cls=line.style + " mark")
            )
    parts.append(label((left + width - right) / 2, height - 6, x.name, "middle", "axis"))
    return svg(title, about, width, height, parts)


def polyline(line: Line, points: Sequence[tuple[float, float]]) -> str:
    """A line through these places of the drawing; a dot where there is one only."""
    if len(points) == 1:
        return tag("circle", cx=points[0][0], cy=points[0][1], r=3, cls=f"{line.style} dot")
    return tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points), cls=line.style)


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Round values from `low` to `high`, `about` of them."""
    span = (high - low) or 1.0
    raw = span / about
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    if whole:
        step = max(1, round(step))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + place) * step, 10) for place in range(count + 1)]


def confusion(counts: ArrayLike, classes: Sequence[str]) -> Markup:
    """A confusion matrix, rows the truth; of many classes an image of a pixel for each cell."""
    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    right = int(np.trace(table))
    about = (
        f"Rows are the true classes, columns the predicted ones. {right:,} of {int(table.sum()):,} lie on the diagonal."
    )
    if len(classes) > COUNTED:
        return _image(shares, about)
    k, gutter, side = len(classes), 118, 560
    cell = (side - gutter) / k
    height = side - gutter + 24 + 5.6 * max(len(shortened(name, 14)) for name in classes)
    parts = []
    for row in range(k):
        middle = 4 + cell * (row + 0.5)
        parts.append(label(gutter - 8, middle + 4, shortened(classes[row], 17), "end"))
        for column in range(k):
            level = math.ceil(math.sqrt(shares[row, column]) * (LEVELS - 1))
            left, top = gutter + cell * column, 4 + cell * row
            box = {"x": left + 0.5, "y": top + 0.5, "width": cell - 1, "height": cell - 1}
            parts.append(tag("rect", **box, cls=f"h{level}"))
            if table[row, column]:
                shown = f"{table[row, column]}"
                parts.append(label(left + cell / 2, top + cell / 2 + 4, shown, "middle", f"n{level}"))
    for column in range(k):
        at = gutter + cell * (column + 0.5)
        name = escape(shortened(classes[column], 14))
        turned = f"translate({at + 4:.1f} {side - gutter + 14:.1f}) rotate(-50)"
        parts.append(f'<text transform="{turned}" text-anchor="end">{name}</text>')
    return svg("Confusion matrix", about, side, height, parts)


def _image(shares: np.ndarray, about: str) -> Markup:
    ground, least, full = (np.array(colours["light"]) for colours in (GROUND, LEAST, FULL))
    root = np.sqrt(shares)[..., np.newaxis]
    pixels = np.where(root > 0, least + (full - least) * root, ground)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.round().astype(np.uint8)).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return Markup('<img class="matrix" src="data:image/png;base64,{}" alt="Confusion matrix. {}">').format(data, about)


def level_styles(theme: str) -> Iterator[tuple[int, str, str]]:
    """(level, its colour, the ink that can be read on it, black or white) of a confusion matrix."""
    least, full = np.array(LEAST[theme]), np.array(FULL[theme])
    for level in range(LEVELS):
        mixed = least + (full - least) * (level - 1) / (LEVELS - 2)
        colour = mixed.round().astype(int) if level else np.array(GROUND[theme])
        # At a luminance of 0.179 black and white can be read equally well: at 4.58 to 1.
        ink = "#000" if luminance(colour) > 0.179 else "#fff"
        yield level, "#" + "".join(f"{value:02x}" for value in colour), ink


def luminance(colour: Sequence[int] | np.ndarray) -> float:
    """Relative luminance of a colour (WCAG 2.2), 0-1.  colour: red, green, blue, 0-255."""
    shares = np.asarray(colour, dtype=float) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def reliability(bins: Sequence[Mapping[str, Any]], error: float) -> Markup:
    """How often the model is right against how sure it is."""
    width, height, left, top, bottom = 460, 300, 50, 12, 40
    inner, floor = width - left - 12, height - bottom
    tall = floor - top
    most = max((each["n"] for each in bins), default=0) or 1
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        at = floor - tall * tick
        parts.append(tag("line", x1=left, x2=left + inner, y1=at, y2=at, cls="grid"))
        parts.append(label(left - 7, at + 4, f"{tick:.0%}", "end"))
        parts.append(label(left + inner * tick, floor + 17, f"{tick:.0%}", "middle"))
    for each in bins:
        if not each["n"]:
            continue
        at, wide = left + inner * each["low"], inner * (each["high"] - each["low"])
        accurate = tall * each["accuracy"]
        # The width of a bar shows the number of its images.
        thick = max(2.0, (wide - 3) * math.sqrt(each["n"] / most))
        box = {"x": at + (wide - thick) / 2, "y": floor - accurate, "width": thick, "height": accurate}
        parts.append(tag("rect", **box, cls="bar"))
        sure = floor - tall * each["confidence"]
        parts.append(tag("line", x1=at + 1, x2=at + wide - 1, y1=sure, y2=sure, cls="second"))
    parts.append(tag("line", x1=left, y1=floor, x2=left + inner, y2=top, cls="bound"))
    parts.append(label(left + inner / 2, height - 6, "confidence", "middle", "axis"))
    about = (
        f"Expected calibration error {error:.3f}. "
        + "; ".join(
            f"sure {each['confidence']:.0%}, right {each['accuracy']:.0%}, {counted(each['n'], 'image')}"
            for each in bins
            if each["n"]
        )
        + "."
    )
    return svg("Reliability diagram", about, width, height, parts)


def svg(title: str, about: str, width: float, height: float, parts: Sequence[str]) -> Markup:
    """A drawing.  about: what it shows, for those who do not see it.  parts: elements, as they are written."""
    head = f'<svg role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{escape(title)}. {escape(about)}">'
    return Markup(head + "".join(parts) + "</svg>")


def tag(name: str, *, cls: str, **attributes: float | str) -> str:
    """An element without content.  cls: its class in the page's style sheet."""
    written = " ".join(
        f'{key}="{value:.1f}"' if isinstance(value, float) else f'{key}="{value}"' for key, value in attributes.items()
    )
    return f'<{name} class="{cls}" {written}/>'


def label(x: float, y: float, text: str, anchor: str, cls: str = "") -> str:
    """Text in a drawing.  anchor: which of its ends is at x: "start", "middle" or "end"."""
    of = f' class="{cls}"' if cls else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of}>{escape(text)}</text>'


def shortened(name: str, longest: int) -> str:
    """A name on one line, of at most `longest` characters."""
    line = " ".join(name.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
