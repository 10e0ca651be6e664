"""Channel shuffle: channels of groups, interleaved."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_features


@keras.saving.register_keras_serializable(package="kerasimg")
class ChannelShuffle(keras.layers.Layer):
    """Deal the channels of each group out to all groups (ShuffleNet: Zhang et al. 2018, arXiv:1707.01083).

    (N, ..., C) -> the same shape: the first channel of each group, then the second of each, and so on.
    groups: divides C.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"groups": "int>0"}

    def __init__(self, groups: int, **kwargs: Any):
        super().__init__(**kwargs)
        if groups < 1:
            raise ValueError(f"ChannelShuffle: groups must be 1 or more, got {groups}")
        self.groups = groups

    def build(self, input_shape: Any) -> None:
        """Check that the channels make groups."""
        check_features(self, input_shape)
        if input_shape[-1] % self.groups:
            raise ValueError(f"ChannelShuffle: {input_shape[-1]} channels make no {self.groups} groups")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Shuffle."""
        shape = ops.shape(inputs)
        grouped = ops.reshape(inputs, (*shape[:-1], self.groups, inputs.shape[-1] // self.groups))
        return ops.reshape(ops.swapaxes(grouped, -1, -2), shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "groups": self.groups}
