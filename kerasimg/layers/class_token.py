"""Learned class tokens before the tokens of the image."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_tokens


@keras.saving.register_keras_serializable(package="kerasimg")
class ClassToken(keras.layers.Layer):
    """Put learned tokens, which gather the class, before the image's (Dosovitskiy et al. 2021, arXiv:2010.11929).

    (N, T, C) -> (N, count + T, C).  `TakeToken` reads one of them at the end.
    count: 2 in DeiT with distillation (Touvron et al. 2021, arXiv:2012.12877); more are registers (Darcet et al. 2024,
    arXiv:2309.16588).
    """

    argument_kinds: ClassVar[dict[str, str]] = {"count": "int>0"}

    def __init__(self, count: int = 1, initializer: Any = "zeros", **kwargs: Any):
        super().__init__(**kwargs)
        if count < 1:
            raise ValueError(f"ClassToken: count must be 1 or more, got {count}")
        self.count = count
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Make the tokens."""
        check_tokens(self, input_shape)
        shape = (1, self.count, input_shape[-1])
        self.token = self.add_weight(shape=shape, initializer=self.initializer, name="token")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Put the tokens first."""
        shape = (ops.shape(inputs)[0], *self.token.shape[1:])
        return ops.concatenate([ops.broadcast_to(ops.cast(self.token, inputs.dtype), shape), inputs], axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As many tokens more."""
        tokens = None if input_shape[1] is None else input_shape[1] + self.count
        return (input_shape[0], tokens, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"count": self.count, "initializer": keras.initializers.serialize(self.initializer)}
        return {**super().get_config(), **own}
