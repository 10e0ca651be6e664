"""Whitening of patches, as a first layer whose filters are computed from training images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_images


@keras.saving.register_keras_serializable(package="kerasimg")
class PatchWhitening(keras.layers.Layer):
    """A frozen convolution whose outputs are uncorrelated and of equal size (Jordan 2024, arXiv:2404.00498, 3.2).

    Its filters are the eigenvectors of the patches of training images, each divided by the root of its eigenvalue,
    followed by their negatives. `adapt` computes them; kerasimg's training does that before the first step. Until then
    a filter picks a single pixel.

    (N, H, W, C) -> (N, H - kernel_size + 1, W - kernel_size + 1, 2 * kernel_size^2 * C).

    Args:
        kernel_size: side of a patch.
        epsilon: added to the eigenvalues, as a share of their mean, so that noise is not amplified without bounds.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"kernel_size": "int[1,7]", "epsilon": "float>=0"}

    def __init__(self, kernel_size: int = 2, epsilon: float = 5e-4, **kwargs: Any):
        super().__init__(**kwargs)
        if not 1 <= kernel_size <= 7:
            raise ValueError(f"PatchWhitening: kernel_size must be in [1, 7], got {kernel_size}")
        if epsilon < 0:
            raise ValueError(f"PatchWhitening: epsilon must be >= 0, got {epsilon}")
        self.kernel_size = kernel_size
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Makes the filters."""
        check_images(self, input_shape)
        if any(side is not None and side < self.kernel_size for side in input_shape[1:3]):
            raise ValueError(f"PatchWhitening: patches of {self.kernel_size} pixels do not fit in {input_shape[1:3]}")
        size = self.kernel_size**2 * input_shape[-1]
        self.kernel = self.add_weight(shape=(size, size), initializer="identity", trainable=False, name="kernel")
        self.built = True

    @property
    def adapted(self) -> bool:
        """Whether the filters were computed, or loaded."""
        kernel = ops.convert_to_numpy(ops.cast(self.kernel, "float32"))
        return not np.array_equal(kernel, np.eye(len(kernel)))

    def adapt(self, batches: Iterable[Any]) -> None:
        """Computes the filters from inputs of this layer, (N, H, W, C) in each batch, a few hundred images in all.

        Zeros only leave them as they are.
        """
        sides = (self.kernel_size, self.kernel_size)
        squares: Any = 0.0
        count = 0
        for batch in batches:
            values = np.asarray(ops.convert_to_numpy(ops.cast(batch, "float32")), np.float64)
            if not self.built:
                self.build(values.shape)
            patches = np.lib.stride_tricks.sliding_window_view(values, sides, axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
            rows = patches.reshape(-1, self.kernel.shape[0])
            squares, count = squares + rows.T @ rows, count + len(rows)
        if not np.any(squares):
            return
        eigenvalues, vectors = np.linalg.eigh(squares / count)
        # An eigenvector has no sign of its own.
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])
        least = max(self.epsilon, np.finfo(np.float32).eps) * eigenvalues.mean()
        filters = vectors * signs / np.sqrt(np.maximum(eigenvalues, 0) + least)
        self.kernel.assign(filters[:, ::-1].astype("float32"))

    def call(self, inputs: Any) -> Any:
        """Convolves with the filters and their negatives."""
        shape = (self.kernel_size, self.kernel_size, inputs.shape[-1], -1)
        # One convolution: OpenVINO's int8 of values beside their negatives is wrong.
        filters = ops.reshape(ops.concatenate([self.kernel, -self.kernel], axis=-1), shape)
        return ops.conv(inputs, filters, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Smaller by the patch, with two channels for each value of a patch."""
        sides = (None if side is None else side - self.kernel_size + 1 for side in input_shape[1:3])
        return (input_shape[0], *sides, 2 * self.kernel_size**2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "kernel_size": self.kernel_size, "epsilon": self.epsilon}
