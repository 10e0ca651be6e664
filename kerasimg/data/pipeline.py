"""Images of a source -> batches that `model.fit`, `evaluate` and `predict` take, in the active backend's arrays.

Batches are made by their number (`batches.py`): read, decoded or taken from the cache as uint8, and finished by the
backend: augmented, or converted to floats. Some are made ahead, in threads, while the model computes. Under TensorFlow
this is a tf.data.Dataset, under JAX and PyTorch a `Feed`; both have a known length and give the same batches again.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasimg.data.batches import Batches, ImageBatches
from kerasimg.data.cache import Cache, CacheKind, open_cache
from kerasimg.data.shuffling import Order, Shard, steps
from kerasimg.data.source import Source
from kerasimg.errors import CallError, KerasimgError, counted
from kerasimg.spec.document import Image
from kerasimg.spec.heads import Targets

__all__ = ["Feed", "Targets", "batches", "feed", "map_batches", "own_errors", "steps"]

Batch = tuple[Any, ...]
"""(x, y) or (x, y, w)."""
Augment = Callable[[Any, Any, Any, int], tuple[Any, Any]]
"""(uint8 images, labels, seeds, size of a full batch) -> (float32 images, labels): see `augment.Augmentation`."""

BATCHES_AT_ONCE = 2
"""Batches that are finished at once, so that no core waits for the last image of one."""
AHEAD = 2
"""Finished batches that wait for the model."""


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
    workers: int | None = None,
    blend_weights: bool = True,
) -> Any:
    """The images at `indices` as batches of (x, y), or (x, y, w): x float32 0-255, (N, H, W, C).

    y: see `batches.ENCODERS`.  sample_weight: one per index.
    shuffle: permute all images in each epoch, by (seed, epoch).
    augment: from `compile_augment`; its seeds are `image_seeds` of the positions in `indices`.
    cache: where decoded images are stored: "off", "memory", "disk", "auto", or a shared `Cache`.
    exact: use the reference decoder, for evaluation; else the fast one (`fast_decode.py`).
    first_epoch, first_step: start with this batch of this epoch, both counted from 0.
    epochs: number of epochs, from first_epoch on; None: infinite (fit needs `steps_per_epoch=steps()`).
    shard: (k, n): worker k of n gets its slice of every batch; `batch_size` is the total of all workers.
    threads: decoding threads; None: one per core.  workers: decoding processes; None: see `worker_pool.worker_count`.
    blend_weights: if `augment` blends labels, blend the weights too (see `_blend`).

    Iterating twice gives the same batches twice. An image that cannot be read raises a DataError that names it; under
    TensorFlow, inside of `own_errors`.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if not len(indices):
        raise CallError("batches of no images were asked for")
    order = Order(len(indices), batch_size, shuffle, seed, drop_remainder, shard)
    first, end = numbers(order, first_epoch, epochs, first_step)
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float32)
    if weights is not None and weights.shape != indices.shape:
        raise CallError(f"expected {counted(len(indices), 'sample weight')}, got shape {weights.shape}")
    images = ImageBatches(
        source,
        indices,
        image,
        order,
        targets=targets,
        sample_weight=weights,
        cache=open_cache(cache),
        exact=exact,
        threads=threads,
        workers=workers,
    )

    def finish(pixels: Any, y: Any, seeds: Any, *weight: Any) -> Batch:
        return finish_batch(augment, pixels, y, seeds, order.size, *weight, blend_weights=blend_weights)

    return feed(images, first, end, finish)


def finish_batch(
    augment: Augment | None, pixels: Any, y: Any, seeds: Any, size: int, *weight: Any, blend_weights: bool = True
) -> Batch:
    """Loaded images as a batch: augmented, or converted to floats.  size: of a full batch."""
    if augment is None:
        return (ops.cast(pixels, "float32"), y, *weight)
    if weight and blend_weights and getattr(augment, "blends", False):
        return _blend(augment, pixels, y, seeds, size, weight[0])
    return (*augment(pixels, y, seeds, size), *weight)


def numbers(order: Order, first_epoch: int, epochs: int | None, first_step: int) -> tuple[int, int | None]:
    """The first batch and the one to stop before, as `Order` counts them; None: without end."""
    if not 0 <= first_step < order.steps or first_epoch < 0:
        raise CallError(f"first_step: expected 0 to {order.steps - 1}, got {first_step} (first_epoch {first_epoch})")
    return first_epoch * order.steps + first_step, None if epochs is None else (first_epoch + epochs) * order.steps


def _blend(augment: Augment, pixels: Any, y: Any, seeds: Any, size: int, weight: Any) -> Batch:
    """MixUp and CutMix with sample weights: images, labels, weights.

    Each of the two images counts by its own weight: the new weight is the blend of both, and each label has the share
    of its own image. The cross-entropy is linear in the labels, so the loss is the blend of the two weighted losses.
    """
    weight = ops.expand_dims(weight, 1)
    images, both = augment(pixels, ops.concatenate([y * weight, weight], axis=1), seeds, size)
    weighted, weight = both[:, :-1], both[:, -1]
    return images, ops.divide_no_nan(weighted, ops.expand_dims(weight, 1)), weight


# --- Feeding ----------------------------------------------------------------------------------------------------------


def feed(batches: Batches, first: int, end: int | None, finish: Callable[..., Batch], prefetch: int = AHEAD) -> Any:
    """The batches from number `first` to before `end` as a tf.data.Dataset or a `Feed`; None: without end.

    finish: the backend's tensors of a batch -> the batch.
    prefetch: finished batches that wait for the model, under TensorFlow.
    """
    if keras.backend.backend() == "tensorflow":
        return _dataset(batches, first, end, finish, prefetch)

    def make(number: int) -> Batch:
        # Class numbers stay in NumPy: JAX has no 64-bit integers.
        arrays = batches.load(number)
        return finish(*(array if array.dtype == np.int64 else _to_device(array) for array in arrays))

    return Feed(make, first, end, batches.at_once)


def _to_device(array: np.ndarray) -> Any:
    if keras.backend.backend() != "jax":
        return ops.convert_to_tensor(array)
    import jax

    return jax.device_put(array)  # `convert_to_tensor` would compile a function for each shape


def map_batches(data: Any, function: Callable[..., Batch]) -> Any:
    """Applies a function of the backend's tensors to every batch of what `feed` returned."""
    if isinstance(data, Feed):
        return data.map(function)
    import tensorflow as tf

    as_written = tf.autograph.experimental.do_not_convert
    return data.map(as_written(function), num_parallel_calls=BATCHES_AT_ONCE, deterministic=True).prefetch(AHEAD)


class Feed(keras.utils.PyDataset):
    """Batches under JAX and PyTorch: made by their number, some ahead of the model, in threads.

    The threads end with the last batch, or when the feed is no longer referenced.
    """

    def __init__(self, make: Callable[[int], Batch], first: int, end: int | None, at_once: int) -> None:
        """make: number -> batch.  first, end: numbers as `Order` counts them; None: without end.

        at_once: batches that are made at once.
        """
        super().__init__()
        self.make, self.first, self.end, self.at_once = make, first, end, at_once
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[int, Future[Batch]] = {}

    @property
    def num_batches(self) -> int | None:
        """Number of batches; None: without end."""
        return None if self.end is None else self.end - self.first

    def map(self, function: Callable[..., Batch]) -> Feed:
        """The same batches after a function of them, which runs in the threads."""
        make = self.make
        return Feed(lambda number: function(*make(number)), self.first, self.end, self.at_once)

    def __getitem__(self, index: int) -> Batch:
        number = self.first + index
        if self.end is not None and number >= self.end:
            raise IndexError(index)
        ahead = number + self.at_once + AHEAD
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="kerasimg-feed")
            wanted = range(number, ahead if self.end is None else min(ahead, self.end))
            for other in self._waiting.keys() - set(wanted):
                self._waiting.pop(other).cancel()
            for other in wanted:
                if other not in self._waiting:
                    self._waiting[other] = self._pool.submit(self.make, other)
            future = self._waiting.pop(number)
        try:
            return future.result()
        finally:
            if number + 1 == self.end:
                self.close()

    def close(self) -> None:
        """Ends the threads; the next batch starts them again."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool, self._waiting = None, {}


_failures: deque[KerasimgError] = deque(maxlen=8)
"""The last errors of batches that TensorFlow was to load; it passes on their text alone."""


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raises the error that names the image where TensorFlow would raise its own because a batch cannot be loaded."""
    try:
        yield
    except Exception as error:
        text = "" if isinstance(error, KerasimgError) else str(error)
        failure = next((failure for failure in _failures if text and str(failure) in text), None)
        if failure is None:
            raise
        raise failure from None


class _Calls:
    """Calls of TensorFlow's threads into Python."""

    def __init__(self) -> None:
        self.open, self.last_end = 0, -math.inf
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.open, self.last_end = self.open - 1, time.monotonic()

    def wait(self, at_most: float = 30.0, quiet: float = 0.3) -> None:
        """Waits until for some seconds there was none."""
        end = time.monotonic() + at_most
        while (self.open or time.monotonic() - self.last_end < quiet) and time.monotonic() < end:
            time.sleep(0.02)


_calls = _Calls()
# A program may end while a dataset is in use. A thread that calls Python while the interpreter ends never returns, and
# the process would wait for it without end. Once enough batches are prefetched, no thread calls any more.
atexit.register(_calls.wait)


def _dataset(batches: Batches, first: int, end: int | None, finish: Callable[..., Batch], prefetch: int) -> Any:
    import tensorflow as tf

    order, signature = batches.order, batches.signature
    rows = order.size if order.drop_remainder else None

    def load(number: np.int64) -> tuple[np.ndarray, ...]:
        with _calls:
            try:
                return batches.load(int(number))
            except KerasimgError as error:
                _failures.append(error)
                raise

    def fetch(number: Any) -> tuple[Any, ...]:
        tensors = tf.numpy_function(load, [number], [tf.as_dtype(dtype) for _, dtype in signature], stateful=False)
        for tensor, (shape, _) in zip(tensors, signature, strict=True):
            tensor.set_shape((rows, *shape))
        return tuple(tensors)

    as_written = tf.autograph.experimental.do_not_convert
    dataset = tf.data.Dataset.counter(first) if end is None else tf.data.Dataset.range(first, end)
    # On threads of their own: they wait for the decoder and would block TensorFlow's threads.
    dataset = dataset.map(
        as_written(fetch), num_parallel_calls=batches.at_once, deterministic=True, use_unbounded_threadpool=True
    )
    dataset = dataset.map(as_written(finish), num_parallel_calls=BATCHES_AT_ONCE, deterministic=True)
    options = tf.data.Options()
    # All numbers are given, and the end of an iterator often waits, for up to a second, until the autotuner wakes.
    options.autotune.enabled = False
    return dataset.prefetch(prefetch).with_options(options)
