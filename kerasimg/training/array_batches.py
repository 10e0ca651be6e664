"""Batches of images or features that are in memory: as arrays, for JAX and PyTorch, or as a tf.data.Dataset.

JAX and PyTorch train on arrays: a batch of tf.data must be copied out of TensorFlow, whose threads compete with the
training step for the cores. Where nothing is augmented, gathering a batch takes less time than that. In both forms the
batches are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasimg.data.cache import Cache, InMemory
from kerasimg.data.loading import AT_ONCE, Loader
from kerasimg.data.pipeline import TARGETS, Targets, labels_for
from kerasimg.data.shuffling import Order, permutation
from kerasimg.data.source import Source
from kerasimg.spec.document import Image
from kerasimg.training.feature_rows import Rows

Batch = tuple[Any, ...]
AHEAD = 64
"""Batches of features that are prepared ahead: they are small, and a step is short."""


class Batches(keras.utils.PyDataset):
    """Batches by their number, (x, y) or (x, y, w), from the first epoch's first step on."""

    def __init__(self, order: Order, make: Callable[[int, np.ndarray], Batch], first: int, end: int | None) -> None:
        """make: batch of (epoch, positions).  first, end: numbers as `Order` counts them; None: without end."""
        super().__init__()
        self.order, self.make, self.first, self.end = order, make, first, end

    @property
    def num_batches(self) -> int | None:
        """How many there are; None: no end."""
        return None if self.end is None else self.end - self.first

    def __getitem__(self, index: int) -> Batch:
        if self.end is not None and self.first + index >= self.end:
            raise IndexError(index)
        return self.make(*self.order.batch(self.first + index))


def image_batches(
    source: Source,
    indices: np.ndarray,
    image: Image,
    order: Order,
    *,
    targets: Targets,
    sample_weight: np.ndarray | None,
    cache: Cache | None,
    first: int,
    end: int | None,
) -> Batches | None:
    """What `batches` gives with the same arguments and `exact=False`, or None where tf.data is to prepare it ahead.

    That is where images have to be read and decoded while it trains, or are large.
    """
    loader = Loader(source, indices, image, cache, exact=False)
    kept = loader.rows is not None and all(isinstance(store, InMemory) for store in loader.rows.stores)
    if not kept or order.size * int(np.prod(loader.shape)) > AT_ONCE:
        return None
    ready = isinstance(source.columns.image(int(indices[0])), np.ndarray)
    if not ready and not (loader.rows is not None and loader.rows.complete()):
        return None
    labels = as_targets(labels_for(source, indices, targets), targets, len(source.classes))

    def make(epoch: int, positions: np.ndarray) -> Batch:
        return _batch(loader.load(positions).astype(np.float32), labels[positions], sample_weight, positions)

    return Batches(order, make, first, end)


def row_batches(
    rows: Rows,
    labels: np.ndarray,
    classes: int,
    order: Order,
    *,
    targets: Targets,
    sample_weight: np.ndarray | None,
    first: int,
    end: int | None,
) -> Batches:
    """(features, y) or (features, y, w); features float32, a tuple where the frozen part has several outputs.

    Epoch e gives view e modulo the number of views.  labels: (n,) or (n, K), as `Source.label_ids` gives them.
    """
    views = len(rows.parts[0]) // rows.count
    plain = as_targets(labels, targets, classes) if rows.labels is None else None

    def make(epoch: int, positions: np.ndarray) -> Batch:
        places = epoch % views * rows.count + positions
        x = tuple(part[places].astype(np.float32) for part in rows.parts)
        y = plain[positions] if plain is not None else rows.labels[places]  # type: ignore[index]
        return _batch(x if len(x) > 1 else x[0], y, sample_weight, positions)

    return Batches(order, make, first, end)


def as_targets(labels: np.ndarray, targets: Targets, classes: int) -> np.ndarray:
    """Labels of all images in the form that `pipeline.TARGETS` has for a batch of them."""
    if targets == "one_hot" and labels.dtype.kind in "iu":
        return np.eye(classes, dtype=np.float32)[labels]
    if targets == "sparse":
        return labels
    floats = labels.astype(np.float32)
    return floats[:, np.newaxis] if targets == "binary" else floats


def _batch(x: Any, y: np.ndarray, weights: np.ndarray | None, positions: np.ndarray) -> Batch:
    return (x, y) if weights is None else (x, y, weights[positions])


def feature_batches(
    rows: Rows,
    labels: np.ndarray,
    classes: int,
    order: Order,
    *,
    targets: Targets,
    sample_weight: np.ndarray | None,
    first: int,
    end: int | None,
) -> Any:
    """The batches of `row_batches` as a tf.data.Dataset, gathered by TensorFlow, which is faster there than NumPy."""
    import tensorflow as tf

    views = len(rows.parts[0]) // rows.count
    parts = [_tensor(part) for part in rows.parts]
    own = tf.constant(labels if rows.labels is None else rows.labels)
    weights = None if sample_weight is None else tf.constant(sample_weight, tf.float32)
    worker, workers = order.shard

    def positions(epoch: np.int64) -> np.ndarray:
        return permutation(rows.count, order.seed, int(epoch)) if order.shuffle else np.arange(rows.count)

    def of_epoch(epoch: Any) -> Any:
        every = tf.ensure_shape(tf.numpy_function(positions, [epoch], tf.int64), (rows.count,))
        view = epoch % views * rows.count

        def load(step: Any) -> tuple[Any, ...]:
            start = step * order.batch_size
            size = tf.minimum(tf.constant(order.batch_size, tf.int64), rows.count - start)
            taken = every[start + worker * size // workers : start + (worker + 1) * size // workers]
            if order.drop_remainder:
                taken = tf.ensure_shape(taken, (order.size,))
            x = tuple(tf.cast(tf.gather(part, view + taken), tf.float32) for part in parts)
            y = (
                tf.gather(own, view + taken)
                if rows.labels is not None
                else TARGETS[targets](tf.gather(own, taken), classes)
            )
            batch = (x if len(x) > 1 else x[0], y)
            return batch if weights is None else (*batch, tf.gather(weights, taken))

        begin = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        steps = tf.data.Dataset.range(begin, order.steps)
        return steps.map(as_written(load), num_parallel_calls=2, deterministic=True)

    as_written = tf.autograph.experimental.do_not_convert
    first_epoch, first_step = divmod(first, order.steps)
    if end is None:
        epochs, total = tf.data.Dataset.counter(first_epoch), tf.data.INFINITE_CARDINALITY
    else:
        epochs, total = tf.data.Dataset.range(first_epoch, end // order.steps), end - first
    dataset = epochs.flat_map(as_written(of_epoch))
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(AHEAD)


def _tensor(part: np.ndarray) -> Any:
    """On the processor, also where TensorFlow sees a graphics processor: batches are gathered there."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.constant(part)
