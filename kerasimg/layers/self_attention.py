"""Self-attention of tokens that knows where they are in the image."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_tokens, look_up_bias, pair, relative_places

Rotation = Literal["none", "eva02", "dinov3"]

DINOV3_BASE, EVA02_BASE = 100.0, 10_000.0
"""The longest period of the rotations, in the papers' units."""


@keras.saving.register_keras_serializable(package="kerasimg")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with the means of newer transformers: rotary positions, position bias, normalized keys.

    (N, T, C) -> (N, T, units). Without options it is the attention of ViT, with one kernel for all three projections.

    Args:
        num_heads: of the attention.
        key_dim: channels of the queries and keys of a head; None: C / num_heads.
        value_dim: channels of the values of a head; None: `key_dim`.
        units: channels of the output; None: C.
        use_bias: of queries, keys and values; the output always has one.
        key_bias: False: keys have no bias, as in BEiT, where it would cancel out in the softmax.
        qk_norm: layer normalization of the queries and keys of each head (Dehghani et al. 2023, arXiv:2302.05442).
        rope: rotary positions in two dimensions, of all but the extra tokens. `eva02`: neighbouring channels form a
            pair, places count from 0 (Fang et al. 2023, arXiv:2303.11331); `dinov3`: a channel of the first half and
            one of the second, places from -1 to 1 (Siméoni et al. 2025, arXiv:2508.10104).
        rope_size: rows and columns that the image had in pretraining, to which the places of `eva02` are scaled;
            None: those of the image.
        position_bias: a learned bias for each head and relative place (BEiT: Bao et al. 2021, arXiv:2106.08254).
        extra_tokens: how many of the T come first and have no place, such as a class token.
        grid: [rows, columns] of the other tokens; a square unless given.
        dropout: of the attention weights, in training.
        kernel_initializer: of both kernels.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        "num_heads": "int>0",
        "key_dim": "int>0|null",
        "value_dim": "int>0|null",
        "units": "int>0|null",
        "rope_size": "int>0|null",
        "extra_tokens": "int>=0",
        "grid": "int>0|[2 int>0]|null",
        "dropout": "float[0,1)",
    }

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        units: int | None = None,
        use_bias: bool = True,
        key_bias: bool = True,
        qk_norm: bool = False,
        rope: Rotation = "none",
        rope_size: int | None = None,
        position_bias: bool = False,
        extra_tokens: int = 0,
        grid: Any = None,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, value in (("num_heads", num_heads), ("key_dim", key_dim), ("value_dim", value_dim), ("units", units)):
            if value is not None and value < 1:
                raise ValueError(f"SelfAttention: {name} must be 1 or more, got {value}")
        if rope not in get_args(Rotation):
            raise ValueError(f"SelfAttention: rope must be one of {', '.join(get_args(Rotation))}, got {rope!r}")
        if extra_tokens < 0:
            raise ValueError(f"SelfAttention: extra_tokens must be 0 or more, got {extra_tokens}")
        if not 0 <= dropout < 1:
            raise ValueError(f"SelfAttention: dropout must be in [0, 1), got {dropout}")
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.units = units
        self.use_bias = use_bias
        self.key_bias = key_bias
        self.qk_norm = qk_norm
        self.rope = rope
        self.rope_size = rope_size
        self.position_bias = position_bias
        self.extra_tokens = extra_tokens
        self.grid = None if grid is None else pair(self, "grid", grid)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Makes the projections, and what the positions need."""
        check_tokens(self, input_shape)
        channels, heads = input_shape[-1], self.num_heads
        if self.key_dim is None and channels % heads:
            raise ValueError(f"SelfAttention: {channels} channels cannot be divided among {heads} heads")
        self._key_dim = self.key_dim or channels // heads
        self._value_dim = self.value_dim or self._key_dim
        keys, values = heads * self._key_dim, heads * self._value_dim
        self.qkv = self._dense(2 * keys + values, self.use_bias and self.key_bias, "qkv")
        self.qkv.build(input_shape)
        if self.use_bias and not self.key_bias:
            self.query_bias = self.add_weight(shape=(keys,), initializer="zeros", name="query_bias")
            self.value_bias = self.add_weight(shape=(values,), initializer="zeros", name="value_bias")
        if self.qk_norm:
            # A shift of all keys cancels out in the softmax.
            self.query_norm, self.key_norm = (
                keras.layers.LayerNormalization(epsilon=1e-6, center=shifted, dtype=self.dtype_policy, name=name)
                for name, shifted in (("query_norm", True), ("key_norm", False))
            )
            for norm in (self.query_norm, self.key_norm):
                norm.build((None, None, None, self._key_dim))
        self._rows_columns = self._find_grid(input_shape) if self.rope != "none" or self.position_bias else None
        if self.rope != "none" and self._key_dim % 4:
            raise ValueError(f"SelfAttention: rope needs a multiple of 4 channels in a head, got {self._key_dim}")
        if self._rows_columns and self.position_bias:
            rows, columns = self._rows_columns
            count = (2 * rows - 1) * (2 * columns - 1) + (3 if self.extra_tokens else 0)
            self.table = self.add_weight(shape=(count, heads), initializer="zeros", name="relative_position_bias")
        self.dropping = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="dropping")
        self.dropping.build((None, heads, None, None))
        self.projection = self._dense(self.units or channels, True, "projection")
        self.projection.build((None, None, values))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Every token attends to all."""
        heads, tokens = self.num_heads, ops.shape(inputs)[1]
        keys = heads * self._key_dim
        qkv = self.qkv(inputs)
        if self.use_bias and not self.key_bias:
            # JAX does not concatenate variables.
            query, value = (ops.cast(each, qkv.dtype) for each in (self.query_bias, self.value_bias))
            qkv = qkv + ops.concatenate([query, ops.zeros_like(query), value])
        query, key, value = (
            ops.transpose(ops.reshape(part, (-1, tokens, heads, depth)), (0, 2, 1, 3))
            for part, depth in (
                (qkv[..., :keys], self._key_dim),
                (qkv[..., keys : 2 * keys], self._key_dim),
                (qkv[..., 2 * keys :], self._value_dim),
            )
        )
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rope != "none":
            query, key = self._rotated(query), self._rotated(key)
        scores = ops.matmul(query * self._key_dim**-0.5, ops.swapaxes(key, -1, -2))
        scores = ops.cast(scores, "float32")  # the softmax of half-precision scores loses what a bias adds
        if self.position_bias:
            scores = scores + self._bias()
        weights = self.dropping(ops.cast(ops.softmax(scores, axis=-1), value.dtype), training=training)
        attended = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.projection(ops.reshape(attended, (-1, tokens, heads * self._value_dim)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As many tokens, with `units` channels."""
        return (*input_shape[:-1], self.units or input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        own = {
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "units": self.units,
            "use_bias": self.use_bias,
            "key_bias": self.key_bias,
            "qk_norm": self.qk_norm,
            "rope": self.rope,
            "rope_size": self.rope_size,
            "position_bias": self.position_bias,
            "extra_tokens": self.extra_tokens,
            "grid": self.grid,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}

    def _dense(self, units: int, use_bias: bool, name: str) -> Any:
        start = self.kernel_initializer.clone()
        return keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=start, dtype=self.dtype_policy, name=name
        )

    def _find_grid(self, shape: Any) -> tuple[int, int]:
        """The rows and columns of the tokens that have a place."""
        if shape[1] is None:
            raise ValueError("SelfAttention: positions need a known number of tokens, got None")
        places = shape[1] - self.extra_tokens
        side = math.isqrt(max(places, 0))
        rows, columns = self.grid or (side, side)
        if places < 1 or rows * columns != places:
            raise ValueError(
                f"SelfAttention: {shape[1]} tokens, {self.extra_tokens} of them extra, do not fill the grid "
                f"{self.grid or 'of a square'}"
            )
        return rows, columns

    def _rotated(self, tokens: Any) -> Any:
        """(N, heads, T, depth) with each pair of channels turned by the angle of the token's place."""
        extra, placed = tokens[:, :, : self.extra_tokens], tokens[:, :, self.extra_tokens :]
        angles = self._angles()
        cosine, sine = (ops.cast(function(angles).astype("float32"), tokens.dtype) for function in (np.cos, np.sin))
        half = self._key_dim // 2
        if self.rope == "dinov3":
            partner = ops.concatenate([-placed[..., half:], placed[..., :half]], axis=-1)
        else:
            pairs = ops.stack([-placed[..., 1::2], placed[..., ::2]], axis=-1)
            partner = ops.reshape(pairs, ops.shape(placed))
        turned = placed * cosine + partner * sine
        return ops.concatenate([extra, turned], axis=2) if self.extra_tokens else turned

    def _angles(self) -> np.ndarray:
        """(places, key_dim): of each channel; a quarter of the pairs turn with the row, a quarter with the column."""
        sides: Any = self._rows_columns
        quarter = self._key_dim // 4
        exponents = np.arange(quarter) / quarter
        if self.rope == "dinov3":
            frequencies = 2 * np.pi / DINOV3_BASE**exponents
            places = [2 * (np.arange(side) + 0.5) / side - 1 for side in sides]
        else:
            frequencies = 1 / EVA02_BASE**exponents
            places = [np.arange(side) * (self.rope_size or side) / side for side in sides]
        grid = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
        angles = (grid * frequencies).reshape(len(grid), -1)
        return np.tile(angles, 2) if self.rope == "dinov3" else np.repeat(angles, 2, axis=1)

    def _bias(self) -> Any:
        """(heads, T, T): what the table holds for each pair; pairs with an extra token share three entries."""
        rows, columns = self._rows_columns  # type: ignore[misc]
        index = relative_places(rows, columns)
        if extra := self.extra_tokens:
            count = (2 * rows - 1) * (2 * columns - 1)
            padded = np.full((extra + len(index), extra + len(index)), count + 2)
            padded[:extra, extra:], padded[extra:, :extra], padded[extra:, extra:] = count, count + 1, index
            index = padded
        return look_up_bias(self.table, index)
