"""Operations in one function compiled by XLA: passes over a batch, each a loop over its images.

The loop's body gets a single image, so that what comes of it depends neither on how many there are nor on which
come with it, and what passes between two operations fits the processor's cache. A new pass begins where an operation
reads pixels repeatedly that cost much to compute, which XLA would do again for each reading; and with blending, which
looks at what the other images have become.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kerasimg.data.augmentation import draws
from kerasimg.data.augmentation.blend import Blend
from kerasimg.data.augmentation.colour import clipped
from kerasimg.data.augmentation.operations import Operation, settled

PAD_TO = 8
"""Batches of a size that is not known before are padded to a multiple of this, so that few functions are compiled."""


class Compiled:
    """Operations as one function of a batch.

    parts: of the random words of each operation.
    """

    def __init__(self, operations: Sequence[Operation], parts: Sequence[Sequence[draws.Part]]):
        self.operations, self.parts = operations, parts
        self.blends = any(isinstance(operation, Blend) for operation in operations)
        compiled = functools.partial(tf.function, jit_compile=xla_works())
        as_written = tf.autograph.experimental.do_not_convert
        # Two functions: in one, XLA would draw again for each pixel.
        self.draw, self.apply = compiled(as_written(self._draw)), compiled(as_written(self._apply))

    def __call__(self, images: Any, labels: Any, seeds: Any, run: int, batch_size: int | None) -> tuple[Any, Any]:
        """Change a batch: (N, H, W, C) uint8 or float32, labels, (N, 2) int64 -> float32 images, labels.

        run: the run's seed.
        batch_size: of full batches; smaller ones are padded to it.
        """
        count = tf.shape(images)[0]
        full = batch_size or images.shape[0] or -(-count // PAD_TO) * PAD_TO
        missing = tf.maximum(full - count, 0)
        images, seeds = _padded(images, missing), _padded(seeds, missing)
        drawn = self.draw(seeds, tf.constant(run % 2**32, tf.uint32), count)
        changed = self.apply(images, drawn, count)[:count]
        changed.set_shape((labels.shape[0], *changed.shape[1:]))
        for operation, rows in zip(self.operations, drawn, strict=True):
            if isinstance(operation, Blend):
                labels = operation.labels(
                    labels, images.shape[1:3], *tf.nest.map_structure(lambda row: row[:count], rows)
                )
        return changed, labels

    def _draw(self, seeds: Any, run: Any, count: Any) -> list[tuple[Any, ...]]:
        """What each operation draws for images with these seeds, the first `count` of which are no padding."""
        words = iter(draws.words(draws.keys(seeds), [part for some in self.parts for part in some], run))
        drawn: list[tuple[Any, ...]] = []
        for operation, parts in zip(self.operations, self.parts, strict=True):
            mine = tf.concat([next(words) for _ in parts], axis=1)
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

    def change(number: Any) -> Any:
        image = images[number]
        for place, (operation, rows) in enumerate(operations):
            if operation.alone and any(before.alone for before, _ in operations[:place]):
                (image,) = settled(number >= 0, functools.partial(_alone, image))
            mine = tf.nest.map_structure(lambda row: row[number], rows)
            image = _changed(image, operation, mine, images)
        image = tf.cast(image, tf.float32)
        return clipped(image) if clip else image

    size = next((operation.size for operation, _ in reversed(operations) if operation.size), images.shape[1:3])
    shape = (*size, images.shape[3])
    done = tf.TensorArray(tf.float32, size=tf.shape(images)[0], element_shape=shape)
    _, done = tf.while_loop(
        lambda number, _: number < count,
        lambda number, done: (number + 1, done.write(number, change(number))),
        (tf.constant(0), done),
    )
    return tf.ensure_shape(done.stack(), (images.shape[0], *shape))


def _alone(image: Any) -> list[Any]:
    return [image]


def _changed(image: Any, operation: Operation, drawn: Any, images: Any) -> Any:
    """An image after an operation. images: among which one that blends finds its partner."""
    if not isinstance(operation, Blend):
        return operation.apply(image, drawn)
    partner, mine = drawn
    return operation.blend(tf.cast(image, tf.float32), tf.cast(images[partner], tf.float32), mine)


def _padded(rows: Any, missing: Any) -> Any:
    """With rows of zeros at the end."""
    sides = tf.concat([[[0, missing]], tf.zeros((rows.shape.rank - 1, 2), tf.int32)], axis=0)
    padded = tf.cond(missing > 0, lambda: tf.pad(rows, sides), lambda: rows)
    padded.set_shape((None, *rows.shape[1:]))
    return padded


@functools.cache
def xla_works() -> bool:
    """Whether this TensorFlow compiles for the processor by XLA; else its graphs do the same, more slowly."""
    try:
        with tf.device("CPU:0"):
            tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))
    except (tf.errors.OpError, NotImplementedError):
        return False
    return True
