"""Sequence pooling: tokens are averaged by attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.layers.images import check_tokens


@keras.saving.register_keras_serializable(package="kerasimg")
class SequencePooling(keras.layers.Layer):
    """Pool tokens by learned importance, in place of a class token (CCT: Hassani et al. 2021, arXiv:2104.05704).

    (N, T, C) -> (N, C): the mean of the tokens, weighted by a softmax over T of one score each.
    use_bias: of the score; in the authors' code, though it cancels out in the softmax and so never changes.
    """

    def __init__(self, use_bias: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        """Make the scoring."""
        check_tokens(self, input_shape)
        self.score = keras.layers.Dense(1, use_bias=self.use_bias, dtype=self.dtype_policy, name="score")
        self.score.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Pool."""
        scores = ops.cast(self.score(inputs), "float32")
        shares = ops.cast(ops.softmax(scores, axis=1), inputs.dtype)
        return ops.sum(shares * inputs, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One vector."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "use_bias": self.use_bias}
