"""Stochastic depth."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasimg")
class DropPath(keras.layers.Layer):
    """Drop the whole branch of a residual block, image by image (Huang et al. 2016, arXiv:1603.09382).

    (N, ...) -> the same shape. In training an image's values are all 0 with probability `rate`, else divided by
    1 - rate, so that their mean stays; in inference they pass.
    rate: in [0, 1).
    """

    argument_kinds: ClassVar[dict[str, str]] = {"rate": "float[0,1)"}

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"DropPath: rate must be in [0, 1), got {rate}")
        self.rate = rate
        self.seed = seed
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """Nothing to build."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Drop whole images."""
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0], *(1 for _ in inputs.shape[1:]))
        keep = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        return ops.where(keep, inputs / (1 - self.rate), ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
