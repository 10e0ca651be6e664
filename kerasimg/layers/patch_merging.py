"""Patch merging: downsampling by joining neighbouring tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class PatchMerging(keras.layers.Layer):
    """Halve the map: 2x2 neighbours side by side, normalized and projected (Swin: Liu et al. 2021, arXiv:2103.14030).

    (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), units); an odd side is filled up with zeros.
    units: 2 C unless said.  epsilon: of the layer normalization.
    norm_last: normalize after the projection, as in Swin V2 (Liu et al. 2021, arXiv:2111.09883).
    """

    argument_kinds: ClassVar[dict[str, str]] = {"units": "int>0|null", "epsilon": "float>0"}

    def __init__(
        self,
        units: int | None = None,
        epsilon: float = 1e-5,
        norm_last: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if units is not None and units < 1:
            raise ValueError(f"PatchMerging: units must be 1 or more, got {units}")
        if not epsilon > 0:
            raise ValueError(f"PatchMerging: epsilon must be above 0, got {epsilon}")
        self.units = units
        self.epsilon = epsilon
        self.norm_last = norm_last
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the normalization and the projection."""
        check_images(self, input_shape)
        channels = input_shape[-1]
        self.normalization = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name="normalization"
        )
        self.projection = keras.layers.Dense(
            self.units or 2 * channels,
            use_bias=False,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="projection",
        )
        normalized = self.projection.units if self.norm_last else 4 * channels
        self.normalization.build((*input_shape[:-1], normalized))
        self.projection.build((*input_shape[:-1], 4 * channels))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Merge."""
        height, width, channels = ops.shape(inputs)[1:]
        padded = ops.pad(inputs, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        rows, columns = (height + 1) // 2, (width + 1) // 2
        tiles = ops.reshape(padded, (-1, rows, 2, columns, 2, channels))
        # Columns before rows, as the published weights expect it.
        merged = ops.reshape(ops.transpose(tiles, (0, 1, 3, 4, 2, 5)), (-1, rows, columns, 4 * channels))
        if self.norm_last:
            return self.normalization(self.projection(merged))
        return self.projection(self.normalization(merged))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Half the sides, rounded up."""
        sides = (None if side is None else (side + 1) // 2 for side in input_shape[1:3])
        return (input_shape[0], *sides, self.units or 2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "units": self.units,
            "epsilon": self.epsilon,
            "norm_last": self.norm_last,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}
