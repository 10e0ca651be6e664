"""Attention within windows of an image (Swin, Swin V2)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_images, l2_norm, look_up_bias, relative_places

MASKED = -100.0
"""Added to the score of a pair from different regions, as in the authors' code."""
LARGEST_SCALE = 100.0
"""Of cosine scores, in the paper of Swin V2."""
HIDDEN = 512
"""Units of the network that gives the bias of a distance there."""
LARGEST_BIAS = 16.0


@keras.saving.register_keras_serializable(package="kerasimg")
class WindowAttention(keras.layers.Layer):
    """Self-attention within windows, with a learned bias for relative places (Swin: Liu et al. 2021, arXiv:2103.14030).

    (N, H, W, C) -> the same shape. The map is filled up with zeros, right and below, to whole windows; as in the
    authors' code, what fills up is attended to.
    num_heads: divides C.  window_size: pixels a side.
    shift: pixels, below window_size, by which the windows are moved, cyclically; half a window in every second block of
    Swin. Pixels that are no neighbours in the image do not see each other. A side that one window covers is not moved.
    dropout: of the attention weights, in training.
    cosine: as in Swin V2 (Liu et al. 2021, arXiv:2111.09883): scores are cosines by a learned scale, a small network
    gives the bias from the logarithms of the distance, and keys have no bias.
    pretrained_window: with `cosine`, the window to which distances are relative; 0: window_size.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        "num_heads": "int>0",
        "window_size": "int>0",
        "shift": "int>=0",
        "dropout": "float[0,1)",
        "pretrained_window": "int>=0",
    }

    def __init__(
        self,
        num_heads: int,
        window_size: int = 7,
        shift: int = 0,
        use_bias: bool = True,
        dropout: float = 0.0,
        cosine: bool = False,
        pretrained_window: int = 0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_heads < 1:
            raise ValueError(f"WindowAttention: num_heads must be 1 or more, got {num_heads}")
        if window_size < 1:
            raise ValueError(f"WindowAttention: window_size must be 1 or more, got {window_size}")
        if not 0 <= shift < window_size:
            raise ValueError(f"WindowAttention: shift must be in [0, window_size = {window_size}), got {shift}")
        if not 0 <= dropout < 1:
            raise ValueError(f"WindowAttention: dropout must be in [0, 1), got {dropout}")
        if pretrained_window < 0 or (pretrained_window and not cosine):
            raise ValueError(
                f"WindowAttention: pretrained_window must be 0, or more with cosine, got {pretrained_window}"
            )
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.use_bias = use_bias
        self.dropout = dropout
        self.cosine = cosine
        self.pretrained_window = pretrained_window
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the projections and what the biases come from."""
        check_images(self, input_shape)
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"WindowAttention: {channels} channels cannot be divided among {self.num_heads} heads")
        if self.cosine:
            self._build_cosine(channels)
        else:
            self.table = self.add_weight(
                shape=((2 * self.window_size - 1) ** 2, self.num_heads),
                initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                name="relative_position_bias",
            )
        self.qkv = self._dense(3 * channels, self.use_bias and not self.cosine, "qkv")
        self.projection = self._dense(channels, True, "projection")
        self.dropping = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="dropping")
        self.qkv.build((None, None, channels))
        self.projection.build((None, None, channels))
        self.dropping.build((None, self.num_heads, None, None))
        self.built = True

    def _build_cosine(self, channels: int) -> None:
        """Make what Swin V2 has instead of the table: a network, a scale of each head, biases of query and value."""
        start = self.kernel_initializer.clone
        self.hidden_kernel = self.add_weight(shape=(2, HIDDEN), initializer=start(), name="distance_hidden_kernel")
        self.hidden_bias = self.add_weight(shape=(HIDDEN,), initializer="zeros", name="distance_hidden_bias")
        self.bias_kernel = self.add_weight(
            shape=(HIDDEN, self.num_heads), initializer=start(), name="distance_bias_kernel"
        )
        self.scale = self.add_weight(
            shape=(self.num_heads, 1, 1), initializer=keras.initializers.Constant(math.log(10)), name="logit_scale"
        )
        if self.use_bias:
            self.query_bias = self.add_weight(shape=(channels,), initializer="zeros", name="query_bias")
            self.value_bias = self.add_weight(shape=(channels,), initializer="zeros", name="value_bias")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Attend within each window."""
        size = self.window_size
        height, width, channels = ops.shape(inputs)[1:]
        down, right = -height % size, -width % size
        padded = ops.pad(inputs, ((0, 0), (0, down), (0, right), (0, 0)))
        sides = (height + down, width + right)
        shifts = tuple(self._shift(side) for side in sides)
        shifted = _roll(padded, tuple(-shift for shift in shifts)) if self.shift else padded
        attended = self._attend(self._windows(shifted, sides, channels), self._mask(sides, shifts), training)
        whole = self._image(attended, sides, channels)
        whole = _roll(whole, shifts) if self.shift else whole
        return whole[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shift": self.shift,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "cosine": self.cosine,
            "pretrained_window": self.pretrained_window,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}

    def _dense(self, units: int, use_bias: bool, name: str) -> Any:
        start = self.kernel_initializer.clone()
        return keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=start, dtype=self.dtype_policy, name=name
        )

    def _shift(self, side: Any) -> Any:
        if isinstance(side, int):
            return self.shift if side > self.window_size else 0
        return ops.where(side > self.window_size, self.shift, 0)

    def _windows(self, image: Any, sides: tuple[Any, Any], channels: int) -> Any:
        """(N, H, W, C) -> (N * windows, window_size ** 2, C)."""
        size = self.window_size
        tiles = ops.reshape(image, (-1, sides[0] // size, size, sides[1] // size, size, channels))
        return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, size * size, channels))

    def _image(self, windows: Any, sides: tuple[Any, Any], channels: int) -> Any:
        """The way back from `_windows`."""
        size = self.window_size
        tiles = ops.reshape(windows, (-1, sides[0] // size, sides[1] // size, size, size, channels))
        return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, *sides, channels))

    def _attend(self, tokens: Any, mask: Any, training: bool | None) -> Any:
        heads, places, channels = self.num_heads, self.window_size**2, tokens.shape[-1]
        depth = channels // heads
        qkv = self.qkv(tokens)
        if self.cosine and self.use_bias:
            query_bias, value_bias = map(ops.convert_to_tensor, (self.query_bias, self.value_bias))
            biases = ops.concatenate((query_bias, ops.zeros_like(query_bias), value_bias))
            qkv = qkv + ops.cast(biases, qkv.dtype)
        qkv = ops.reshape(qkv, (-1, places, 3, heads, depth))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0)
        if self.cosine:
            query, key = (ops.cast(part, "float32") for part in (query, key))
            query, key = (part / l2_norm(part, -1, 1e-12) for part in (query, key))
            limited = ops.minimum(ops.cast(self.scale, "float32"), math.log(LARGEST_SCALE))
            scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) * ops.exp(limited)
        else:
            scores = ops.matmul(query * depth**-0.5, ops.swapaxes(key, -1, -2))
        # The softmax of half-precision scores loses what the bias adds.
        scores = ops.cast(scores, "float32") + self._bias()
        if mask is not None:
            count = ops.shape(mask)[0]
            scores = ops.reshape(scores, (-1, count, heads, places, places)) + mask[:, None]
            scores = ops.reshape(scores, (-1, heads, places, places))
        weights = self.dropping(ops.cast(ops.softmax(scores, axis=-1), value.dtype), training=training)
        attended = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.projection(ops.reshape(attended, (-1, places, channels)))

    def _bias(self) -> Any:
        """(heads, places, places): the bias that the table, or the network, has for the distance of each pair."""
        numbers = relative_places(self.window_size, self.window_size)
        if not self.cosine:
            return look_up_bias(self.table, numbers)
        kernel, bias, last = (
            ops.cast(weight, "float32") for weight in (self.hidden_kernel, self.hidden_bias, self.bias_kernel)
        )
        hidden = ops.relu(ops.matmul(self._log_distances(), kernel) + bias)
        return look_up_bias(LARGEST_BIAS * ops.sigmoid(ops.matmul(hidden, last)), numbers)

    def _log_distances(self) -> np.ndarray:
        """(distances, 2): down and right, -8 to 8 for those of the window, as logarithms."""
        reach = self.window_size - 1
        steps = 8 * np.arange(-reach, reach + 1) / max((self.pretrained_window or self.window_size) - 1, 1)
        logarithms = np.sign(steps) * np.log2(np.abs(steps) + 1) / math.log2(8)
        return np.stack(np.meshgrid(logarithms, logarithms, indexing="ij"), -1).reshape(-1, 2).astype("float32")

    def _mask(self, sides: tuple[Any, Any], shifts: tuple[Any, Any]) -> Any:
        """(windows, places, places): 0 where both pixels are from one region of the image; None without a shift."""
        if not self.shift or shifts == (0, 0):
            return None
        rows, columns = (self._regions(side, shift) for side, shift in zip(sides, shifts, strict=True))
        regions = ops.reshape(rows[:, None] * 3 + columns[None], (1, *sides, 1))
        regions = self._windows(regions, sides, 1)
        return ops.cast(regions != ops.swapaxes(regions, 1, 2), "float32") * MASKED

    def _regions(self, side: Any, shift: Any) -> Any:
        """Of each row: 0, or in the last window 1, or 2 where it came from the other end of the image."""
        place = ops.arange(side, dtype="int32")
        last, moved = (ops.cast(place >= side - end, "int32") for end in (self.window_size, shift))
        return (last + moved) * ops.cast(shift > 0, "int32")


def _roll(image: Any, shifts: tuple[Any, Any]) -> Any:
    """`ops.roll` of rows and columns; by slices where the shifts are known, since LiteRT has no operation for it."""
    if not all(isinstance(shift, int) for shift in shifts):
        return ops.roll(image, shifts, axis=(1, 2))
    down, right = shifts
    if down:
        image = ops.concatenate([image[:, -down:], image[:, :-down]], axis=1)
    if right:
        image = ops.concatenate([image[:, :, -right:], image[:, :, :-right]], axis=2)
    return image
