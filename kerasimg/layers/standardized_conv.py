"""A convolution whose kernel is standardized."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasimg")
class StandardizedConv2D(keras.layers.Conv2D):
    """Conv2D with a kernel of mean 0 and variance 1 for each filter (Qiao et al. 2019, arXiv:1903.10520: BiT, NFNet).

    Args:
        filters: as of Conv2D, as are the other arguments.
        kernel_size: of one side, or [rows, columns].
        strides: of one side, or [rows, columns].
        padding: `valid`, `same`; in a spec also `symmetric` or a number.
        dilation_rate: of one side, or [rows, columns].
        groups: of channels.
        use_bias: whether a bias is added.
        kernel_initializer: of the kernel before it is standardized.
        gain: a learned factor for each filter, and division by the square root of the inputs of a filter (Brock et al.
            2021, arXiv:2101.08692: NF-ResNet, NFNet).
        epsilon: added to the variance.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        **{"filters": "int>0", "kernel_size": "int>0|[2 int>0]", "strides": "int>0|[2 int>0]", "groups": "int>0"},
        **{"dilation_rate": "int>0|[2 int>0]", "gain": "bool", "epsilon": "float>=0"},
        "padding": "'valid'|'same'|'symmetric'|int>=0|[2 int>=0]",
    }

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        dilation_rate: Any = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        gain: bool = False,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        self.gain = gain
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Makes the kernel and the gain."""
        super().build(input_shape)
        if self.gain:
            self.gamma = self.add_weight(shape=(self.filters,), initializer="ones", name="gamma")

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves with the standardized kernel."""
        values = ops.cast(kernel, "float32")
        mean, variance = ops.moments(values, axes=[0, 1, 2], keepdims=True)
        if self.gain:
            fan_in = values.shape[0] * values.shape[1] * values.shape[2]
            scale = ops.cast(self.gamma, "float32") * ops.rsqrt(ops.maximum(variance * fan_in, self.epsilon))
        else:
            scale = ops.rsqrt(variance + self.epsilon)
        return super().convolution_op(inputs, ops.cast((values - mean) * scale, inputs.dtype))

    def save_own_variables(self, store: Any) -> None:
        """Saves all weights; Conv2D saves its own two."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Loads all weights."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "gain": self.gain, "epsilon": self.epsilon}
