"""The base of augmentation layers that change each image independently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras

from kerasimg import keras_internals

_IMAGE_LAYER: Any = keras_internals.image_layer_class()


class PerImage(_IMAGE_LAYER):
    """An augmentation; a subclass varies a batch in `_vary`, each image in its own way.

    (N, H, W, C) or (H, W, C) -> the same shape, in training; in inference images pass.
    Like Keras' own image layers it works in tf.data on every backend, and `training` is true by default.
    value_range: [lowest, highest] value of a pixel.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"value_range": "[2 float]", "seed": "int|null"}

    def __init__(self, value_range: Sequence[float] = (0.0, 255.0), seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"{type(self).__name__}: value_range must be [low, high], got {value_range}")
        if self.data_format != "channels_last":
            raise ValueError(f"{type(self).__name__}: works on channels_last only, got '{self.data_format}'")
        self.value_range = tuple(value_range)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def transform_images(self, images: Any, transformation: Any = None, training: bool = True) -> Any:
        """Vary a batch of images."""
        images = self.backend.cast(images, "float32")
        if training:
            low, high = self.value_range
            pixels = self._vary((images - low) * (255 / (high - low)))
            images = pixels * ((high - low) / 255) + low
        return self.backend.cast(images, self.compute_dtype)

    def transform_labels(self, labels: Any, transformation: Any = None, training: bool = True) -> Any:
        """Labels pass."""
        return labels

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "value_range": self.value_range, "seed": self.seed}

    def _vary(self, pixels: Any) -> Any:
        """Vary images, (N, H, W, C) float32 of 0-255."""
        raise NotImplementedError

    def _uniform(self, *shape: Any) -> Any:
        """Random numbers in [0, 1), float32."""
        seed = keras_internals.seed_in_pipeline(self)
        return self.backend.random.uniform(shape, dtype="float32", seed=seed)

    def _only(self, chosen: Any, images: Any, function: Callable[..., Any], *rows: Any) -> Any:
        """Replace the chosen images, (N,) bool, by function(images, *rows), where the rows are one an image.

        TensorFlow, and so tf.data, computes it for the chosen ones alone; the others need shapes that are known.
        """
        if self.backend.name != "tensorflow":
            chosen = self.backend.numpy.reshape(chosen, (-1, 1, 1, 1))
            return self.backend.numpy.where(chosen, function(images, *rows), images)
        import tensorflow as tf

        places = tf.where(chosen)
        picked = (tf.gather(row, places[:, 0]) for row in (images, *rows))
        return tf.tensor_scatter_nd_update(images, places, function(*picked))
