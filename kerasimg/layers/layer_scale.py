"""Layer scale: a learned factor for each channel."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_features


@keras.saving.register_keras_serializable(package="kerasimg")
class LayerScale(keras.layers.Layer):
    """Multiply each channel by a learned factor that starts small (Touvron et al. 2021, arXiv:2103.17239).

    (N, ..., C) -> the same shape. It ends the branch of a residual block, which so begins near the identity.
    initial_value: of all C factors.  shared: one factor for all channels (SkipInit, NFNet).
    """

    argument_kinds: ClassVar[dict[str, str]] = {"initial_value": "float", "shared": "bool"}

    def __init__(self, initial_value: float = 1e-6, shared: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.shared = shared
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the factors."""
        check_features(self, input_shape)
        start = keras.initializers.Constant(self.initial_value)
        self.gamma = self.add_weight(shape=(1 if self.shared else input_shape[-1],), initializer=start, name="gamma")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Multiply by the factors."""
        return inputs * ops.cast(self.gamma, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "initial_value": self.initial_value, "shared": self.shared}
