"""Generalized-mean pooling."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class GeMPooling2D(keras.layers.Layer):
    """Pool the whole map by a mean between average and maximum, as learned (Radenovic et al. 2018, arXiv:1711.02512).

    (N, H, W, C) -> (N, C), or (N, 1, 1, C) with `keepdims`: mean(x ** p) ** (1 / p).
    Values below `epsilon` count as it.
    p: where the one learned exponent starts, above 0: 1 is the average, infinity the maximum.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"p": "float>0", "epsilon": "float>0"}

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, keepdims: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if not p > 0:
            raise ValueError(f"GeMPooling2D: p must be above 0, got {p}")
        if not epsilon > 0:
            raise ValueError(f"GeMPooling2D: epsilon must be above 0, got {epsilon}")
        self.p = p
        self.epsilon = epsilon
        self.keepdims = keepdims

    def build(self, input_shape: Any) -> None:
        """Make the exponent."""
        check_images(self, input_shape)
        self.exponent = self.add_weight(shape=(), initializer=keras.initializers.Constant(self.p), name="p")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Pool."""
        # In half precision a power loses its digits, and epsilon is 0.
        p = ops.cast(self.exponent, "float32")
        values = ops.maximum(ops.cast(inputs, "float32"), self.epsilon)
        # Divided by the largest, no power overflows; the mean is homogeneous, so the gradient needs none of that.
        peak = ops.stop_gradient(ops.max(values, axis=(1, 2), keepdims=True))
        means = ops.mean(ops.power(values / peak, p), axis=(1, 2), keepdims=True)
        pooled = peak * ops.power(means, 1 / p)
        pooled = pooled if self.keepdims else ops.squeeze(pooled, axis=(1, 2))
        return ops.cast(pooled, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One value a channel."""
        inner = (1, 1) if self.keepdims else ()
        return (input_shape[0], *inner, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "p": self.p, "epsilon": self.epsilon, "keepdims": self.keepdims}
