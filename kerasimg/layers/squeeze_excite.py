"""Channel attention by squeeze and excitation."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class SqueezeExcite(keras.layers.Layer):
    """Rescale channels by what the whole image says (Hu et al. 2018, arXiv:1709.01507).

    (N, H, W, C) -> the same shape. The means of the channels pass two 1x1 convolutions, C -> squeezed -> C.
    ratio: squeezed channels / C, in (0, 1], rounded down, at least 1.  units: the squeezed channels themselves,
    in place of the ratio (EfficientNet counts from the input of its block, MobileNetV3 rounds to 8).
    activation: between the convolutions.  gate_activation: after them; `hard_sigmoid` in MobileNetV3.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"ratio": "float(0,1]", "units": "int>0|null"}

    def __init__(
        self,
        ratio: float = 0.25,
        units: int | None = None,
        activation: Any = "relu",
        gate_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"SqueezeExcite: ratio must be in (0, 1], got {ratio}")
        if units is not None and units < 1:
            raise ValueError(f"SqueezeExcite: units must be 1 or more, got {units}")
        self.ratio = ratio
        self.units = units
        self.activation = keras.activations.get(activation)
        self.gate_activation = keras.activations.get(gate_activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the two convolutions."""
        check_images(self, input_shape)
        channels = input_shape[-1]
        squeezed = self.units or max(1, int(channels * self.ratio))
        self.reduce = self._convolution(squeezed, "reduce")
        self.expand = self._convolution(channels, "expand")
        self.reduce.build((None, 1, 1, channels))
        self.expand.build((None, 1, 1, squeezed))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Rescale the channels."""
        squeezed = self.activation(self.reduce(ops.mean(inputs, axis=(1, 2), keepdims=True)))
        return inputs * self.gate_activation(self.expand(squeezed))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "ratio": self.ratio,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}

    def _convolution(self, filters: int, name: str) -> Any:
        return keras.layers.Conv2D(
            filters,
            1,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
