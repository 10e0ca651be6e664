"""Maxout: the largest of several channels."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_features


@keras.saving.register_keras_serializable(package="kerasimg")
class Maxout(keras.layers.Layer):
    """Let only the largest of each few neighbouring channels pass (Goodfellow et al. 2013, arXiv:1302.4389).

    (N, ..., C) -> (N, ..., C / pieces).  pieces: 2 or more, divides C. It follows a Dense or a convolution.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"pieces": "int>=2"}

    def __init__(self, pieces: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        if pieces < 2:
            raise ValueError(f"Maxout: pieces must be 2 or more, got {pieces}")
        self.pieces = pieces

    def build(self, input_shape: Any) -> None:
        """Check that the channels can be grouped."""
        check_features(self, input_shape)
        if input_shape[-1] % self.pieces:
            raise ValueError(f"Maxout: {input_shape[-1]} channels cannot be grouped by {self.pieces}")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Take the largest."""
        shape = (*ops.shape(inputs)[:-1], inputs.shape[-1] // self.pieces, self.pieces)
        return ops.max(ops.reshape(inputs, shape), axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Fewer channels."""
        return (*input_shape[:-1], input_shape[-1] // self.pieces)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "pieces": self.pieces}
