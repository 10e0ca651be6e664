"""Contact sheets: images as the model sees them, before and after augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from kerasimg.data.augment import compile_augment
from kerasimg.data.memory import require_room
from kerasimg.data.pipeline import Targets, batches, own_errors
from kerasimg.data.shuffling import permutation
from kerasimg.data.source import Source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image

GAP = 4
"""Pixels between two images."""
LETTERS = 14
"""Height of the class names, in pixels."""
SMALLEST = 96
"""Smaller images are enlarged by a whole factor to at least this width, in pixels."""

IN_FLOAT = 4
"""Bytes per value of an augmented image."""


def choose_images(source: Source, rows: int, seed: int = 0) -> np.ndarray:
    """Draw images of as many classes as there are rows: (n,) int64, class by class."""
    order = permutation(len(source), seed, 0)
    labels = source.label_ids(order)
    first = labels.argmax(axis=1) if labels.ndim == 2 else labels
    turn = np.zeros(len(order), np.int64)
    seen: dict[int, int] = {}
    for place, label in enumerate(first.tolist()):
        turn[place] = seen[label] = seen.get(label, -1) + 1
    return np.asarray(order[np.lexsort((first, turn))][:rows], np.int64)


@own_errors()
def contact_sheet(
    source: Source,
    image: Image,
    augment: Sequence[Any] = (),
    *,
    rows: int = 8,
    draws: int = 6,
    seed: int = 0,
    targets: Targets = "sparse",
) -> PIL.Image.Image:
    """Draws a row per image: its class, the decoded image, and its augmented versions in the first epochs.

    Args:
        source: the images.
        image: the spec's `image` section.
        augment: the layers of a spec, as (name, arguments).
        rows: number of images.
        draws: number of epochs.
        seed: the run's seed; the images are those that its training will use.
        targets: the form of the labels.
    """
    if rows < 1 or draws < 0:
        raise CallError(f"expected a row or more and no fewer than 0 draws, got {rows} and {draws}")
    indices = choose_images(source, rows, seed)
    require_room(image, IN_FLOAT * (1 + draws) * len(indices), "draw fewer rows")
    augmentation = compile_augment(augment, image, seed)
    if augmentation is not None and augmentation.blends and targets == "sparse":
        targets = "one_hot"
    common: dict[str, Any] = {"batch_size": len(indices), "cache": "off", "exact": False, "targets": targets}
    as_array = keras.ops.convert_to_numpy
    columns = [as_array(next(iter(batches(source, indices, image, **common)))[0])]
    if augmentation is not None:
        drawn = batches(source, indices, image, seed=seed, augment=augmentation, epochs=max(1, draws), **common)
        columns += [as_array(images) for images, *_ in drawn][:draws]
    names = [", ".join(source.items[index].labels) or "(none)" for index in indices.tolist()]
    return _draw(names, columns)


def write_sheet(path: Path, sheet: PIL.Image.Image) -> None:
    """Writes a contact sheet as PNG; CallError if it cannot be written."""
    if path.suffix.lower() != ".png":
        raise CallError(f"--out: expected a name that ends in .png, got '{path}'")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise CallError(f"{path}: cannot be written ({error.strerror or error})") from error


def _draw(names: Sequence[str], columns: Sequence[np.ndarray]) -> PIL.Image.Image:
    """Draw columns of (rows, H, W, C) images, 0-255, side by side; the class name is above each row."""
    height, width = columns[0].shape[1:3]
    factor = max(1, -(-SMALLEST // width))
    cell_height, cell_width = height * factor, width * factor
    line = LETTERS + 2 * GAP
    size = (GAP + len(columns) * (cell_width + GAP), GAP + len(names) * (cell_height + line))
    sheet = PIL.Image.new("RGB", size, (255, 255, 255))
    pen = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(LETTERS)
    for row, name in enumerate(names):
        top = GAP + row * (cell_height + line)
        pen.text((GAP, top), name, (0, 0, 0), font)
        for column, images in enumerate(columns):
            pixels = np.clip(np.rint(images[row]), 0, 255).astype(np.uint8)
            shown = PIL.Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
            left = GAP + column * (cell_width + GAP)
            enlarged = shown.resize((cell_width, cell_height), PIL.Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top + LETTERS + GAP))
    return sheet
