"""Position embeddings of tokens."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import keras
import numpy as np
from keras import ops

from kerasimg.layers.images import check_features, pair

Kind = Literal["learned", "sincos"]


@keras.saving.register_keras_serializable(package="kerasimg")
class PositionEmbedding(keras.layers.Layer):
    """Add to each token what says where it comes from (ViT: Dosovitskiy et al. 2021, arXiv:2010.11929).

    (N, T, C) or (N, H, W, C), all but N known -> the same shape.
    kind: `learned`, or `sincos`, fixed waves along rows and columns, of which C is a multiple of 4 (Beyer et al. 2022,
    arXiv:2205.01580).
    extra_tokens: how many of the T come first and stand for no place, such as a class token.
    grid: [rows, columns] of the other tokens; a square unless said.
    Learned weights for another size of image are resized when they are loaded: bicubic and antialiased, as in timm.
    `sincos` orders the waves as the paper does, columns before rows; timm's order differs.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"extra_tokens": "int>=0", "grid": "int>0|[2 int>0]|null"}

    def __init__(
        self,
        kind: Kind = "learned",
        extra_tokens: int = 0,
        grid: Any = None,
        initializer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if kind not in get_args(Kind):
            raise ValueError(f"PositionEmbedding: kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        if extra_tokens < 0:
            raise ValueError(f"PositionEmbedding: extra_tokens must be 0 or more, got {extra_tokens}")
        self.kind = kind
        self.extra_tokens = extra_tokens
        self.grid = None if grid is None else pair(self, "grid", grid)
        self.initializer = keras.initializers.get(initializer or keras.initializers.TruncatedNormal(stddev=0.02))
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the embedding."""
        check_features(self, input_shape)
        if len(input_shape) not in (3, 4) or None in input_shape[1:]:
            expected = "(N, T, C) or (N, H, W, C), all but N known"
            raise ValueError(f"PositionEmbedding: expected {expected}, got shape {tuple(input_shape)}")
        self._rows_columns = self._find_grid(input_shape)
        if self.kind == "sincos" and input_shape[-1] % 4:
            raise ValueError(f"PositionEmbedding: sincos needs a multiple of 4 channels, got {input_shape[-1]}")
        if self.kind == "learned":
            shape = (1, *input_shape[1:])
            self.embedding = self.add_weight(shape=shape, initializer=self.initializer, name="embedding")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Add the embedding."""
        embedding = self.embedding if self.kind == "learned" else self._waves(inputs.shape)
        return inputs + ops.cast(embedding, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "kind": self.kind,
            "extra_tokens": self.extra_tokens,
            "grid": self.grid,
            "initializer": keras.initializers.serialize(self.initializer),
        }
        return {**super().get_config(), **own}

    def save_own_variables(self, store: Any) -> None:
        """Save the embedding and, of tokens, their grid."""
        super().save_own_variables(store)
        if self.kind == "learned" and self._rows_columns:
            store["grid"] = np.array(self._rows_columns)

    def load_own_variables(self, store: Any) -> None:
        """Load an embedding, of this size or of another."""
        if self.kind != "learned":
            return
        saved = np.asarray(store["0"])
        grid = tuple(int(side) for side in store["grid"]) if "grid" in store.keys() else None  # noqa: SIM118
        same = saved.shape == self.embedding.shape and grid in (None, self._rows_columns)
        self.embedding.assign(saved if same else self._resized(saved, grid))

    def _find_grid(self, shape: Any) -> tuple[int, int] | None:
        """The rows and columns of the places; None where they make no square, and it does not matter."""
        if len(shape) == 4:
            if self.extra_tokens or self.grid not in (None, tuple(shape[1:3])):
                raise ValueError(f"PositionEmbedding: a map {tuple(shape)} has its own grid, and no extra_tokens")
            return shape[1], shape[2]
        places = shape[1] - self.extra_tokens
        side = math.isqrt(max(places, 0))
        grid = self.grid or ((side, side) if side * side == places else None)
        if places < 1 or (grid and math.prod(grid) != places) or (grid is None and self.kind == "sincos"):
            found = f"{shape[1]} tokens, {self.extra_tokens} of them extra"
            raise ValueError(f"PositionEmbedding: {found}, do not fill the grid {self.grid or 'of a square'}")
        return grid

    def _resized(self, saved: np.ndarray, grid: tuple[int, ...] | None) -> Any:
        wanted = self.embedding.shape
        rank = len(wanted)
        extra = self.extra_tokens
        if rank == 3 and grid is None and saved.ndim == 3:
            side = math.isqrt(max(saved.shape[1] - extra, 0))
            grid = (side, side)
        elif saved.ndim == 4:
            grid = saved.shape[1:3]
        places = math.prod(saved.shape[1:-1]) - extra
        fits = saved.ndim == rank and saved.shape[-1] == wanted[-1]
        if not fits or not self._rows_columns or not grid or math.prod(grid) != places:
            raise ValueError(f"PositionEmbedding: weights of shape {saved.shape} cannot be resized to {tuple(wanted)}")
        flat = saved.reshape(1, -1, saved.shape[-1])
        rows, columns = (resize_weights(*sides) for sides in zip(grid, self._rows_columns, strict=True))
        image = flat[0, extra:].reshape(*grid, -1).astype("float64")
        places = np.einsum("ri,cj,ijk->rck", rows, columns, image).reshape(1, -1, wanted[-1])
        return np.concatenate([flat[:, :extra], places], axis=1).reshape(wanted).astype("float32")

    def _waves(self, shape: Any) -> Any:
        """Of each place, sin and cos of its column and of its row at C / 4 frequencies from 1 to 1 / 10000."""
        rows, columns = self._rows_columns  # type: ignore[misc]
        quarter = shape[-1] // 4
        frequencies = 1 / 10000 ** (np.arange(quarter) / max(quarter - 1, 1))
        y, x = (place.reshape(-1, 1) * frequencies for place in np.mgrid[:rows, :columns])
        waves = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
        extra = np.zeros((self.extra_tokens, shape[-1]))
        return np.concatenate([extra, waves]).reshape(1, *shape[1:]).astype("float32")


def resize_weights(length: int, wanted: int) -> np.ndarray:
    """Returns the weights of a bicubic resize along one side, antialiased where it shrinks.

    As Pillow and timm have it: a = -0.5, pixel centers at a half, weights renormalized at the border. The same on every
    backend: their own bicubic filters differ.

    Args:
        length: of the side.
        wanted: its new length.

    Returns:
        (wanted, length) float64; each row sums to 1.
    """
    scale = length / wanted
    centers = (np.arange(wanted)[:, np.newaxis] + 0.5) * scale
    x = np.abs(np.arange(length) + 0.5 - centers) / max(scale, 1.0)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
