"""Reads a `tf.data.Dataset` into memory.

Elements are (image, label), or a dictionary with these keys, batched or not; images are numbers of 0 to 255 or
encoded files. The elements are read once; a dataset that does not fit into half of the free memory, or repeats forever,
is refused. Class names are taken from the attribute `class_names`, which `keras.utils.image_dataset_from_directory`
sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kerasimg.data.memory import free_bytes
from kerasimg.data.pixels import BANDS, type_fault, value_fault
from kerasimg.errors import CallError, counted

KEYS = (("image", "label"), ("images", "labels"), ("x", "y"))
"""Keys of image and label in dictionaries."""
SHARE = 0.5
"""Share of the free memory that the images may take."""
INFINITE = -1
"""The cardinality of a dataset that repeats forever."""


def is_tf_dataset(data: Any) -> bool:
    """Whether it is a `tf.data.Dataset`; does not import TensorFlow."""
    return any(kind.__name__ == "DatasetV2" and kind.__module__.startswith("tensorflow") for kind in type(data).__mro__)


def read_tf_dataset(dataset: Any, where: str) -> tuple[Any, np.ndarray, tuple[str, ...] | None]:
    """The list of images, the labels, and the class names if the dataset has them.

    Raises:
        CallError: if it has no labels, does not end, or does not fit into memory.
    """
    if int(dataset.cardinality()) == INFINITE:
        raise CallError(f"{where}: the tf.data.Dataset repeats forever; remove .repeat()")
    room = int(SHARE * free_bytes())
    images: list[Any] = []
    labels: list[Any] = []
    values = _Range()
    size = 0
    for image, label in _singles(dataset, where):
        pixels = image if isinstance(image, bytes) else values.to_bytes(image, where)
        size += len(pixels) if isinstance(pixels, bytes) else pixels.nbytes
        if size > room:
            raise CallError(
                f"{where}: the images of the tf.data.Dataset need more than {room / 1e9:.1f} GB, half of the "
                "free memory; write them to files or TFRecord, or make them smaller"
            )
        images.append(pixels)
        labels.append(label)
    values.check(where)
    names = getattr(dataset, "class_names", None)
    return images, np.asarray(labels), None if names is None else tuple(map(str, names))


class _Range:
    """Converts images to uint8, and tracks the range of all values."""

    def __init__(self) -> None:
        self.low, self.high, self.whole = np.inf, -np.inf, True

    def to_bytes(self, image: np.ndarray, where: str) -> np.ndarray:
        """The pixels, rounded."""
        if reason := type_fault(image):
            raise CallError(f"{where}: an image {reason}")
        if not image.size:
            raise CallError(f"{where}: an image has no pixels, its shape is {image.shape}")
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 255):
            raise CallError(f"{where}: {value_fault(image)}")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if image.dtype == np.uint8:
            return image
        rounded = np.rint(image)
        self.whole = (self.whole and image.dtype.kind in "ui") or bool((rounded == image).all())
        return rounded.astype(np.uint8)

    def check(self, where: str) -> None:
        """CallError if all images together have another scale."""
        if self.high >= 0:
            inner = [] if self.whole else [self.low + (self.high - self.low) / 3 + 1e-3]
            if reason := value_fault(np.array([self.low, self.high, *inner])):
                raise CallError(f"{where}: {reason}")


def _singles(dataset: Any, where: str) -> Iterator[tuple[Any, Any]]:
    """Each image with its label."""
    for element in dataset.as_numpy_iterator():
        image, label = _pair(element, where)
        if isinstance(image, bytes) or not _is_batch(image, label):
            yield image, label
        elif len(label) != len(image):
            raise CallError(f"{where}: a batch has {counted(len(image), 'image')} and {counted(len(label), 'label')}")
        else:
            yield from zip(image, label, strict=True)


def _pair(element: Any, where: str) -> tuple[Any, Any]:
    if isinstance(element, Mapping):
        for image, label in KEYS:
            if image in element and label in element:
                return element[image], element[label]
    elif isinstance(element, tuple) and len(element) in (2, 3):  # the third are weights
        return element[0], element[1]
    raise CallError(
        f"{where}: expected a tf.data.Dataset of (image, label), or of dictionaries with 'image' and 'label'; "
        f"its elements are {type(element).__name__}"
    )


def _is_batch(image: np.ndarray, label: Any) -> bool:
    if image.dtype == object:  # encoded files
        return True
    if image.ndim == 3:
        return np.ndim(label) == 1 and image.shape[2] not in (1, 3, *BANDS) and len(label) == len(image)
    return bool(image.ndim == 4)
