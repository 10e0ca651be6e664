"""Selects a part of the channels."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from kerasimg.layers.images import check_features


@keras.saving.register_keras_serializable(package="kerasimg")
class TakeChannels(keras.layers.Layer):
    """Take one of the equal parts that the channels are split into (ShuffleNet V2: Ma et al. 2018, arXiv:1807.11164).

    (N, ..., C) -> (N, ..., count * C / parts).  parts: divides C.  index: which one, from 0.  count: as many from there
    on, for an unequal split: `parts` 8 with `index` 3 and `count` 5 is the last five eighths.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"parts": "int>0", "index": "int>=0", "count": "int>0"}

    def __init__(self, parts: int = 2, index: int = 0, count: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        if parts < 1:
            raise ValueError(f"TakeChannels: parts must be 1 or more, got {parts}")
        if not 0 <= index < parts:
            raise ValueError(f"TakeChannels: index must be in [0, parts = {parts}), got {index}")
        if not 1 <= count <= parts - index:
            raise ValueError(f"TakeChannels: count must be in [1, parts - index = {parts - index}], got {count}")
        self.parts = parts
        self.index = index
        self.count = count
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Check that the channels can be split."""
        check_features(self, input_shape)
        if input_shape[-1] % self.parts:
            raise ValueError(f"TakeChannels: {input_shape[-1]} channels cannot be split into {self.parts} parts")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Take the part."""
        length = inputs.shape[-1] // self.parts
        return inputs[..., self.index * length : (self.index + self.count) * length]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The channels of the part."""
        return (*input_shape[:-1], self.count * (input_shape[-1] // self.parts))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "parts": self.parts, "index": self.index, "count": self.count}
