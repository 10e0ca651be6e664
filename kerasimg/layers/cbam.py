"""Convolutional block attention: of channels, then of positions."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class CBAM(keras.layers.Layer):
    """Convolutional block attention: rescale channels, then places (Woo et al. 2018, arXiv:1807.06521).

    (N, H, W, C) -> the same shape. Mean and maximum over the image pass one shared network, C -> ratio * C -> C, and
    add up to the gates of the channels; mean and maximum over the channels pass one convolution to those of the places.
    ratio: in (0, 1]; 1 / 16 in the paper.  kernel_size: of that convolution, odd.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"ratio": "float(0,1]", "kernel_size": "int>0"}

    def __init__(self, ratio: float = 0.0625, kernel_size: int = 7, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"CBAM: ratio must be in (0, 1], got {ratio}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"CBAM: kernel_size must be odd and above 0, got {kernel_size}")
        self.ratio = ratio
        self.kernel_size = kernel_size

    def build(self, input_shape: Any) -> None:
        """Make the network of the channels and the convolution of the places."""
        check_images(self, input_shape)
        channels = input_shape[-1]
        squeezed = max(1, int(channels * self.ratio))
        policy = self.dtype_policy
        self.reduce = keras.layers.Dense(squeezed, activation="relu", dtype=policy, name="reduce")
        self.expand = keras.layers.Dense(channels, dtype=policy, name="expand")
        self.places = keras.layers.Conv2D(
            1, self.kernel_size, padding="same", use_bias=False, activation="sigmoid", dtype=policy, name="places"
        )
        self.reduce.build((None, 1, 1, channels))
        self.expand.build((None, 1, 1, squeezed))
        self.places.build((*input_shape[:-1], 2))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Rescale the channels, then the places."""
        summaries = (reduced(inputs, axis=(1, 2), keepdims=True) for reduced in (ops.mean, ops.max))
        mean, largest = (self.expand(self.reduce(summary)) for summary in summaries)
        scaled = inputs * ops.sigmoid(mean + largest)
        maps = [reduced(scaled, axis=-1, keepdims=True) for reduced in (ops.mean, ops.max)]
        return scaled * self.places(ops.concatenate(maps, axis=-1))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "ratio": self.ratio, "kernel_size": self.kernel_size}
