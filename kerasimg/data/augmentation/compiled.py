"""Operations in one compiled function: passes over a batch, each of one image at a time.

An operation gets a single image, so that what comes of it depends neither on how many there are nor on which come with
it. A new pass begins where an operation reads pixels repeatedly that cost much to compute, which XLA would do again for
each reading; and with blending, which looks at what the other images have become.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from keras import ops, tree

from kerasimg.data.augmentation import draws
from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.blend import Blend
from kerasimg.data.augmentation.colour import clipped
from kerasimg.data.augmentation.operations import Operation

PAD_TO = 8
"""Batches of a size that is not known before are padded to a multiple of this, so that few functions are compiled."""


class Compiled:
    """Operations as one function of a batch.

    parts: of the random words of each operation.
    """

    def __init__(self, operations: Sequence[Operation], parts: Sequence[Sequence[draws.Part]]):
        self.operations, self.parts = operations, parts
        # Two functions: in one, XLA would draw again for each pixel.
        self.draw, self.apply = BACKEND.compiled(self._draw), BACKEND.compiled(self._apply)

    def __call__(self, images: Any, labels: Any, seeds: Any, run: int, batch_size: int | None) -> tuple[Any, Any]:
        """Change a batch: (N, H, W, C) uint8 or float32, labels, (N, 4) words -> float32 images, labels.

        run: the run's seed.
        batch_size: of full batches; smaller ones are padded to it.
        """
        count = ops.shape(images)[0]
        full = batch_size or images.shape[0] or -(-count // PAD_TO) * PAD_TO
        images, seeds = (BACKEND.padded(rows, count, full) for rows in (images, seeds))
        drawn = self.draw(seeds, draws.word(run), count)
        changed = self.apply(images, drawn, count)[:count]
        for operation, rows in zip(self.operations, drawn, strict=True):
            if isinstance(operation, Blend):
                rows = tree.map_structure(lambda row: row[:count], rows)
                labels = operation.labels(labels, images.shape[1:3], *rows)
        return changed, labels

    def _draw(self, seeds: Any, run: Any, count: Any) -> list[tuple[Any, ...]]:
        """What each operation draws for images with these seeds, the first `count` of which are no padding."""
        words = iter(draws.words(draws.keys(seeds), [part for some in self.parts for part in some], run))
        drawn: list[tuple[Any, ...]] = []
        for operation, parts in zip(self.operations, self.parts, strict=True):
            mine = ops.concatenate([next(words) for _ in parts], axis=1)
            rows = operation.draw(mine)
            drawn.append((operation.partners(mine, count), rows) if isinstance(operation, Blend) else rows)
        return drawn

    def _apply(self, images: Any, drawn: Sequence[tuple[Any, ...]], count: Any) -> Any:
        """The first `count` images, changed."""
        passes: list[list[tuple[Operation, Any]]] = [[]]
        for operation, rows in zip(self.operations, drawn, strict=True):
            waits = operation.alone and any(before.costly for before, _ in passes[-1])
            if passes[-1] and (waits or isinstance(operation, Blend)):
                passes.append([])
            passes[-1].append((operation, rows))
        for these, then in zip(passes, [*passes[1:], None], strict=True):
            # Colours may leave 0-255 between two passes, but not in what is blended.
            images = _each(images, these, count, clip=then is None or isinstance(then[0][0], Blend))
        return images


def _each(images: Any, operations: Sequence[tuple[Operation, Any]], count: Any, clip: bool) -> Any:
    """Each of the first `count` images after the operations, float32; of 0-255, if they are to be clipped."""

    def change(image: Any, drawn: Sequence[Any]) -> Any:
        alone = False
        # Never false, not even of NaN.
        known = ops.logical_not(ops.cast(image[0, 0, 0], "float32") > 3e38)
        for (operation, _), rows in zip(operations, drawn, strict=True):
            if isinstance(operation, Blend):
                (partner, rows) = rows
                # A lookup of one row, as PyTorch vectorises no plain index.
                other = BACKEND.lookup(images, partner[None])[0]
                image = operation.blend(ops.cast(image, "float32"), ops.cast(other, "float32"), rows)
                continue
            if operation.alone and alone:
                (image,) = BACKEND.settled(known, partial(_alone, image))
            image, alone = operation.apply(image, rows), alone or operation.alone
        image = ops.cast(image, "float32")
        return clipped(image) if clip else image

    size = next((operation.size for operation, _ in reversed(operations) if operation.size), images.shape[1:3])
    return BACKEND.each(change, (images, [rows for _, rows in operations]), count, (*size, images.shape[3]))


def _alone(image: Any) -> list[Any]:
    return [image]
