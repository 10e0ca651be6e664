"""A summary of a data set without decoding it: number of images, classes, sizes and colours."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np
import PIL.Image

from kerasimg.data.image_files import JPEGS, SIDEWAYS, formats, mute_pillow, open_image, read_jpeg, turn_of
from kerasimg.data.items import ImageInput, evenly_spaced
from kerasimg.data.parallel import Progress
from kerasimg.data.readable import require_readable
from kerasimg.data.source import Source
from kerasimg.errors import counted
from kerasimg.spec.document import Task

SAMPLED = 400
"""Largest number of images that are opened, spread evenly over the data."""
THUMBNAIL = 64
"""Side in px at which colours are checked."""
END = 12
"""Bytes of the last chunk of a PNG."""
NAMED = 3
"""Unreadable images that are named where none can be read."""
COLOURLESS = 12
"""Difference between red, green and blue, of 255, up to which an image counts as grey."""


class Summary(NamedTuple):
    """A summary of a data set. Sizes are those of upright images, as the model gets them."""

    images: int
    """In all, with those that cannot be read."""
    classes: dict[str, int]
    """Images per class, largest first, without those of `unreadable`."""
    sampled: int
    """Images that were opened."""
    unreadable: int
    """Opened images that cannot be read."""
    height: int
    """Median, in px."""
    width: int
    """Median, in px."""
    aspects: tuple[float, float]
    """Width / height: the 10 % and 90 % quantiles."""
    grey: bool
    """Whether all images are grey."""
    transparent: float
    """Share with an alpha channel."""
    task: Task = "multiclass"
    """The task of the labels."""
    sizes: str = ""
    """In words, see `describe_sizes`."""

    @property
    def readable(self) -> int:
        """Images without those that are known to be unreadable."""
        return self.images - self.unreadable

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
        """Ratio of the largest to the smallest class."""
        return max(self.classes.values()) / max(1, min(self.classes.values()))


class _Facts(NamedTuple):
    height: int
    width: int
    grey: bool
    """Also False if it was not checked, because an earlier image has colours."""
    transparent: bool


def summarize(source: Source, progress: Progress | None = None) -> Summary:
    """Summarizes a source by a fixed sample of its images. Damaged ones are counted apart, not refused.

    progress: called with the number of images read and the total.
    """
    chosen = evenly_spaced(len(source), SAMPLED)
    looks = list(_sample(source, chosen, progress or (lambda done, of: None)))
    facts = [look for look in looks if look is not None]
    unreadable = chosen[[look is None for look in looks]]
    if not facts:
        require_readable(source.only(unreadable[:NAMED]), "fail")
    sizes = np.array([(image_facts.height, image_facts.width) for image_facts in facts] or [(1, 1)], float)
    low, high = np.quantile(sizes[:, 1] / sizes[:, 0], (0.1, 0.9))
    counts = source.only(np.setdiff1d(np.arange(len(source)), unreadable)).label_counts()
    return Summary(
        len(source),
        {name: counts.get(name, 0) for name in sorted(source.classes, key=lambda name: -counts.get(name, 0))},
        len(chosen),
        len(unreadable),
        round(float(np.median(sizes[:, 0]))),
        round(float(np.median(sizes[:, 1]))),
        (float(low), float(high)),
        bool(facts) and all(image_facts.grey for image_facts in facts),
        sum(image_facts.transparent for image_facts in facts) / max(1, len(facts)),
        source.task,
        describe_sizes([(image_facts.width, image_facts.height) for image_facts in facts]),
    )


def describe_sizes(sizes: Sequence[tuple[int, int]] | np.ndarray) -> str:
    """Widths and heights of upright images in words; what most are only where more than half are.

    sizes: (N, 2), width and height.
    """
    if not len(sizes):
        return "no size known"
    unique, counts = np.unique(np.asarray(sizes), axis=0, return_counts=True)
    if len(unique) == 1:
        return f"all {unique[0][0]} x {unique[0][1]} px"
    ranges = (
        f"{low} to {high} px" if low < high else f"{low} px"
        for low, high in zip(unique.min(0), np.max(unique, 0), strict=True)
    )
    width, height = (round(float(value)) for value in np.median(sizes, axis=0))
    text = f"{next(ranges)} wide and {next(ranges)} high, median {width} x {height} px"
    first = counts.argmax()
    if 2 * counts[first] > len(sizes):
        text += f"; most are {unique[first][0]} x {unique[first][1]} px ({counts[first]:,})"
    return text


def unreadable_note(unreadable: int, images: int, noun: str = "image") -> str:
    """How many images cannot be read, of how many, and that counts are without them."""
    verb = "is" if unreadable == 1 else "are"
    return f"{unreadable:,} of {counted(images, noun)} cannot be read, and {verb} not counted"


def upright_size(image: ImageInput) -> tuple[int, int]:
    """Width and height of an image, upright; an error of any kind if its header cannot be read."""
    facts = _read_facts(image, False)
    return facts.width, facts.height


def _sample(source: Source, chosen: np.ndarray, progress: Progress) -> Iterator[_Facts | None]:
    """Yields the facts of each image, None if it cannot be read."""
    grey = True
    for done, index in enumerate(chosen.tolist()):
        progress(done, len(chosen))
        try:
            image_facts = _read_facts(source.columns.image(index), grey)
        except Exception:
            yield None
            continue
        grey = image_facts.grey
        yield image_facts


def _read_facts(image: ImageInput, check_colour: bool) -> _Facts:
    if isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1
        return _Facts(image.shape[0], image.shape[1], channels < 3, channels in (2, 4))
    mute_pillow()
    if isinstance(image, bytes):
        return _of_file(io.BytesIO(image), check_colour)
    with open_image(image) as file:
        return _of_file(file, check_colour)


def _of_file(file: IO[bytes], check_colour: bool) -> _Facts:
    opened = PIL.Image.open(file, formats=formats())
    width, height = opened.size
    if turn_of(opened) in SIDEWAYS:
        width, height = height, width
    transparent = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
    grey = check_colour and _is_grey(opened, file)
    if not _ends_as_its_format(opened.format or "", file):
        with PIL.Image.open(file, formats=formats()) as whole:
            whole.load()  # fails if it was cut; what comes after the end mark does no harm
    return _Facts(height, width, grey, transparent)


def _ends_as_its_format(file_format: str, file: IO[bytes]) -> bool:
    """Whether a file ends with the end mark of its format, so that it was not cut; decoding all of it takes long."""
    if file_format not in (*JPEGS, "PNG"):
        return True
    file.seek(-min(file.seek(0, io.SEEK_END), END), io.SEEK_END)
    end = file.read(END)
    file.seek(0)
    return end.endswith(b"\xff\xd9") if file_format in JPEGS else end[4:8] == b"IEND"


def _is_grey(opened: PIL.Image.Image, file: IO[bytes]) -> bool:
    """Whether an image is grey; it is decoded, small, unless its format says so."""
    if opened.mode in ("1", "L", "LA", "I", "I;16", "F"):
        return True
    if opened.format in JPEGS:
        read_jpeg(file, opened.size)  # refuses one that would take minutes
    opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
    small = opened.convert("RGB").resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX)
    pixels = np.asarray(small, np.int16)
    return int((pixels.max(axis=2) - pixels.min(axis=2)).max()) <= COLOURLESS
