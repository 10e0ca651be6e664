"""Pictures of a source -> batches for `model.fit`, as a tf.data.Dataset.

Pictures are decoded by `decode.py`, side by side, and stay uint8 until a batch is handed on; augmentation comes after
that, on float32. Order and content are repeatable: they depend on the seeds alone, not on which thread was faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from kerasimg.data.augment import Augment
from kerasimg.data.decode import decode
from kerasimg.data.items import fault
from kerasimg.data.memory import free_bytes
from kerasimg.data.parallel import cores
from kerasimg.data.picture import BadImage
from kerasimg.data.sources import Source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image

Targets = Literal["sparse", "one_hot", "binary", "multi_hot"]

FREE_MEMORY_SHARE = 0.4
"""Decoded pictures are kept when they take no more than this share of the memory that is free."""


class Decoded:
    """Pictures of a source as pixels: decoded when they are first asked for, and kept from then on if `keep`."""

    def __init__(self, source: Source, indices: np.ndarray, image: Image, keep: bool):
        self.source, self.indices, self.image = source, indices, image
        self.shape = (*image.size, image.channels)
        self.kept = np.zeros(len(indices), dtype=bool)
        self.store = np.empty((len(indices), *self.shape), np.uint8) if keep else None

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Pixels of the pictures at these positions of `indices`: uint8, (N, H, W, C)."""
        if self.store is None:
            return np.stack([self._decode(position) for position in positions])
        for position in positions[~self.kept[positions]]:
            self.store[position] = self._decode(position)
            self.kept[position] = True
        return self.store[positions]

    def _decode(self, position: int) -> np.ndarray:
        item = self.source.items[self.indices[position]]
        try:
            return decode(item.picture, self.image)
        except BadImage as error:
            raise fault(self.source.where, item.id, error.reason) from error


def batches(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    image: Image,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    augment: Augment | None = None,
    targets: Targets = "sparse",
    sample_weight: Sequence[float] | np.ndarray | None = None,
    cache: bool = True,
    drop_remainder: bool = False,
) -> Any:
    """The pictures at `indices` as a tf.data.Dataset of (x, y), or (x, y, w): x float32 0-255, (N, H, W, C).

    y: see TARGETS.  shuffle: a new permutation of all pictures each epoch.  sample_weight: one per index.
    cache: keep decoded pictures in memory where they fit in 40 % of what is free.
    The cardinality is known. A picture that cannot be read raises an error of TensorFlow that names it.
    """
    import tensorflow as tf

    _check_targets(targets, source)
    indices = np.asarray(indices, dtype=np.int64)
    if not len(indices):
        raise CallError("batches of no pictures were asked for")
    needed = len(indices) * image.size[0] * image.size[1] * image.channels
    decoded = Decoded(source, indices, image, keep=cache and needed <= FREE_MEMORY_SHARE * free_bytes())
    labels = tf.constant(source.label_ids(indices))
    weights = None if sample_weight is None else tf.constant(sample_weight, tf.float32)
    if weights is not None and weights.shape != indices.shape:
        raise CallError(f"expected {len(indices)} sample weights, got shape {tuple(weights.shape)}")

    def load(positions: Any) -> tuple[Any, ...]:
        pixels = tf.numpy_function(decoded, [positions], tf.uint8)
        pixels.set_shape((positions.shape[0], *decoded.shape))
        y = TARGETS[targets](tf.gather(labels, positions), len(source.classes))
        batch = (tf.cast(pixels, tf.float32), y)
        return batch if weights is None else (*batch, tf.gather(weights, positions))

    positions = tf.data.Dataset.range(len(indices))
    if shuffle:
        positions = positions.shuffle(len(indices), seed=seed, reshuffle_each_iteration=True)
    dataset = positions.batch(batch_size, drop_remainder=drop_remainder)
    as_written = tf.autograph.experimental.do_not_convert
    dataset = dataset.map(as_written(load), num_parallel_calls=cores(), deterministic=True)
    if augment:
        # One batch after the other: the layers draw from a state that they share.
        dataset = dataset.map(as_written(lambda x, y, *w: (*augment(x, y), *w)))
    return dataset.prefetch(tf.data.AUTOTUNE)


def sparse(labels: Any, classes: int) -> Any:
    """The number of the class: (N,) int64."""
    return labels


def one_hot(labels: Any, classes: int) -> Any:
    """1 at the class: (N, K) float32."""
    import tensorflow as tf

    return tf.one_hot(labels, classes)


def binary(labels: Any, classes: int) -> Any:
    """0 or 1, the number of the class among two: (N, 1) float32."""
    import tensorflow as tf

    return tf.cast(labels, tf.float32)[:, tf.newaxis]


def multi_hot(labels: Any, classes: int) -> Any:
    """1 at each of the classes: (N, K) float32."""
    return labels


TARGETS: dict[Targets, Callable[[Any, int], Any]] = {
    "sparse": sparse,
    "one_hot": one_hot,
    "binary": binary,
    "multi_hot": multi_hot,
}
"""The forms that labels are handed on in, made from those of a batch and the number of classes."""


def _check_targets(targets: Targets, source: Source) -> None:
    if (targets == "multi_hot") != (source.task == "multilabel"):
        raise CallError(f"targets '{targets}' do not fit the task '{source.task}'")
    if targets == "binary" and len(source.classes) != 2:
        raise CallError(f"targets 'binary' need 2 classes, not {len(source.classes)}")
