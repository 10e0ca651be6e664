"""A data check as one HTML file: no network, no script, thumbnails in it, its size bounded."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from kerasimg.data.audit.check_text import OF_A_GROUP, amounts, line, origin
from kerasimg.data.audit.findings import KINDS, Finding
from kerasimg.data.audit.framing import describe
from kerasimg.data.image_files import BadImage, read_image
from kerasimg.data.items import PART_NAMES

if TYPE_CHECKING:
    from kerasimg.data.audit.data_check import DataCheck

TEMPLATE = Path(__file__).with_name("check_page.html")
SHOWN = 12
"""Findings of a kind that are shown with images."""
LISTED = 300
"""Further ones that are listed by name."""
CLASSES = 200
THUMB = 112
"""Pixels of the longer side of a thumbnail."""
BUDGET = 2_000_000
"""Characters of images in a page; what comes after is shown by name."""


class Images:
    """Thumbnails as data URIs, until the budget is spent."""

    def __init__(self) -> None:
        self.spent = 0
        self.made: dict[int, str] = {}

    def uri(self, image: PIL.Image.Image) -> str:
        """An image as a data URI; empty when the budget is spent."""
        if self.spent >= BUDGET:
            return ""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        told = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        self.spent += len(told)
        return told

    def thumbnail(self, checked: DataCheck, index: int) -> str:
        """An image of the data, small; empty where it cannot be read."""
        if index not in self.made:
            self.made[index] = "" if index in checked.seen.reasons else self._read(checked, index)
        return self.made[index]

    def _read(self, checked: DataCheck, index: int) -> str:
        if self.spent >= BUDGET:
            return ""
        try:
            image = read_image(checked.source.items[index].image)
        except BadImage:  # it has changed since it was looked at
            return ""
        image.thumbnail((THUMB, THUMB))
        return self.uri(image)


def page(checked: DataCheck) -> str:
    """The page."""
    import jinja2

    images = Images()
    kinds = [_kind(checked, name, row, images) for name, row in checked.counts().items()]
    told = checked.to_dict()
    sheet = [
        {
            "name": checked.source.items[one.place].id,
            "caption": one.caption,
            "before": images.uri(one.before),
            "after": images.uri(one.after),
        }
        for one in checked.show()
        if images.spent < BUDGET
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        told=told,
        described=checked.source.describe(),
        kinds=kinds,
        split=origin(told),
        amounts=amounts(checked),
        framed=describe(told["image"]) if told["image"] else "",
        sheet=sheet,
        most_classes=CLASSES,
    )


def _kind(checked: DataCheck, name: str, row: dict[str, int], images: Images) -> dict[str, Any]:
    ours = [one for one in checked.findings if one.kind == name]
    return {
        "name": name,
        **KINDS[name]._asdict(),
        **row,
        "shown": [_shown(checked, one, images) for one in ours[:SHOWN]],
        "rest": [line(checked, one) for one in ours[SHOWN : SHOWN + LISTED]],
        "untold": max(0, len(ours) - SHOWN - LISTED),
    }


def _shown(checked: DataCheck, one: Finding, images: Images) -> dict[str, Any]:
    rows = [
        {
            "name": checked.source.items[index].id,
            "part": PART_NAMES[checked.parts[index]] if checked.parts[index] >= 0 else "",
            "data": images.thumbnail(checked, index),
        }
        for index in one.images[:OF_A_GROUP]
    ]
    more = len(one.images) - len(rows)
    return {"images": rows, "detail": "; ".join(filter(None, [one.detail, f"and {more} more" if more > 0 else ""]))}
