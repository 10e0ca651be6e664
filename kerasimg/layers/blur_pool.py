"""Blur pooling: anti-aliased downsampling."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class BlurPool2D(keras.layers.Layer):
    """Blur, then subsample, so that a shift of the image shifts the map (Zhang 2019, arXiv:1904.11486).

    (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), C). No weights.
    kernel_size: 2 to 7, of the binomial filter; 3 is [1, 2, 1] / 4, each way. The border is mirrored, so H and W must
    be at least (kernel_size + 1) // 2.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"kernel_size": "int[2,7]", "strides": "int>0"}

    def __init__(self, kernel_size: int = 3, strides: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        if not 2 <= kernel_size <= 7:
            raise ValueError(f"BlurPool2D: kernel_size must be in [2, 7], got {kernel_size}")
        if strides < 1:
            raise ValueError(f"BlurPool2D: strides must be 1 or more, got {strides}")
        self.kernel_size = kernel_size
        self.strides = strides

    def build(self, input_shape: Any) -> None:
        """Check that the map can be mirrored."""
        check_images(self, input_shape)
        least = (self.kernel_size + 1) // 2
        if any(side is not None and side < least for side in input_shape[1:3]):
            raise ValueError(f"BlurPool2D: kernel_size {self.kernel_size} needs {least} pixels, got {input_shape[1:3]}")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Blur and subsample."""
        row = np.poly1d([0.5, 0.5]) ** (self.kernel_size - 1)
        kernel = np.outer(row.coeffs, row.coeffs)[:, :, None, None]
        kernel = np.tile(kernel, (1, 1, inputs.shape[-1], 1))
        before, after = (self.kernel_size - 1) // 2, self.kernel_size // 2
        padded = ops.pad(inputs, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")
        return ops.depthwise_conv(
            padded, ops.cast(kernel, inputs.dtype), self.strides, padding="valid", data_format="channels_last"
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Sides divided by the strides, rounded up."""
        sides = (None if side is None else -(-side // self.strides) for side in input_shape[1:3])
        return (input_shape[0], *sides, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "kernel_size": self.kernel_size, "strides": self.strides}
