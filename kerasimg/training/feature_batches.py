"""Rows of features -> batches for `model.fit`, in the order that `batches` would give the pictures in."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasimg.data.order import Order, Shard, permutation
from kerasimg.data.pipeline import TARGETS, Targets
from kerasimg.errors import CallError
from kerasimg.training.feature_rows import Rows

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
