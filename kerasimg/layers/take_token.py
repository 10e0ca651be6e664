"""Selects one token."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from kerasimg.layers.images import check_tokens


@keras.saving.register_keras_serializable(package="kerasimg")
class TakeToken(keras.layers.Layer):
    """Take one token, by default the first, the class token (Dosovitskiy et al. 2021, arXiv:2010.11929).

    (N, T, C) -> (N, C).  index: negative counts from the end.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"index": "int"}

    def __init__(self, index: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.index = index

    def build(self, input_shape: Any) -> None:
        """Check that there is such a token."""
        check_tokens(self, input_shape)
        count = input_shape[1]
        if count is not None and not -count <= self.index < count:
            raise ValueError(f"TakeToken: there are {count} tokens, no index {self.index}")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Take the token."""
        return inputs[:, self.index]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One token."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "index": self.index}
