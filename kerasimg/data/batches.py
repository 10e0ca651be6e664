"""Batches by number, as NumPy arrays.

The images of a batch and their seeds are a pure function of its number (`shuffling.py`). There is no state between two
batches, so any number of threads, workers and restarts gives the same batches, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from kerasimg.data.augment import image_seeds
from kerasimg.data.cache import Cache
from kerasimg.data.loading import Loader
from kerasimg.data.readers.soft_labels import soft_labels
from kerasimg.data.shuffling import Order
from kerasimg.data.source import Source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image
from kerasimg.spec.heads import Targets

Arrays = tuple[np.ndarray, ...]
Signature = Sequence[tuple[tuple[int, ...], np.dtype]]
"""Shape without the batch, and type, of each array of a batch."""


class Batches(Protocol):
    """Batches by number."""

    order: Order
    signature: Signature
    at_once: int
    """Batches that should be loaded at the same time."""

    def load(self, number: int) -> Arrays:
        """The arrays of a batch, numbered as `order` counts them."""


class ImageBatches:
    """Batches of images: uint8 pixels (N, H, W, C), labels, seeds and, if there are any, sample weights.

    Seeds are those of `image_seeds`, by the positions among all images.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        image: Image,
        order: Order,
        *,
        targets: Targets = "sparse",
        sample_weight: np.ndarray | None = None,
        cache: Cache | None = None,
        exact: bool = True,
        threads: int | None = None,
        workers: int | None = None,
    ) -> None:
        """The arguments are those of `pipeline.batches`."""
        check_targets(targets, source)
        self.order, self.targets, self.weights = order, targets, sample_weight
        self.classes = len(source.classes)
        self.labels = labels_for(source, indices, targets)
        self.loader = Loader(source, indices, image, cache, exact, threads, workers)
        self.at_once = self.loader.batches_at_once(order.size)
        label = self.encode(np.arange(1))
        self.signature: Signature = [
            (self.loader.shape, np.dtype(np.uint8)),
            (label.shape[1:], label.dtype),
            ((4,), np.dtype(np.uint32)),
            *([] if sample_weight is None else [((), np.dtype(np.float32))]),
        ]

    def encode(self, positions: np.ndarray) -> np.ndarray:
        """The labels of these images in the form of the target."""
        return encode_labels(self.labels[positions], self.targets, self.classes)

    def load(self, number: int) -> Arrays:
        """Pixels, labels, seeds, and weights if there are any; DataError for an image that cannot be read."""
        epoch, positions = self.order.batch(number)
        arrays = self.loader.load(positions), self.encode(positions), image_seeds(self.order.seed, epoch, positions)
        return arrays if self.weights is None else (*arrays, self.weights[positions])


def labels_for(source: Source, indices: np.ndarray, targets: Targets) -> np.ndarray:
    """The labels that `encode_labels` takes: class numbers, or soft labels if there are any and the target is one_hot.

    Class numbers are (N,) int64, or (N, K) uint8 for multilabel.
    """
    if source.soft and targets == "one_hot":
        return soft_labels(source, indices)
    labels = source.label_ids(indices)
    return labels.astype(np.uint8) if targets == "multi_hot" else labels


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.dtype.kind == "f":
        return labels
    encoded = np.zeros((len(labels), classes), np.float32)
    encoded[np.arange(len(labels)), labels] = 1
    return encoded


ENCODERS: dict[Targets, Callable[[np.ndarray, int], np.ndarray]] = {
    "sparse": lambda labels, classes: labels,
    "one_hot": _one_hot,
    "binary": lambda labels, classes: labels.astype(np.float32)[:, np.newaxis],
    "multi_hot": lambda labels, classes: labels.astype(np.float32),
}
"""Target -> labels in its form: sparse, (N,) int64, the number of the class; one_hot, (N, K) float32, 1 at the class,
or soft labels unchanged; binary, (N, 1) float32, 0 or 1; multi_hot, (N, K) float32, 1 at each of the classes."""


def encode_labels(labels: np.ndarray, targets: Targets, classes: int) -> np.ndarray:
    """Labels from `labels_for` in the form of a target, see ENCODERS."""
    return ENCODERS[targets](labels, classes)


def check_targets(targets: Targets, source: Source) -> None:
    """Raises a CallError if the form of the labels does not fit the source."""
    if (targets == "multi_hot") != (source.task == "multilabel"):
        raise CallError(f"targets '{targets}' do not fit the task '{source.task}'")
    if targets == "binary" and len(source.classes) != 2:
        raise CallError(f"targets 'binary' need 2 classes, not {len(source.classes)}")
