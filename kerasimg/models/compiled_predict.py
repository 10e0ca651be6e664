"""A model's forward pass, compiled once for any number of images, for all who ask the model in a process.

Keras compiles `predict` again for batches from a data set, for arrays, and for each size of them, which takes longer
than a few hundred images do. The seam's check during a training uses `forward`, with the weights of the moment; what
asks a trained model (the rule for unknown images, evaluation, report, prediction) shares `final_outputs_of`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasimg.keras_internals import is_functional
from kerasimg.models.flat_graph import flatten
from kerasimg.models.lowering import Working, lower
from kerasimg.processor import has_bfloat16

BATCH_SIZE = 64
"""Images per batch, if an array holds more."""
LARGEST = 24 * 2**20
"""Bytes of the largest value of a model for the images that a CPU computes at once, about.

Beyond 32 MB glibc asks the system for each value and gives it back, and each of its pages is mapped again: a third of
the time. Smaller values stay in the caches of the CPU, too.
"""

MOST_FOLDED = 10_000_000
"""Most weights that are folded and held as constants: to compile larger ones takes seconds, and gains a few percent."""

ATTRIBUTE = "_kerasimg_forward"
"""The attribute of a model that holds it; it is not saved, since it is neither a layer nor a variable."""

MODEL_LOCK = threading.RLock()
"""Held by the thread that asks a model by Keras, traces it, or replaces a part of it to look inside (`explain`).

Under JAX, Keras gives the state of a model to the compiled function and takes it back, and another model may have the
same layers; what is traced while a part is replaced stays so.
"""

Run = Callable[..., list[np.ndarray]]
"""Images (N, H, W, C), 0-255, and the size of the batches that they are one of (default: N) -> the outputs, float32."""


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """The forward pass of a model with one input: images (N, H, W, C), 0-255 -> its first output (N, ...) float32.

    As in inference, with the weights that the model has at the time of the call.
    """
    run = outputs_of(model)
    return lambda images: run(images)[0]


def outputs_of(model: keras.Model) -> Run:
    """As `forward`, of all outputs of the model."""
    if keras.backend.backend() != "tensorflow":
        return _ByKeras(model)
    found = getattr(model, ATTRIBUTE, None)
    if found is None:
        found = _Compiled(model, lambda images: keras.tree.flatten(model(images, training=False)))
        setattr(model, ATTRIBUTE, found)
    return found


def final_outputs_of(model: keras.Model, working: Working = "float32") -> Run:
    """As `outputs_of`, of a model whose weights change no more: where it is faster, they are constants.

    With TensorFlow on a CPU, batch normalizations are folded into the kernels then, which is exact except for rounding.

    working: the type of the values between the layers, where they are folded and the CPU has it.
    """
    if keras.backend.backend() != "tensorflow" or has_gpu() or not is_functional(model):
        return outputs_of(model)
    graph = flatten(model)
    dtypes = {getattr(call.operation, "compute_dtype", "float32") for call in graph.calls}
    if model.count_params() > MOST_FOLDED or {model.inputs[0].dtype, *dtypes} != {"float32"}:
        return outputs_of(model)
    program = lower(graph, working if working == "float32" or has_bfloat16() else "float32")
    return _Compiled(model, program.__call__) if program.folded else outputs_of(model)


def answers(model: keras.Model, images: Any) -> np.ndarray:
    """The float32 outputs of a model for images (N, H, W, C), 0-255, or for batches from the pipeline."""
    return in_batches(outputs_of(model), images)[0]


def in_batches(run: Run, images: Any) -> list[np.ndarray]:
    """The outputs that a forward pass gives for images (N, H, W, C), 0-255, or for batches from the pipeline."""
    if hasattr(images, "shape"):
        batches = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    else:
        batches = (batch[0] if isinstance(batch, tuple) else batch for batch in images)
    parts: list[list[np.ndarray]] = []
    largest = 0
    for batch in batches:
        largest = max(largest, len(batch))
        parts.append(run(batch, largest))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def images_at_once(model: keras.Model) -> int:
    """How many images a CPU computes at once under TensorFlow, by the largest value of a functional model.

    A power of 2, at most BATCH_SIZE. It depends on the model alone, so that the same images give the same numbers.
    """
    if has_gpu() or not is_functional(model):
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


def has_gpu() -> bool:
    """Whether the active backend has a GPU, or another accelerator."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "torch":  # for which Keras lists no devices
        import torch

        return bool(torch.cuda.is_available())
    return any(not str(name).lower().startswith("cpu") for name in keras.distribution.list_devices())


class _ByKeras:
    """On JAX and PyTorch. JAX compiles for each size of a batch, so that few are used: smaller ones are padded."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def __call__(self, images: Any, size: int = 0) -> list[np.ndarray]:
        tensor = ops.cast(ops.convert_to_tensor(images), self.model.inputs[0].dtype)
        count = len(images)
        size = size or _padded_size(count)
        if count < size and keras.backend.backend() == "jax":
            tensor = ops.pad(tensor, ((0, size - count), *((0, 0) for _ in tensor.shape[1:])))
        with MODEL_LOCK:
            found = keras.tree.flatten(self.model.predict_on_batch(tensor))
        return [np.asarray(output, dtype=np.float32)[:count] for output in found]


def _padded_size(count: int) -> int:
    """The next power of 4: few sizes are compiled, and at most a quarter of a batch is images."""
    return int(4 ** -(-(count - 1).bit_length() // 2))


class _Compiled:
    """On TensorFlow: a function for a batch of any size."""

    def __init__(self, model: keras.Model, function: Callable[[Any], list[Any]]) -> None:
        """model: what the function computes, for its input and the sizes of its values."""
        import tensorflow as tf

        image = model.inputs[0]
        self.dtype = image.dtype
        signature = [tf.TensorSpec((None, *image.shape[1:]), image.dtype)]

        def run(images: Any) -> Any:
            with tf.name_scope("forward"):  # at the top, TensorFlow takes no name that begins with "_"
                return [tf.cast(output, tf.float32) for output in function(images)]

        # The traced function itself: to TensorFlow's warning of functions traced too often, many models' are one.
        traced = tf.function(tf.autograph.experimental.do_not_convert(run), input_signature=signature)
        with MODEL_LOCK:
            self.function = traced.get_concrete_function()
        self.at_once = images_at_once(model)

    def __call__(self, images: Any, size: int = 0) -> list[np.ndarray]:
        import tensorflow as tf

        tensor = tf.cast(images, self.dtype)
        return in_parts(lambda part: [output.numpy() for output in self.function(part)], tensor, self.at_once)
