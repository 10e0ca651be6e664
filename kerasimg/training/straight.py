"""Batches straight from memory, as arrays, for the backends that train on arrays: JAX and PyTorch.

There a batch of tf.data has to be taken out of TensorFlow again, whose threads want the cores that the step is using.
Where pictures or features lie in memory and need no augmentation, to gather a batch of them takes less than that. The
batches are those that tf.data would give, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasimg.data.cache import Cache, InMemory
from kerasimg.data.loading import AT_ONCE, Loader
from kerasimg.data.order import Order
from kerasimg.data.pipeline import Targets, labels_for
from kerasimg.data.sources import Source
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
