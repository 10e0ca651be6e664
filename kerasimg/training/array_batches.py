"""Batches of images or features that are in memory: as arrays, or as a tf.data.Dataset of the same arrays.

JAX and PyTorch train on arrays: a batch of tf.data must be copied out of TensorFlow, whose threads compete with the
training step for the cores. Without augmentation, gathering a batch takes less time than that copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasimg.data.cache import Cache, InMemory
from kerasimg.data.loading import AT_ONCE, Loader
from kerasimg.data.pipeline import Targets, labels_for
from kerasimg.data.shuffling import Order
from kerasimg.data.source import Source
from kerasimg.spec.document import Image
from kerasimg.training.feature_rows import Rows

Batch = tuple[Any, ...]
PREFETCH = 64
"""Batches of features to prefetch: they are small, and a step is short."""


class Batches(keras.utils.PyDataset):
    """Batches by their number, (x, y) or (x, y, w)."""

    def __init__(self, order: Order, make: Callable[[int, np.ndarray], Batch], first: int, end: int | None) -> None:
        """make: (epoch, positions) -> batch.  first, end: numbers as `Order` counts them; None: without end."""
        super().__init__()
        self.order, self.make, self.first, self.end = order, make, first, end

    @property
    def num_batches(self) -> int | None:
        """Number of batches; None: without end."""
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
    """What `pipeline.batches` gives with the same arguments and `exact=False`.

    None if tf.data should prefetch them: if images have to be read and decoded during training, or are large.
    """
    loader = Loader(source, indices, image, cache, exact=False)
    in_memory = loader.rows is not None and all(isinstance(store, InMemory) for store in loader.rows.stores)
    if not in_memory or order.size * int(np.prod(loader.shape)) > AT_ONCE:
        return None
    ready = isinstance(source.columns.image(int(indices[0])), np.ndarray)
    if not ready and not (loader.rows is not None and loader.rows.complete()):
        return None
    labels = as_targets(labels_for(source, indices, targets), targets, len(source.classes))

    def make(epoch: int, positions: np.ndarray) -> Batch:
        return _batch(loader.load(positions).astype(np.float32), labels[positions], sample_weight, positions)

    return Batches(order, make, first, end)


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
) -> Batches:
    """(features, y) or (features, y, w); features are float32, a tuple if the frozen part has several outputs.

    Epoch e uses view e modulo the number of views.  labels: (n,) or (n, K), as `Source.label_ids` returns them.
    """
    views = len(rows.parts[0]) // rows.count
    plain = as_targets(labels, targets, classes) if rows.labels is None else None

    def make(epoch: int, positions: np.ndarray) -> Batch:
        places = epoch % views * rows.count + positions
        x = tuple(part[places].astype(np.float32) for part in rows.parts)
        y = plain[positions] if plain is not None else rows.labels[places]  # type: ignore[index]
        return _batch(x if len(x) > 1 else x[0], y, sample_weight, positions)

    return Batches(order, make, first, end)


def as_dataset(batches: Batches) -> Any:
    """The same batches as a tf.data.Dataset, which prepares them in the background."""
    import tensorflow as tf

    sample = batches[0]
    arrays = [np.asarray(array) for array in tf.nest.flatten(sample)]
    rows = batches.order.size if batches.order.drop_remainder else None
    last = np.iinfo(np.int64).max if batches.end is None else batches.end

    def load(number: np.int64) -> list[np.ndarray]:
        x, *others = batches.make(*batches.order.batch(int(number)))
        return [*(x if isinstance(x, tuple) else (x,)), *others]

    def batch(number: Any) -> Any:
        outputs = tf.numpy_function(load, [number], [array.dtype for array in arrays], stateful=False)
        shaped = [
            tf.ensure_shape(tensor, (rows, *array.shape[1:])) for tensor, array in zip(outputs, arrays, strict=True)
        ]
        return tf.nest.pack_sequence_as(sample, shaped)

    dataset = tf.data.Dataset.range(batches.first, last).map(
        tf.autograph.experimental.do_not_convert(batch), num_parallel_calls=2, deterministic=True
    )
    total = tf.data.INFINITE_CARDINALITY if batches.end is None else last - batches.first
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(PREFETCH)


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
