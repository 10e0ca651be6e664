"""Coordinates of each pixel as channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class CoordChannels(keras.layers.Layer):
    """Add channels that say where a pixel is; with a Conv2D after it, CoordConv (Liu et al. 2018, arXiv:1807.03247).

    (N, H, W, C) -> (N, H, W, C + 2): the row and the column, each from -1 to 1.
    radius: one channel more, the distance from the middle.
    """

    def __init__(self, radius: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.radius = radius

    def build(self, input_shape: Any) -> None:
        """Check the shape."""
        check_images(self, input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Add the channels."""
        batch, height, width, _ = ops.shape(inputs)
        y, x = ops.meshgrid(_places(height), _places(width), indexing="ij")
        channels = [y, x, ops.sqrt(ops.square(x) + ops.square(y))] if self.radius else [y, x]
        coordinates = ops.cast(ops.stack(channels, axis=-1), inputs.dtype)
        coordinates = ops.broadcast_to(coordinates[None], (batch, height, width, len(channels)))
        return ops.concatenate([inputs, coordinates], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Two or three channels more."""
        return (*input_shape[:-1], input_shape[-1] + 2 + self.radius)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "radius": self.radius}


def _places(side: Any) -> Any:
    """(side,) from -1 to 1; 0 where there is one place."""
    steps = ops.arange(side, dtype="float32")
    return (2 * steps - ops.cast(side - 1, "float32")) / ops.cast(ops.maximum(side - 1, 1), "float32")
