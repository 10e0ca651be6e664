"""Checks of the inputs of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def check_images(layer: Any, shape: Sequence[int | None]) -> None:
    """Refuse what is no batch of images or feature maps, (N, H, W, C), with known channels."""
    check_features(layer, shape)
    if len(shape) != 4:
        raise ValueError(f"{type(layer).__name__}: expected images, (N, H, W, C), got shape {tuple(shape)}")
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{type(layer).__name__}: works on channels_last only; call "
            "keras.config.set_image_data_format('channels_last')"
        )


def check_tokens(layer: Any, shape: Sequence[int | None]) -> None:
    """Refuse what is no batch of tokens, (N, T, C), with known channels."""
    check_features(layer, shape)
    if len(shape) != 3:
        raise ValueError(f"{type(layer).__name__}: expected tokens, (N, T, C), got shape {tuple(shape)}")


def check_features(layer: Any, shape: Sequence[int | None]) -> None:
    """Refuse what has no last axis of known length, the channels."""
    if len(shape) < 2 or shape[-1] is None:
        raise ValueError(f"{type(layer).__name__}: expected (N, ..., C) with C known, got shape {tuple(shape)}")


def pair(layer: Any, argument: str, value: Any, least: int = 1) -> tuple[int, int]:
    """Give an integer, or two of them, as (rows, columns)."""
    both = (value, value) if isinstance(value, int) else value
    fits = isinstance(both, (list, tuple)) and len(both) == 2
    if not fits or not all(isinstance(value, int) and value >= least for value in both):
        expected = f"an integer >= {least} or 2 of them"
        raise ValueError(f"{type(layer).__name__}: {argument} must be {expected}, got {value!r}")
    return both[0], both[1]


def relative_places(rows: int, columns: int) -> np.ndarray:
    """(P, P) for the P = rows * columns places of a grid: the number of the distance of each pair, row by row.

    There are (2 * rows - 1) * (2 * columns - 1) distances; a learned bias has an entry for each (Liu et al. 2021,
    arXiv:2103.14030).
    """
    places = np.indices((rows, columns)).reshape(2, -1)
    down, right = places[:, :, None] - places[:, None, :]
    return (down + rows - 1) * (2 * columns - 1) + right + columns - 1


def look_up_bias(table: Any, numbers: np.ndarray) -> Any:
    """(heads, T, T) float32: the entries of a table, (entries, heads), that each pair of tokens has by its number."""
    bias = ops.take(ops.cast(table, "float32"), numbers.reshape(-1), axis=0)
    return ops.transpose(ops.reshape(bias, (*numbers.shape, -1)), (2, 0, 1))


def l2_norm(values: Any, axis: Any, least: float) -> Any:
    """Returns the L2 norm along axes, kept with length 1, of float32 values of any size: their squares may overflow.

    Args:
        values: float32.
        axis: one or several.
        least: the norm is at least this; the root has no gradient at 0.
    """
    peak = ops.stop_gradient(ops.maximum(ops.max(ops.abs(values), axis=axis, keepdims=True), least))
    squares = ops.sum(ops.square(values / peak), axis=axis, keepdims=True)
    return peak * ops.sqrt(ops.maximum(squares, (least / peak) ** 2))
