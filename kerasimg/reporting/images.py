"""The images of a report: found by the records of the run, and reduced to be embedded in the page."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import PIL.Image

from kerasimg.data.image_files import RGB, BadImage, ImageInput, read_image
from kerasimg.data.source import Source
from kerasimg.data.sources import is_in_memory, open_source
from kerasimg.data.summary import describe_sizes, upright_size
from kerasimg.errors import KerasimgError
from kerasimg.evaluation.predictions import Predictions, decide
from kerasimg.spec.document import Image, Task

SIDE = 176
"""Of a thumbnail's longer side, in pixels."""
SMALL = 64
"""An image of at most this many pixels a side is embedded as it is and enlarged pixel by pixel."""
MISTAKES = 12
HITS = 8
EXAMPLES = 60
"""Of a data card, in all."""
PER_CLASS = 5
MEASURED = 400
"""Images whose size is looked up."""


class Example(NamedTuple):
    """An image of the test split that the report shows."""

    id: str
    truth: str
    prediction: str
    target: str
    """The class that was decided about: the predicted one, or the label that was missed."""
    confidence: float


class Thumbnail(NamedTuple):
    """An image inside of the page."""

    source: str
    """A data URI."""
    width: int
    height: int
    tiny: bool
    """It is to be enlarged pixel by pixel."""


class Album:
    """The images of a run, as far as they are still there."""

    def __init__(self, record: Mapping[str, Any] | None, image: Image) -> None:
        self.record = record or {"where": "", "images": []}
        self.image = image
        self.missing: set[str] = set()
        """What was asked for and is gone, or cannot be read."""

    def find(self, ids: Iterable[str]) -> dict[str, ImageInput]:
        """Those of the images that can be had, by name, from whatever source the run was trained on."""
        wanted = set(ids)
        found: dict[str, ImageInput] = {}
        folder = Path(self.record["where"])
        if folder.is_dir():  # which saves listing it
            found = {name: str(folder / name) for name in wanted if (folder / name).is_file()}
        for name in wanted - found.keys():
            place = self._places.get(name)
            if place is None or self._source is None:
                continue
            with contextlib.suppress(KerasimgError, BadImage, OSError):
                found[name] = self._source.items[place].image
        self.missing |= wanted - found.keys()
        return found

    @functools.cached_property
    def _source(self) -> Source | None:
        """The data that the run was trained on; None where it was not stored or can no longer be opened."""
        if not self.record["where"] or is_in_memory(self.record["where"]):
            return None
        try:
            return open_source(self.record["where"], self.record["task"], classes=self.record["classes"])
        except (KerasimgError, OSError):
            return None

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """The name of each image of the data -> its place."""
        if self._source is None:
            return {}
        return {self._source.columns.id(place): place for place in range(len(self._source))}

    def read(self, image: ImageInput, name: str) -> PIL.Image.Image | None:
        """The image at its own size, upright; None, and `missing`, where it cannot be read."""
        try:
            return read_image(image, cast(RGB, tuple(self.image.background)))
        except BadImage:
            self.missing.add(name)
            return None


def thumbnail(image: PIL.Image.Image, side: int = SIDE) -> Thumbnail:
    """A small copy; what is tiny already stays as it is."""
    tiny = max(image.size) <= SMALL
    small = image.copy()
    if not tiny:
        small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if tiny:
        small.save(file, "PNG", optimize=True)
    else:
        small.save(file, "WEBP", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return Thumbnail(f"data:image/{'png' if tiny else 'webp'};base64,{data}", *small.size, tiny)


def mistakes_and_hits(found: Predictions, task: Task) -> tuple[list[Example], list[Example], int]:
    """The most confident mistakes first; the least confident correct predictions first; the number of mistakes."""
    if task == "multilabel":
        return _of_labels(found)
    _, confidence = decide(found.probabilities, task)
    # What was decided by a threshold of its own may be the less likely of two.
    columns = found.probabilities if task == "multiclass" else np.hstack([1 - found.probabilities, found.probabilities])
    confidence = columns[np.arange(len(columns)), found.decision]
    wrong = found.truth != found.decision

    def as_examples(rows: np.ndarray) -> list[Example]:
        names = found.classes
        return [
            Example(
                found.ids[row],
                names[found.truth[row]],
                names[found.decision[row]],
                names[found.decision[row]],
                float(confidence[row]),
            )
            for row in rows
        ]

    worst = np.flatnonzero(wrong)[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    closest = np.flatnonzero(~wrong)[np.argsort(confidence[~wrong], kind="stable")][:HITS]
    return as_examples(worst), as_examples(closest), int(wrong.sum())


def _of_labels(found: Predictions) -> tuple[list[Example], list[Example], int]:
    truth, decision, p = found.truth.astype(bool), found.decision.astype(bool), found.probabilities
    sure = np.where(decision, p, 1 - p)
    wrong = (truth != decision).any(axis=1)
    most = np.where(truth != decision, sure, -1)
    least = np.where(truth == decision, sure, 2)

    def example(row: int, label: int) -> Example:
        def labels(held: np.ndarray) -> str:
            return ", ".join(name for name, on in zip(found.classes, held, strict=True) if on) or "none"

        target = found.classes[label]
        return Example(found.ids[row], labels(truth[row]), labels(decision[row]), target, float(sure[row, label]))

    worst = [int(row) for row in np.argsort(-most.max(axis=1), kind="stable")[:MISTAKES] if wrong[row]]
    closest = [int(row) for row in np.argsort(least.min(axis=1), kind="stable") if not wrong[row]][:HITS]
    return (
        [example(row, int(most[row].argmax())) for row in worst],
        [example(row, int(least[row].argmin())) for row in closest],
        int(wrong.sum()),
    )


def examples(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Class -> the names of a few of its training images, spread evenly over them; 60 in all."""
    of_class: dict[str, list[str]] = defaultdict(list)
    for image in record["images"]:
        if image["part"] == "train":
            for label in image["labels"]:
                of_class[label].append(image["id"])
    classes = [name for name in record["classes"] if of_class[name]][:EXAMPLES]
    each = max(1, min(PER_CLASS, EXAMPLES // max(1, len(classes))))
    return {
        name: [ids[len(ids) * k // each] for k in range(min(each, len(ids)))]
        for name, ids in of_class.items()
        if name in classes
    }


def sizes(album: Album) -> dict[str, Any] | None:
    """The sizes of a sample of the images in words, and their number `n`; None where none is there."""
    ids = [image["id"] for image in album.record["images"]]
    chosen = [ids[len(ids) * k // min(MEASURED, len(ids))] for k in range(min(MEASURED, len(ids)))]
    found: list[tuple[int, int]] = []
    for image in album.find(chosen).values():
        with contextlib.suppress(Exception):  # the data check reports what cannot be read
            found.append(upright_size(os.fspath(image) if isinstance(image, os.PathLike) else image))
    if not found:
        return None
    return {"n": len(found), "asked": len(chosen), "all": len(chosen) == len(ids), "text": describe_sizes(found)}


def counts(record: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]], dict[str, int]]:
    """The parts that there are; a row for each class, {name, part: images ...}; the number of images by part."""
    parts = [part for part in ("train", "validation", "test") if any(p["part"] == part for p in record["images"])]
    table: dict[str, dict[str, Any]] = {name: {"name": name, **dict.fromkeys(parts, 0)} for name in record["classes"]}
    totals = dict.fromkeys(parts, 0)
    for image in record["images"]:
        totals[image["part"]] += 1
        for label in image["labels"]:
            table[label][image["part"]] += 1
    return parts, list(table.values()), totals


def unique(examples: Sequence[Example]) -> list[str]:
    """The names of the images, each once."""
    return list(dict.fromkeys(one.id for one in examples))
