"""A model's forward pass, compiled once for any number of images, for all who ask the model in a process.

Keras compiles `predict` again for batches from a data set, for arrays, and for each size of them, which takes longer
than a few hundred images do. The seam's check, the evaluation, the report and the explanations share this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasimg.keras_internals import is_functional
from kerasimg.models.flat_graph import flatten

BATCH_SIZE = 64
"""Images per batch, if an array holds more."""
LARGEST = 24 * 2**20
"""Bytes of the largest value of a model for the images that a CPU computes at once, about.

Beyond 32 MB glibc asks the system for each value and gives it back, and each of its pages is mapped again: a third of
the time. Smaller values stay in the caches of the CPU, too.
"""

ATTRIBUTE = "_kerasimg_forward"
"""The attribute of a model that holds it; it is not saved, since it is neither a layer nor a variable."""


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """The forward pass of a model with one input: images (N, H, W, C), 0-255 -> its first output (N, ...) float32.

    As in inference, with the weights that the model has at the time of the call.
    """
    if keras.backend.backend() != "tensorflow":
        return lambda images: _by_keras(model, images, _padded_size(len(images)))
    found = getattr(model, ATTRIBUTE, None)
    if found is None:
        found = _Compiled(model)
        setattr(model, ATTRIBUTE, found)
    return found


def answers(model: keras.Model, images: Any) -> np.ndarray:
    """The float32 outputs of a model for images (N, H, W, C), 0-255, or for batches from the pipeline."""
    if hasattr(images, "shape"):
        batches = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    else:
        batches = (batch[0] if isinstance(batch, tuple) else batch for batch in images)
    outputs: list[np.ndarray] = []
    run, largest = forward(model), 0
    for batch in batches:
        largest = max(largest, len(batch))
        short = len(batch) < largest and keras.backend.backend() != "tensorflow"
        outputs.append(_by_keras(model, batch, largest) if short else run(batch))
    return np.concatenate(outputs)


def images_at_once(model: keras.Model) -> int:
    """How many images a CPU computes at once under TensorFlow, by the largest value of a functional model.

    A power of 2, at most BATCH_SIZE. It depends on the model alone, so that the same images give the same numbers.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") or not is_functional(model):
        return BATCH_SIZE
    graph = flatten(model)
    largest = max(map(graph.elements, graph.tensors))
    if math.isinf(largest):  # a shape that is known only when it runs
        return BATCH_SIZE
    return min(BATCH_SIZE, 2 ** int(math.log2(max(LARGEST / (4 * largest), 1))))


def in_parts(function: Callable[[Any], list[np.ndarray]], images: Any, size: int) -> list[np.ndarray]:
    """The arrays of a function of images, computed for at most `size` images at once."""
    if not len(images):  # with AVX-512, TensorFlow's convolution of no images has the shape of its input
        one = ops.zeros((1, *images.shape[1:]), keras.backend.standardize_dtype(images.dtype))
        return [array[:0] for array in function(one)]
    parts = [function(images[start : start + size]) for start in range(0, len(images), size)]
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _by_keras(model: keras.Model, images: Any, size: int) -> np.ndarray:
    """On JAX and PyTorch. JAX compiles for each size of a batch, so that few are used: smaller ones are padded."""
    tensor = ops.cast(ops.convert_to_tensor(images), model.inputs[0].dtype)
    count = len(images)
    if count < size and keras.backend.backend() == "jax":
        tensor = ops.pad(tensor, ((0, size - count), *((0, 0) for _ in tensor.shape[1:])))
    found = model.predict_on_batch(tensor)
    return np.asarray(keras.tree.flatten(found)[0], dtype=np.float32)[:count]


def _padded_size(count: int) -> int:
    """The next power of 4: few sizes are compiled, and at most a quarter of a batch is images."""
    return int(4 ** -(-(count - 1).bit_length() // 2))


class _Compiled:
    """On TensorFlow: a function for a batch of any size."""

    def __init__(self, model: keras.Model) -> None:
        import tensorflow as tf

        image = model.inputs[0]
        self.dtype = image.dtype
        signature = [tf.TensorSpec((None, *image.shape[1:]), image.dtype)]

        def run(images: Any) -> Any:
            return tf.cast(keras.tree.flatten(model(images, training=False))[0], tf.float32)

        # The traced function itself: to TensorFlow's warning of functions traced too often, many models' are one.
        traced = tf.function(tf.autograph.experimental.do_not_convert(run), input_signature=signature)
        self.function = traced.get_concrete_function()
        self.at_once = images_at_once(model)

    def __call__(self, images: Any) -> np.ndarray:
        import tensorflow as tf

        tensor = tf.cast(images, self.dtype)
        return in_parts(lambda part: [self.function(part).numpy()], tensor, self.at_once)[0]
