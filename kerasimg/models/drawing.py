"""A model's outline as text in columns, and as an SVG image that needs no graphviz and loads nothing.

The image is layered (Sugiyama, Tagawa, Toda 1981, doi:10.1109/TSMC.1981.4308636): each part one row below the last of
its inputs, the parts of a row ordered by the mean place of their neighbours, long edges led past the rows between.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Final, NamedTuple

from kerasimg.errors import counted
from kerasimg.models.outline import IMAGE, Outline, Part

WIDTH: Final = 232
HEIGHT: Final = 60
GAP: Final = 28
"""Between two boxes of a row, and between two rows, in px."""
LANE: Final = 24
"""Width that an edge takes where it passes a row, in px."""
SWEEPS: Final = 8
"""How often the rows are sorted again, down and up."""

STYLE: Final = """
svg{font-family:system-ui,sans-serif;--ink:#1f2328;--soft:#59636e;--line:#8c959f;--box:#f6f8fa;--heavy:#ddf4ff}
@media(prefers-color-scheme:dark){svg{--ink:#f0f6fc;--soft:#9198a1;--line:#656c76;--box:#151b23;--heavy:#0c2d6b}}
rect{fill:var(--box);stroke:var(--line);stroke-width:.6}.heavy rect{fill:var(--heavy)}.frozen rect{stroke-dasharray:4 3}
.name{font-size:13px;font-weight:600;fill:var(--ink)}.fact{font-size:11px;fill:var(--soft)}
path{fill:none;stroke:var(--line);stroke-width:1.25}marker path{fill:var(--line);stroke:none}
"""
MOST: Final = {"name": 26, "fact": 38}
"""Characters that a line of a box has room for."""
HEAVY: Final = 0.25
"""Share of the model's parameters from which on a part is drawn as heavy."""


def as_text(name: str, outline: Outline, parts: Sequence[Part]) -> str:
    """A line for the model, then one for each part: name, kind, inputs, shape of the output, parameters."""
    rows = [("node", "type", "inputs", "output", "parameters")]
    rows.append((IMAGE, "", "", size(outline.image), ""))
    for part in parts:
        params = f"{part.params:,}" + (" frozen" if part.frozen and part.params else "")
        rows.append((part.name, _kind(part), ", ".join(part.inputs), size(part.shape), params if part.params else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + "  " + row[-1]
        for row in rows
    )
    return "\n".join([f"{name}: {counted(outline.params, 'parameter')}", *(line.rstrip() for line in lines)])


def as_svg(name: str, outline: Outline, parts: Sequence[Part]) -> str:
    """The image, a whole SVG document of version 1.1."""
    image = Part(IMAGE, "", (), outline.image, 0)
    placed = _Placing([image, *parts])
    boxes = "\n".join(_box(part, placed.at[part.name], outline.params) for part in (image, *parts))
    edges = "\n".join(f'<path d="{_curve(points)}" marker-end="url(#tip)"/>' for points in placed.edges())
    title = f"{escape(name)}: {counted(outline.params, 'parameter')}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{placed.width}" height="{placed.height}" '
        f'viewBox="0 0 {placed.width} {placed.height}" role="img"><title>{title}</title><style>{STYLE}</style>'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z"/></marker></defs>\n{edges}\n{boxes}\n</svg>\n'
    )


def size(shape: Sequence[int | None]) -> str:
    """(7, 7, 1280) -> 7x7x1280; what is open is ?."""
    return "x".join("?" if length is None else str(length) for length in shape)


class _Point(NamedTuple):
    """The middle of the parts of a row."""

    x: float
    y: float


class _Placing:
    """The position of each part, and where each edge passes the rows between its ends."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        rank: dict[str, int] = {}
        for part in parts:
            rank[part.name] = 1 + max((rank[name] for name in part.inputs), default=-1)
        self.rank = rank
        self.rows: list[list[str]] = [[] for _ in range(1 + max(rank.values()))]
        for part in parts:
            self.rows[rank[part.name]].append(part.name)
        self.chains = [self._chain(name, part.name) for part in parts for name in dict.fromkeys(part.inputs)]
        self._order()
        widths = [sum(map(self._width, row)) + GAP * (len(row) - 1) for row in self.rows]
        self.width = max(widths) + 2 * GAP
        self.height = len(self.rows) * (HEIGHT + GAP) + GAP
        self.at: dict[str, _Point] = {}
        for number, (row, wide) in enumerate(zip(self.rows, widths, strict=True)):
            x = (self.width - wide) / 2
            for name in row:
                self.at[name] = _Point(x + self._width(name) / 2, GAP + number * (HEIGHT + GAP) + HEIGHT / 2)
                x += self._width(name) + GAP

    def _chain(self, start: str, end: str) -> list[str]:
        """The names along an edge, with one for each row that it passes."""
        passed = [f"{start}\n{end}\n{row}" for row in range(self.rank[start] + 1, self.rank[end])]
        for row, name in enumerate(passed, start=self.rank[start] + 1):
            self.rows[row].append(name)
        return [start, *passed, end]

    def _order(self) -> None:
        """Order each row by the mean place of its neighbours in the row before, then in the one after, and again."""
        above: dict[str, list[str]] = {}
        below: dict[str, list[str]] = {}
        for chain in self.chains:
            for first, second in pairwise(chain):
                above.setdefault(second, []).append(first)
                below.setdefault(first, []).append(second)
        for sweep in range(SWEEPS):
            joined, rows = (above, self.rows[1:]) if sweep % 2 == 0 else (below, self.rows[-2::-1])
            for row in rows:
                places = self._places()
                means = {name: fmean(places[other] for other in joined.get(name, (name,))) for name in row}
                row.sort(key=means.__getitem__)

    def _places(self) -> dict[str, float]:
        """The position of each part along its row, -0.5 to 0.5."""
        return {name: (place + 0.5) / len(row) - 0.5 for row in self.rows for place, name in enumerate(row)}

    @staticmethod
    def _width(name: str) -> int:
        return LANE if "\n" in name else WIDTH

    def edges(self) -> list[list[_Point]]:
        """The points that each edge goes through, from the foot of a box to the head of another."""
        found = []
        for chain in self.chains:
            start, *passed, end = (self.at[name] for name in chain)
            through = [
                point
                for middle in passed
                for point in (_Point(middle.x, middle.y - HEIGHT / 2), _Point(middle.x, middle.y + HEIGHT / 2))
            ]
            found.append([_Point(start.x, start.y + HEIGHT / 2), *through, _Point(end.x, end.y - HEIGHT / 2)])
        return found


def _box(part: Part, at: _Point, params: int) -> str:
    x, y = at.x - WIDTH / 2, at.y - HEIGHT / 2
    frozen = part.frozen and part.params > 0
    marks = ["heavy"] * (params > 0 and part.params >= HEAVY * params) + ["frozen"] * frozen
    facts = [size(part.shape), *([f"{part.params:,} params"] if part.params else []), *["frozen"] * frozen]
    lines = [("name", _kind(part) or part.name), ("fact", part.name if part.kind else ""), ("fact", " · ".join(facts))]
    texts = "".join(
        f'<text class="{kind}" x="{x + 10:g}" y="{y + 19 + 16 * number:g}">{escape(_cut(text, MOST[kind]))}</text>'
        for number, (kind, text) in enumerate(line for line in lines if line[1])
    )
    box = f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    return f'<g class="{" ".join(marks)}">{box}{texts}</g>'


def _curve(points: Sequence[_Point]) -> str:
    """Straight down past the rows, bent between them."""
    text = f"M{points[0].x:g} {points[0].y:g}"
    for one, other in pairwise(points):
        middle = (one.y + other.y) / 2
        text += f"C{one.x:g} {middle:g} {other.x:g} {middle:g} {other.x:g} {other.y:g}"
    return text


def _kind(part: Part) -> str:
    return f"{part.kind} ({part.calls} layers)" if part.calls > 1 else part.kind


def _cut(text: str, length: int) -> str:
    """The end of a text that is too long: of a name, that is the part which differs."""
    return text if len(text) <= length else f"…{text[1 - length :]}"
