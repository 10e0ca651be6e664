"""Any Keras layer as an augmentation whose draws are a pure function of each image's seeds.

The layer gets each image as a batch of one, so that what Keras draws for a batch is drawn for each image.
Its generators of seeds are replaced by one that yields what the image's own seeds say, in the order of its draws.
"""

from __future__ import annotations

import contextlib
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from kerasimg import keras_internals
from kerasimg.data.augmentation import draws
from kerasimg.errors import CallError

DRAWS: Final = 64
"""Seeds prepared for an image; a layer that draws more often gets them again, each time moved on."""
STATEFUL: Final = ("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "RandomShuffle")
"""TensorFlow's random operations that no seed of ours reaches."""


class ImageSeeds(keras.random.SeedGenerator):
    """Seeds of one image, one after the other: (DRAWS, 2) int64 of TensorFlow or NumPy, set before the layer runs."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seeds: Any = None
        self.drawn = 0

    def next(self, ordered: bool = True) -> Any:
        """The next two numbers, in the form that the layer's backend wants."""
        again, place = divmod(self.drawn, DRAWS)
        self.drawn += 1
        seeds = self.seeds[place] + again
        if tf.is_tensor(seeds):
            return seeds
        return keras.ops.convert_to_tensor(seeds, dtype=self.state.dtype)


class KerasStep:
    """A layer as a step of the augmentation.

    stream: the two numbers of its random words.  It works on TensorFlow's graph where the layer can (all of Keras'
    image layers, on every backend), else step by step on Keras' own backend.
    """

    def __init__(self, name: str, layer: Any, stream: tuple[int, int], shape: tuple[int, int, int]):
        self.name, self.layer, self.stream = name, layer, stream
        self.generator = ImageSeeds()
        self.lock = threading.Lock()
        keras_internals.draw_from(layer, self.generator)
        self.in_graph = keras.backend.backend() == "tensorflow" or hasattr(layer, "backend")
        self.shape = self._shape(shape)

    def _shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        try:
            made = tuple(self.layer.compute_output_shape((1, *shape)))
        except NotImplementedError:
            if self.in_graph:
                made = tuple(self.layer(keras.KerasTensor((1, *shape))).shape)
            else:
                made = (1, *self._eagerly(np.zeros(shape, np.float32), np.zeros((DRAWS, 2), np.int64)).shape)
        if len(made) != 4 or None in made[1:]:
            raise CallError(f"augment: {self.name} makes {made} of images of {shape}; expected (N, height, width, C)")
        return made[1:]

    def __call__(self, images: Any, labels: Any, seeds: Any, run: int, batch_size: int | None) -> tuple[Any, Any]:
        """Change a batch: (N, H, W, C), labels, (N, 2) int64 -> float32 images, labels. run: the run's seed."""
        (words,) = draws.words(
            draws.keys(seeds), [draws.Part(2 * DRAWS, self.stream)], tf.constant(run % 2**32, tf.uint32)
        )
        # Keras' seeds are positive and of 31 bits.
        numbers = tf.cast(tf.bitwise.right_shift(words, tf.constant(1, tf.uint32)), tf.int64)
        numbers = tf.reshape(numbers, (-1, DRAWS, 2))
        images = tf.cast(images, tf.float32)
        one = self._in_graph if self.in_graph else self._outside
        made = tf.map_fn(
            lambda given: one(*given),
            (images, numbers),
            fn_output_signature=tf.TensorSpec(self.shape, tf.float32),
        )
        made.set_shape((images.shape[0], *self.shape))
        return tf.clip_by_value(made, 0.0, 255.0), labels

    def _in_graph(self, image: Any, seeds: Any) -> Any:
        with self._drawing(seeds):
            made = self.layer(image[tf.newaxis], training=True)
        for operation in made.graph.get_operations():
            if operation.type in STATEFUL:
                warnings.warn(
                    f"augment: {self.name} draws by TensorFlow's {operation.type}, which no seed of the run reaches: "
                    "its images differ from run to run; draw with self.backend.random and a SeedGenerator",
                    stacklevel=2,
                )
                break
        return tf.cast(tf.convert_to_tensor(made), tf.float32)[0]

    def _outside(self, image: Any, seeds: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(self._eagerly, (image, seeds), tf.float32), self.shape)

    def _eagerly(self, image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        with self.lock, self._drawing(seeds):
            made = self.layer(keras.ops.convert_to_tensor(image[np.newaxis]), training=True)
        return np.asarray(keras.ops.convert_to_numpy(made), np.float32)[0]

    @contextlib.contextmanager
    def _drawing(self, seeds: Any) -> Iterator[None]:
        """While the layer runs, or is traced, all that it draws comes of these seeds."""
        chance = random.getstate()
        self.generator.seeds, self.generator.drawn = seeds, 0
        # AugMix chooses by Python's generator, once, when its graph is made: the same in every run.
        random.seed(self.stream[0])
        try:
            with keras_internals.global_seed_generator(self.generator):
                yield
        finally:
            random.setstate(chance)
            self.generator.seeds = None
