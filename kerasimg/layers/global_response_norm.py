"""Global response normalization."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images, l2_norm


@keras.saving.register_keras_serializable(package="kerasimg")
class GlobalResponseNorm(keras.layers.Layer):
    """Let channels compete by their response over the whole image (ConvNeXt V2: Woo et al. 2023, arXiv:2301.00808).

    (N, H, W, C) -> the same shape: x + beta + gamma * x * r, where r is the L2 norm of a channel over the image,
    divided by the mean of those norms. gamma and beta start at 0, the identity.
    epsilon: added to that mean, above 0.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"epsilon": "float>0"}

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ValueError(f"GlobalResponseNorm: epsilon must be above 0, got {epsilon}")
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Make gamma and beta."""
        check_images(self, input_shape)
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="gamma")
        self.beta = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="beta")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Normalize the responses."""
        # Float16 has too few digits for the norms of a large feature map.
        exact = ops.cast(inputs, "float32")
        norms = l2_norm(exact, axis=(1, 2), least=1e-6)
        shares = ops.cast(norms / (ops.mean(norms, axis=-1, keepdims=True) + self.epsilon), inputs.dtype)
        gamma, beta = ops.cast(self.gamma, inputs.dtype), ops.cast(self.beta, inputs.dtype)
        return inputs + gamma * inputs * shares + beta

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "epsilon": self.epsilon}
