"""Channel attention by a convolution across channels."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class EfficientChannelAttention(keras.layers.Layer):
    """Rescale each channel by what its neighbours say (ECA-Net: Wang et al. 2020, arXiv:1910.03151).

    (N, H, W, C) -> the same shape. The means of the channels pass one convolution along C, which has as many weights
    as its kernel is long.
    kernel_size: odd; unless said, the odd number next to log2(C) / 2 + 1 / 2, as in the paper.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"kernel_size": "int>0|null"}

    def __init__(self, kernel_size: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise ValueError(f"EfficientChannelAttention: kernel_size must be odd and above 0, got {kernel_size}")
        self.kernel_size = kernel_size

    def build(self, input_shape: Any) -> None:
        """Make the convolution."""
        check_images(self, input_shape)
        size = self.kernel_size or int((math.log2(input_shape[-1]) + 1) / 2) | 1
        self.convolution = keras.layers.Conv1D(
            1, size, padding="same", use_bias=False, dtype=self.dtype_policy, name="convolution"
        )
        self.convolution.build((None, input_shape[-1], 1))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Rescale the channels."""
        means = ops.expand_dims(ops.mean(inputs, axis=(1, 2)), axis=-1)
        gates = ops.reshape(ops.sigmoid(self.convolution(means)), (-1, 1, 1, inputs.shape[-1]))
        return inputs * gates

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "kernel_size": self.kernel_size}
