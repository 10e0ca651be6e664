"""A first look at a data set, without decoding it: how many images, of what classes, sizes and colours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
import PIL.Image

from kerasimg.data.image_files import JPEGS, SIDEWAYS, formats, mute_pillow, open_image, read_jpeg, turn_of
from kerasimg.data.items import ImageInput
from kerasimg.data.parallel import Progress
from kerasimg.data.source import Source
from kerasimg.spec.document import Task

LOOKED_AT = 400
"""Images that are opened at most, evenly spread over the data."""
THUMBNAIL = 64
"""Side in px at which colour is looked for."""
COLOURLESS = 12
"""Difference between red, green and blue, of 255, up to which an image counts as grey."""


class Look(NamedTuple):
    """What was seen. Sizes are of images held upright, as the model gets them."""

    images: int
    classes: dict[str, int]
    """Images of each class, most first."""
    looked_at: int
    """Images that were opened for what follows."""
    unreadable: int
    """Of those, the ones that could not be opened."""
    height: int
    """Median, in px."""
    width: int
    """Median, in px."""
    aspects: tuple[float, float]
    """Width by height: what nine of ten exceed, and what one of ten exceeds."""
    grey: bool
    """Whether every image is without colour."""
    transparent: float
    """Share with an alpha channel."""
    task: Task = "multiclass"
    """What the labels were read as."""

    @property
    def shorter_side(self) -> int:
        """Median, in px."""
        return min(self.height, self.width)

    @property
    def per_class(self) -> float:
        """Images of the median class."""
        return float(np.median(list(self.classes.values())))

    @property
    def imbalance(self) -> float:
        """Images of the largest class for each one of the smallest."""
        return max(self.classes.values()) / max(1, min(self.classes.values()))


class _Seen(NamedTuple):
    height: int
    width: int
    grey: bool
    """False too where nobody looked, since another image has colours."""
    transparent: bool


def look(source: Source, progress: Progress | None = None) -> Look:
    """Look at some of the images of a source, always the same ones. Damaged ones are counted, not refused.

    progress: called with how many were looked at, and of how many.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(np.int64))
    seen = list(_seen(source, chosen, progress or (lambda done, of: None)))
    sizes = np.array([(one.height, one.width) for one in seen] or [(1, 1)], float)
    low, high = np.quantile(sizes[:, 1] / sizes[:, 0], (0.1, 0.9))
    counts = source.label_counts()
    return Look(
        len(source),
        {name: counts.get(name, 0) for name in sorted(source.classes, key=lambda name: -counts.get(name, 0))},
        len(chosen),
        len(chosen) - len(seen),
        int(np.median(sizes[:, 0])),
        int(np.median(sizes[:, 1])),
        (float(low), float(high)),
        bool(seen) and all(one.grey for one in seen),
        sum(one.transparent for one in seen) / max(1, len(seen)),
        source.task,
    )


def _seen(source: Source, chosen: np.ndarray, progress: Progress) -> Iterator[_Seen]:
    grey = True
    for done, index in enumerate(chosen.tolist()):
        progress(done, len(chosen))
        try:
            one = _look_at(source.columns.image(index), grey)
        except Exception:
            continue
        grey = one.grey
        yield one


def _look_at(image: ImageInput, ask_for_colour: bool) -> _Seen:
    if isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1
        return _Seen(image.shape[0], image.shape[1], channels < 3, channels in (2, 4))
    mute_pillow()
    if isinstance(image, bytes):
        return _of_file(io.BytesIO(image), ask_for_colour)
    with open_image(image) as file:
        return _of_file(file, ask_for_colour)


def _of_file(file: IO[bytes], ask_for_colour: bool) -> _Seen:
    opened = PIL.Image.open(file, formats=formats())
    width, height = opened.size
    if turn_of(opened) in SIDEWAYS:
        width, height = height, width
    transparent = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
    return _Seen(height, width, ask_for_colour and _is_grey(opened, file), transparent)


def _is_grey(opened: PIL.Image.Image, file: IO[bytes]) -> bool:
    """Whether an image has no colours; it is decoded, small, where its format does not say so."""
    if opened.mode in ("1", "L", "LA", "I", "I;16", "F"):
        return True
    if opened.format in JPEGS:
        read_jpeg(file)  # refuses one that would take minutes
    opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
    small = opened.convert("RGB").resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX)
    pixels = np.asarray(small, np.int16)
    return int((pixels.max(axis=2) - pixels.min(axis=2)).max()) <= COLOURLESS
