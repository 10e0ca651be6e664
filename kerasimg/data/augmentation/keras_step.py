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
from keras import ops

from kerasimg import keras_internals
from kerasimg.data.augmentation import draws
from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.errors import CallError

DRAWS: Final = 64
"""Seeds prepared for an image; a layer that draws more often gets them again, each time moved on."""


class ImageSeeds(keras.random.SeedGenerator):
    """Seeds of one image, one after the other: (DRAWS, 2) whole numbers, set before the layer runs."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seeds: Any = None
        self.drawn = 0

    def next(self, ordered: bool = True) -> Any:
        """The next two numbers, in the form that the backend wants."""
        again, place = divmod(self.drawn, DRAWS)
        self.drawn += 1
        return ops.convert_to_tensor(self.seeds[place] + again, dtype=self.state.dtype)


class KerasStep:
    """A layer as a step of the augmentation.

    stream: the two numbers of its random words.
    """

    def __init__(self, name: str, layer: Any, stream: tuple[int, int], shape: tuple[int, int, int]):
        self.name, self.layer, self.stream = name, layer, stream
        self.generator = ImageSeeds()
        self.lock = threading.Lock()
        keras_internals.draw_from(layer, self.generator)
        self.shape = self._shape(shape)
        # Keras' layers for TensorFlow use operations that XLA lacks.
        self.apply = BACKEND.compiled(self._apply, by_xla=False)

    def _shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        try:
            made = tuple(self.layer.compute_output_shape((1, *shape)))
        except NotImplementedError:
            with self._drawing(np.zeros((DRAWS, 2), np.int64)):
                made = tuple(self.layer(keras.KerasTensor((1, *shape)), training=True).shape)
        if len(made) != 4 or None in made[1:]:
            raise CallError(f"augment: {self.name} makes {made} of images of {shape}; expected (N, height, width, C)")
        return made[1:]

    def __call__(self, images: Any, labels: Any, seeds: Any, run: int, batch_size: int | None) -> tuple[Any, Any]:
        """Change a batch: (N, H, W, C), labels, (N, 4) words -> float32 images, labels. run: the run's seed."""
        return self.apply(images, seeds, draws.word(run), ops.shape(images)[0]), labels

    def _apply(self, images: Any, seeds: Any, run: Any, count: Any) -> Any:
        (words,) = draws.words(draws.keys(seeds), [draws.Part(2 * DRAWS, self.stream)], run)
        # Keras' seeds are positive and of 31 bits.
        numbers = ops.cast(ops.right_shift(words, 1), self.generator.state.dtype)
        numbers = ops.reshape(numbers, (-1, DRAWS, 2))
        made = BACKEND.each(self._change, (ops.cast(images, "float32"), numbers), count, self.shape, vectorise=False)
        return ops.clip(made, 0.0, 255.0)

    def _change(self, image: Any, seeds: Any) -> Any:
        with self.lock, self._drawing(seeds):
            made = self.layer(image[None], training=True)
        if operation := BACKEND.unseeded(made):
            warnings.warn(
                f"augment: {self.name} draws by TensorFlow's {operation}, which no seed of the run reaches: "
                "its images differ from run to run; draw with self.backend.random and a SeedGenerator",
                stacklevel=2,
            )
        return ops.cast(made, "float32")[0]

    @contextlib.contextmanager
    def _drawing(self, seeds: Any) -> Iterator[None]:
        """While the layer runs, or is traced, all that it draws comes of these seeds."""
        chance = random.getstate()
        self.generator.seeds, self.generator.drawn = seeds, 0
        # AugMix chooses by Python's generator, once, when its graph is made: the same in every run.
        random.seed(self.stream[0])
        try:
            with keras_internals.global_seed_generator(self.generator), BACKEND.seeded(seeds):
                yield
        finally:
            random.setstate(chance)
            self.generator.seeds = None
