"""What a spec's `image` section does to images: how much is enlarged, cut off, filled or distorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw

from kerasimg.data.audit.survey import MEASURED
from kerasimg.data.bands import read_shown
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.items import Item
from kerasimg.spec.document import Image

CELL = 128
"""Pixels of each side of an image on the contact sheet."""
CAPTION = 26
"""Pixels of the lines below it."""
GAP = 8
COLUMNS = 4


class Framing(NamedTuple):
    """What becomes of N images."""

    scale: np.ndarray
    """(N,): the model's pixels by the image's, along the side that is enlarged most; above 1 it is enlarged."""
    cut_off: np.ndarray
    """(N,): share of the image's area that is cut off."""
    filled: np.ndarray
    """(N,): share of the model's input that `pad` fills with the background."""
    distorted: np.ndarray
    """(N,): factor by which `stretch` changes the aspect, 1 or more."""


class Shown(NamedTuple):
    """An image beside what the model gets of it."""

    place: int
    """Its index into the source."""
    before: PIL.Image.Image
    after: PIL.Image.Image
    caption: str


def framing(sizes: np.ndarray, image: Image) -> Framing:
    """What the section does to images of these sizes: (N, 2), width and height, upright."""
    width, height = np.maximum(np.asarray(sizes, np.float64), 1).T
    size = np.array(image.size[::-1], np.float64)[:, np.newaxis]
    scales = np.array(image.resized[::-1], np.float64)[:, np.newaxis] / (width, height)
    uneven = scales.max(axis=0) / scales.min(axis=0)
    if image.resize != "stretch":
        scales[:] = scales.max(axis=0) if image.resize == "crop" else scales.min(axis=0)
        uneven = np.ones(len(width))
    sides = scales * (width, height)
    used = np.minimum(sides, size)
    return Framing(scales.max(axis=0), 1 - (used / sides).prod(axis=0), 1 - (used / size).prod(axis=0), uneven)


def summary(framed: Framing, image: Image) -> dict[str, Any]:
    """The figures of all images, for JSON; those that cannot occur with this `resize` are left out."""
    figures: dict[str, Any] = {
        "size": list(image.size),
        "resize": image.resize,
        "enlarged": _share(framed.scale > 1),
        "enlarged_twofold": _share(framed.scale >= 2),
        "scale_median": _median(framed.scale),
    }
    if image.resize == "crop":
        figures |= {"cut_off_median": _median(framed.cut_off), "cut_off_over_a_quarter": _share(framed.cut_off > 0.25)}
    elif image.resize == "pad":
        figures |= {"filled_median": _median(framed.filled), "filled_over_a_quarter": _share(framed.filled > 0.25)}
    else:
        stretched = {"distortion_median": _median(framed.distorted)}
        figures |= stretched | {"distorted_over_1.5": _share(framed.distorted > 1.5)}
    return figures


def describe(figures: dict[str, Any]) -> str:
    """The figures as a sentence."""
    height, width = figures["size"]
    parts = [f"to {width} x {height} by {figures['resize']}", f"{figures['enlarged']:.0%} are enlarged"]
    if figures["enlarged_twofold"]:
        parts[-1] += f", {figures['enlarged_twofold']:.0%} twofold or more"
    if "cut_off_median" in figures:
        parts.append(f"half lose {figures['cut_off_median']:.0%} of their area or more")
        parts.append(f"{figures['cut_off_over_a_quarter']:.0%} lose more than a quarter")
    elif "filled_median" in figures:
        parts.append(f"in half {figures['filled_median']:.0%} of the input or more is background")
        parts.append(f"in {figures['filled_over_a_quarter']:.0%} more than a quarter")
    else:
        parts.append(f"the aspect of half changes by {figures['distortion_median']:.2f} or more")
        parts.append(f"that of {figures['distorted_over_1.5']:.0%} by more than 1.5")
    return "; ".join(parts)


def choose(framed: Framing, readable: np.ndarray, labels: Sequence[str], count: int) -> list[int]:
    """Images for the contact sheet: those changed most, and of each class in turn the first."""
    change = np.maximum.reduce([framed.scale / 4, framed.cut_off, framed.filled, 1 - 1 / framed.distorted])
    usual = float(np.median(change[readable])) if readable.any() else 0.0
    change = np.where(readable, change, -1.0)
    worst = [int(index) for index in np.argsort(-change, kind="stable")[: count // 2] if change[index] > usual + 0.05]
    turns: dict[str, int] = {}
    order = []
    for index in np.flatnonzero(readable).tolist():
        if index not in worst:
            turns[labels[index]] = turns.get(labels[index], 0) + 1
            if turns[labels[index]] <= count:
                order.append((turns[labels[index]], index))
    return worst + [index for _, index in sorted(order)[: count - len(worst)]]


def shown(
    items: Sequence[Item], indices: Sequence[int], framed: Framing, sizes: np.ndarray, image: Image
) -> list[Shown]:
    """Each of these images beside what the model gets of it, both no larger than a cell of the sheet."""
    every = []
    for index in indices:
        try:
            before = read_shown(items[index].image)
            after = PIL.Image.fromarray(decode(items[index].image, image)[..., :3].squeeze())
        except BadImage:  # it has changed since it was looked at
            continue
        parts = [f"{sizes[index][0]} x {sizes[index][1]}"]
        if framed.scale[index] > 1:
            parts.append(f"enlarged {framed.scale[index]:.1f}")
        for column, word in ((framed.cut_off, "cut off"), (framed.filled, "filled")):
            if column[index] > 0.005:
                parts.append(f"{word} {column[index]:.0%}")
        if framed.distorted[index] > 1.005:
            parts.append(f"aspect by {framed.distorted[index]:.2f}")
        every.append(Shown(index, _fitted(before), _fitted(after.convert("RGB")), ", ".join(parts)))
    return every


def contact_sheet(images: Sequence[Shown], names: Sequence[str]) -> PIL.Image.Image:
    """The images in rows of four, each with its name and what became of it below."""
    rows = max(1, -(-len(images) // COLUMNS))
    width, height = 2 * CELL + 3 * GAP, CELL + CAPTION + 2 * GAP
    sheet = PIL.Image.new("RGB", (COLUMNS * width, rows * height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for place, (one, name) in enumerate(zip(images, names, strict=True)):
        left, top = place % COLUMNS * width + GAP, place // COLUMNS * height + GAP
        for number, image in enumerate((one.before, one.after)):
            x = left + number * (CELL + GAP)
            corner = (x + (CELL - image.width) // 2, top + (CELL - image.height) // 2)
            sheet.paste(image, corner)
            pen.rectangle((x - 1, top - 1, x + CELL, top + CELL), outline=(200, 200, 200))
        printable = name.encode("ascii", "replace").decode()  # the font that Pillow brings has no more
        pen.text((left, top + CELL + 1), printable[-40:], fill=(0, 0, 0))
        pen.text((left, top + CELL + 13), one.caption, fill=(90, 90, 90))
    return sheet


def _fitted(image: PIL.Image.Image) -> PIL.Image.Image:
    scale = min(MEASURED, CELL) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Enlarged pixels are shown as what they are.
    kind = PIL.Image.Resampling.NEAREST if scale > 1 else PIL.Image.Resampling.BILINEAR
    return image.resize(size, kind, reducing_gap=None if scale > 1 else 2.0)


def _share(which: np.ndarray) -> float:
    return round(float(np.mean(which)), 4) if len(which) else 0.0


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 4) if len(values) else 0.0
