"""Batches of images or features that are in memory: as arrays, for JAX and PyTorch, or as a tf.data.Dataset.

JAX and PyTorch train on arrays: a batch of tf.data has to be taken out of TensorFlow again, whose threads compete with
the training step for the cores. Where nothing is augmented, gathering a batch takes less time than that. The batches
are those of tf.data, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasimg.data.cache import Cache, InMemory
from kerasimg.data.loading import AT_ONCE, Loader
from kerasimg.data.order import Order, Shard, permutation
from kerasimg.data.pipeline import TARGETS, Targets, labels_for
from kerasimg.data.sources import Source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image
from kerasimg.training.feature_rows import Rows

Batch = tuple[Any, ...]


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


def picture_batches(
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

    That is where pictures have to be read and decoded while it trains, or are large.
    """
    loader = Loader(source, indices, image, cache, exact=False)
    kept = loader.rows is not None and all(isinstance(store, InMemory) for store in loader.rows.stores)
    if not kept or order.size * int(np.prod(loader.shape)) > AT_ONCE:
        return None
    ready = isinstance(source.columns.picture(int(indices[0])), np.ndarray)
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
    """What `feature_batches` gives with the same arguments."""
    views = len(rows.parts[0]) // rows.count
    plain = as_targets(labels, targets, classes) if rows.labels is None else None

    def make(epoch: int, positions: np.ndarray) -> Batch:
        places = epoch % views * rows.count + positions
        x = tuple(part[places].astype(np.float32) for part in rows.parts)
        y = plain[positions] if plain is not None else rows.labels[places]  # type: ignore[index]
        return _batch(x if len(x) > 1 else x[0], y, sample_weight, positions)

    return Batches(order, make, first, end)


def as_targets(labels: np.ndarray, targets: Targets, classes: int) -> np.ndarray:
    """Labels of all pictures in the form that `pipeline.TARGETS` has for a batch of them."""
    if targets == "one_hot" and labels.dtype.kind in "iu":
        return np.eye(classes, dtype=np.float32)[labels]
    if targets == "sparse":
        return labels
    floats = labels.astype(np.float32)
    return floats[:, np.newaxis] if targets == "binary" else floats


def _batch(x: Any, y: np.ndarray, weights: np.ndarray | None, positions: np.ndarray) -> Batch:
    return (x, y) if weights is None else (x, y, weights[positions])


AHEAD = 64
"""Batches that wait, ready, for the model: they are small, and a step is short."""


def feature_batches(
    rows: Rows,
    labels: np.ndarray,
    classes: int,
    *,
    batch_size: int,
    targets: Targets,
    shuffle: bool = False,
    seed: int = 0,
    sample_weight: np.ndarray | None = None,
    first_epoch: int = 0,
    epochs: int | None = 1,
    first_step: int = 0,
    shard: Shard = (0, 1),
    drop_remainder: bool = False,
) -> Any:
    """(features, y) or (features, y, w) as a tf.data.Dataset; features float32, a tuple where the seam is several.

    Epoch e gives view e modulo the number of views, in the permutation that `batches` has for (seed, e); the arguments
    are those of `batches`.  labels: (n,) or (n, K), as `Source.label_ids` gives them.
    """
    import tensorflow as tf

    order = Order(rows.count, batch_size, shuffle, seed, drop_remainder, shard)
    if not 0 <= first_step < order.steps or first_epoch < 0:
        raise CallError(f"first_step: expected 0 to {order.steps - 1}, got {first_step} (first_epoch {first_epoch})")
    views = len(rows.parts[0]) // rows.count
    parts = [_tensor(part) for part in rows.parts]
    blended = None if rows.labels is None else tf.constant(rows.labels)
    given = tf.constant(labels)
    weights = None if sample_weight is None else tf.constant(sample_weight, tf.float32)

    def positions(epoch: np.int64) -> np.ndarray:
        return permutation(rows.count, seed, int(epoch)) if shuffle else np.arange(rows.count)

    def of_epoch(epoch: Any) -> Any:
        every = tf.ensure_shape(tf.numpy_function(positions, [epoch], tf.int64), (rows.count,))
        view = epoch % views * rows.count
        start = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)

        def load(step: Any) -> tuple[Any, ...]:
            first = step * batch_size
            size = tf.minimum(tf.constant(batch_size, tf.int64), rows.count - first)
            worker, workers = shard
            taken = every[first + worker * size // workers : first + (worker + 1) * size // workers]
            if drop_remainder:
                taken = tf.ensure_shape(taken, (order.size,))
            x = tuple(tf.cast(tf.gather(part, view + taken), tf.float32) for part in parts)
            y = TARGETS[targets](tf.gather(given, taken), classes)
            if blended is not None:
                y = tf.gather(blended, view + taken)
            batch = (x if len(x) > 1 else x[0], y)
            return batch if weights is None else (*batch, tf.gather(weights, taken))

        steps = tf.data.Dataset.range(start, order.steps)
        return steps.map(as_written(load), num_parallel_calls=2, deterministic=True)

    as_written = tf.autograph.experimental.do_not_convert
    if epochs is None:
        counted, total = tf.data.Dataset.counter(first_epoch), tf.data.INFINITE_CARDINALITY
    else:
        counted = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
        total = epochs * order.steps - first_step
    dataset = counted.flat_map(as_written(of_epoch))
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(AHEAD)


def _tensor(part: np.ndarray) -> Any:
    """On the processor, also where TensorFlow sees a graphics processor: batches are gathered there."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.constant(part)
