"""Patch embedding: an image becomes a sequence of tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_images, pair


@keras.saving.register_keras_serializable(package="kerasimg")
class PatchEmbed(keras.layers.Layer):
    """Cut the image into patches and project each to a token (ViT: Dosovitskiy et al. 2021, arXiv:2010.11929).

    (N, H, W, C) -> (N, H // patch * (W // patch), units), row by row; (N, H // patch, W // patch, units) without
    `flatten`. What does not fill a patch, at the right and at the bottom, is left out.
    patch_size: pixels a side, or [rows, columns].
    """

    argument_kinds: ClassVar[dict[str, str]] = {"patch_size": "int>0|[2 int>0]"}

    def __init__(
        self,
        units: int,
        patch_size: Any,
        flatten: bool = True,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"PatchEmbed: units must be 1 or more, got {units}")
        self.units = units
        self.patch_size = pair(self, "patch_size", patch_size)
        self.flatten = flatten
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the projection."""
        check_images(self, input_shape)
        sides = zip(input_shape[1:3], self.patch_size, strict=True)
        if any(side is not None and side < patch for side, patch in sides):
            raise ValueError(f"PatchEmbed: patches of {self.patch_size} do not fit into {tuple(input_shape[1:3])}")
        self.projection = keras.layers.Conv2D(
            self.units,
            self.patch_size,
            strides=self.patch_size,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Cut and project."""
        patches = self.projection(inputs)
        if not self.flatten:
            return patches
        rows, columns = ops.shape(patches)[1:3]
        return ops.reshape(patches, (-1, rows * columns, self.units))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Tokens, or the map of them."""
        sides = zip(input_shape[1:3], self.patch_size, strict=True)
        rows, columns = (None if side is None else side // patch for side, patch in sides)
        if not self.flatten:
            return (input_shape[0], rows, columns, self.units)
        tokens = None if rows is None or columns is None else rows * columns
        return (input_shape[0], tokens, self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "units": self.units,
            "patch_size": self.patch_size,
            "flatten": self.flatten,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}
