"""Images of a source -> batches for `model.fit`, as a tf.data.Dataset.

Images are decoded in parallel, or come from the cache, and stay uint8 until a batch is augmented or returned. The
images of a batch and their augmentation are a pure function of the arguments (`shuffling.py`). There is no state
between two batches, so any number of threads, workers and restarts gives the same batches, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasimg.data.cache import Cache, CacheKind, open_cache
from kerasimg.data.loading import Loader
from kerasimg.data.readers.soft_labels import soft_labels
from kerasimg.data.shuffling import Order, Shard, steps
from kerasimg.data.source import Source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image
from kerasimg.spec.heads import Targets

__all__ = ["TARGETS", "Targets", "batches", "steps"]

Augment = Callable[[Any, Any, Any, int], tuple[Any, Any]]
"""(uint8 images, labels, seeds, size of a full batch) -> (float32 images, labels): see `augment.Augmentation`."""

BATCHES_AT_ONCE = 2
"""Batches that are decoded at once, so that no core waits for the last image of one."""
AHEAD = 2
"""Batches that are prefetched."""


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
    cache: CacheKind | Cache = "auto",
    exact: bool = True,
    first_epoch: int = 0,
    epochs: int | None = 1,
    first_step: int = 0,
    shard: Shard = (0, 1),
    drop_remainder: bool = False,
    threads: int | None = None,
    blend_weights: bool = True,
) -> Any:
    """The images at `indices` as a tf.data.Dataset of (x, y), or (x, y, w): x float32 0-255, (N, H, W, C).

    y: see TARGETS.  sample_weight: one per index.
    shuffle: permute all images in each epoch, by (seed, epoch).
    augment: from `compile_augment`; its seeds are (N, 2) int64: [seed, epoch * 2**32 + position in `indices`].
    cache: where decoded images are stored: "off", "memory", "disk", "auto", or a shared `Cache`.
    exact: use the reference decoder, for evaluation; else the fast one (`fast_decode.py`).
    first_epoch, first_step: start with this batch of this epoch, both counted from 0.
    epochs: number of epochs, from first_epoch on; None: infinite (fit needs `steps_per_epoch=steps()`).
    shard: (k, n): worker k of n gets its slice of every batch; `batch_size` is the total of all workers.
    threads: decoding threads; None: one per core.
    blend_weights: if `augment` blends labels, blend the weights too (see `_blend`).

    The cardinality is known. Iterating twice gives the same batches twice. An image that cannot be read raises an
    error of TensorFlow that names it.
    """
    import tensorflow as tf

    _check_targets(targets, source)
    indices = np.asarray(indices, dtype=np.int64)
    if not len(indices):
        raise CallError("batches of no images were asked for")
    order = Order(len(indices), batch_size, shuffle, seed, drop_remainder, shard)
    if not 0 <= first_step < order.steps or first_epoch < 0:
        raise CallError(f"first_step: expected 0 to {order.steps - 1}, got {first_step} (first_epoch {first_epoch})")
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float32)
    if weights is not None and weights.shape != indices.shape:
        raise CallError(f"expected {len(indices)} sample weights, got shape {weights.shape}")
    loader = Loader(source, indices, image, open_cache(cache), exact, threads)
    labels = labels_for(source, indices, targets)
    labels = labels.astype(np.uint8) if targets == "multi_hot" else labels
    size = order.size if drop_remainder else None

    def load(number: np.int64) -> tuple[np.ndarray, ...]:
        epoch, positions = order.batch(int(number))
        seeds = np.stack([np.full(len(positions), seed, np.int64), epoch * 2**32 + positions], axis=1)
        weight = np.ones(0, np.float32) if weights is None else weights[positions]
        return loader.load(positions), labels[positions], seeds, weight

    def fetch(number: Any) -> tuple[Any, ...]:
        types = [tf.uint8, tf.as_dtype(labels.dtype), tf.int64, tf.float32]
        pixels, y, seeds, weight = tf.numpy_function(load, [number], types)
        pixels.set_shape((size, *loader.shape))
        y.set_shape((size, *labels.shape[1:]))
        seeds.set_shape((size, 2))
        weight.set_shape((size,))
        y = TARGETS[targets](y, len(source.classes))
        return (pixels, y, seeds) if weights is None else (pixels, y, seeds, weight)

    def finish(pixels: Any, y: Any, seeds: Any, *weight: Any) -> tuple[Any, ...]:
        if augment is None:
            return (tf.cast(pixels, tf.float32), y, *weight)
        if weight and blend_weights and getattr(augment, "blends", False):
            return _blend(augment, pixels, y, seeds, order.size, weight[0])
        return (*augment(pixels, y, seeds, order.size), *weight)

    as_written = tf.autograph.experimental.do_not_convert
    first = first_epoch * order.steps + first_step
    if epochs is None:
        numbers = tf.data.Dataset.counter(first)
    else:
        numbers = tf.data.Dataset.range(first, (first_epoch + epochs) * order.steps)
    # On threads of their own: they wait for the decoder and would block TensorFlow's threads.
    dataset = numbers.map(
        as_written(fetch), num_parallel_calls=BATCHES_AT_ONCE, deterministic=True, use_unbounded_threadpool=True
    )
    return dataset.map(as_written(finish), num_parallel_calls=BATCHES_AT_ONCE, deterministic=True).prefetch(AHEAD)


def labels_for(source: Source, indices: np.ndarray, targets: Targets) -> np.ndarray:
    """The labels that TARGETS convert: class numbers, or soft labels if there are any and the target is one_hot."""
    return soft_labels(source, indices) if source.soft and targets == "one_hot" else source.label_ids(indices)


def _blend(augment: Augment, pixels: Any, y: Any, seeds: Any, size: int, weight: Any) -> tuple[Any, Any, Any]:
    """MixUp and CutMix with sample weights: images, labels, weights.

    Each of the two images counts by its own weight: the new weight is the blend of both, and each label has the share
    of its own image. The cross-entropy is linear in the labels, so the loss is the blend of the two weighted losses.
    """
    import tensorflow as tf

    weight = weight[:, tf.newaxis]
    images, both = augment(pixels, tf.concat([y * weight, weight], axis=1), seeds, size)
    weighted, weight = both[:, :-1], both[:, -1]
    return images, tf.math.divide_no_nan(weighted, weight[:, tf.newaxis]), weight


def sparse(labels: Any, classes: int) -> Any:
    """The number of the class: (N,) int64."""
    return labels


def one_hot(labels: Any, classes: int) -> Any:
    """1 at the class, or soft labels unchanged: (N, K) float32."""
    import tensorflow as tf

    return tf.one_hot(labels, classes) if labels.dtype.is_integer else labels


def binary(labels: Any, classes: int) -> Any:
    """The class number, 0 or 1: (N, 1) float32."""
    import tensorflow as tf

    return tf.cast(labels, tf.float32)[:, tf.newaxis]


def multi_hot(labels: Any, classes: int) -> Any:
    """1 at each of the classes: (N, K) float32."""
    import tensorflow as tf

    return tf.cast(labels, tf.float32)


TARGETS: dict[Targets, Callable[[Any, int], Any]] = {
    "sparse": sparse,
    "one_hot": one_hot,
    "binary": binary,
    "multi_hot": multi_hot,
}
"""Target -> function that converts the labels of a batch, given the number of classes."""


def _check_targets(targets: Targets, source: Source) -> None:
    if (targets == "multi_hot") != (source.task == "multilabel"):
        raise CallError(f"targets '{targets}' do not fit the task '{source.task}'")
    if targets == "binary" and len(source.classes) != 2:
        raise CallError(f"targets 'binary' need 2 classes, not {len(source.classes)}")
