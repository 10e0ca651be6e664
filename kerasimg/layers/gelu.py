"""GELU, exact or by one of its approximations."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

Approximation = Literal["none", "tanh", "sigmoid"]


@keras.saving.register_keras_serializable(package="kerasimg")
class GELU(keras.layers.Layer):
    """The Gaussian error linear unit (Hendrycks, Gimpel 2016, arXiv:1606.08415) as the weights were trained with it.

    Args:
        approximate: `none`: x times the normal distribution function. `tanh`: as JAX and TensorFlow's code has it by
            default, SigLIP for example. `sigmoid`: x * sigmoid(1.702 x), "quick GELU", as OpenAI's CLIP has it.
    """

    def __init__(self, approximate: Approximation = "none", **kwargs: Any):
        super().__init__(**kwargs)
        if approximate not in get_args(Approximation):
            known = ", ".join(get_args(Approximation))
            raise ValueError(f"GELU: approximate must be one of {known}, got {approximate!r}")
        self.approximate = approximate
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """There is nothing to make."""
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Applies the function to every value."""
        if self.approximate == "sigmoid":
            return inputs * ops.sigmoid(1.702 * inputs)
        return ops.gelu(inputs, approximate=self.approximate == "tanh")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "approximate": self.approximate}
