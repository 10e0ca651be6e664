"""Local response normalization: each channel is divided by the size of its neighbours."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_features


@keras.saving.register_keras_serializable(package="kerasimg")
class LocalResponseNorm(keras.layers.Layer):
    """Divides by (k + alpha / size * sum of squares of `size` neighbouring channels) ** beta (AlexNet, GoogLeNet).

    (N, ..., C) -> the same shape, as in PyTorch (Krizhevsky et al. 2012, section 3.3, has alpha without the division).

    Args:
        size: of the window over the channels, centred on each.
        alpha: of the sum.
        beta: the exponent.
        k: added to the sum.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        "size": "int>0",
        "alpha": "float>=0",
        "beta": "float>=0",
        "k": "float>0",
    }

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"LocalResponseNorm: size must be 1 or more, got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes nothing; the number of channels must be known."""
        check_features(self, input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Divides by the size of the neighbours."""
        places = np.arange(inputs.shape[-1])
        distance = places[:, None] - places[None, :]  # of the channel that is summed from the one that is divided
        near = (distance >= -(self.size // 2)) & (distance <= (self.size - 1) // 2)
        values = ops.cast(inputs, "float32")  # squares overflow half precision
        sums = ops.matmul(ops.square(values), near.astype("float32") * (self.alpha / self.size))
        return ops.cast(values * ops.power(self.k + sums, -self.beta), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}
