"""Attention pooling: a learned query gathers the tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.gelu import GELU, Approximation
from kerasimg.layers.images import check_tokens


@keras.saving.register_keras_serializable(package="kerasimg")
class AttentionPooling(keras.layers.Layer):
    """Pool tokens by multi-head attention of one learned query (SigLIP: Zhai et al. 2023, arXiv:2303.15343).

    (N, T, C) -> (N, C). A residual MLP follows, as in the "MAP head" of Zhai et al. 2022, arXiv:2106.04560.

    Args:
        num_heads: divides C.
        mlp_units: of the MLP's hidden layer; None: 4 C.
        activation: of the MLP.
        epsilon: of the layer normalization before the MLP.
        approximate: of the activation `gelu`, as in `GELU`.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"num_heads": "int>0", "mlp_units": "int>0|null", "epsilon": "float>0"}

    def __init__(
        self,
        num_heads: int,
        mlp_units: int | None = None,
        activation: Any = "gelu",
        epsilon: float = 1e-6,
        approximate: Approximation = "none",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_heads < 1:
            raise ValueError(f"AttentionPooling: num_heads must be 1 or more, got {num_heads}")
        if mlp_units is not None and mlp_units < 1:
            raise ValueError(f"AttentionPooling: mlp_units must be 1 or more, got {mlp_units}")
        self.num_heads = num_heads
        self.mlp_units = mlp_units
        self.activation = keras.activations.get(activation)
        self.epsilon = epsilon
        self.approximate = approximate
        self.gelu = GELU(approximate, dtype=self.dtype_policy, name="gelu")

    def build(self, input_shape: Any) -> None:
        """Makes the query and the projections."""
        check_tokens(self, input_shape)
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"AttentionPooling: {channels} channels cannot be divided among {self.num_heads} heads")
        start = keras.initializers.TruncatedNormal(stddev=channels**-0.5)
        self.latent = self.add_weight(shape=(1, 1, channels), initializer=start, name="latent")
        hidden = self.mlp_units or 4 * channels
        for name, units, inputs in (
            ("query", channels, channels),
            ("key_value", 2 * channels, channels),
            ("projection", channels, channels),
            ("hidden", hidden, channels),
            ("output_projection", channels, hidden),
        ):
            dense = keras.layers.Dense(units, dtype=self.dtype_policy, name=name)
            setattr(self, name, dense)
            dense.build((None, None, inputs))
        self.normalization = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name="normalization"
        )
        self.normalization.build((None, None, channels))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Pools the tokens."""
        heads, channels = self.num_heads, inputs.shape[-1]
        depth = channels // heads
        query = ops.reshape(self.query(ops.cast(self.latent, inputs.dtype)), (1, heads, 1, depth))
        both = ops.reshape(self.key_value(inputs), (-1, ops.shape(inputs)[1], 2, heads, depth))
        key, value = ops.unstack(ops.transpose(both, (2, 0, 3, 1, 4)), axis=0)
        scores = ops.cast(ops.matmul(query * depth**-0.5, ops.swapaxes(key, -1, -2)), "float32")
        gathered = ops.matmul(ops.cast(ops.softmax(scores, axis=-1), value.dtype), value)
        pooled = self.projection(ops.reshape(gathered, (-1, 1, channels)))
        hidden = self.hidden(self.normalization(pooled))
        hidden = self.activation(hidden) if self.approximate == "none" else self.gelu(hidden)
        pooled = pooled + self.output_projection(hidden)
        return pooled[:, 0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One vector."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        own = {
            "num_heads": self.num_heads,
            "mlp_units": self.mlp_units,
            "activation": keras.activations.serialize(self.activation),
            "epsilon": self.epsilon,
            "approximate": self.approximate,
        }
        return {**super().get_config(), **own}
