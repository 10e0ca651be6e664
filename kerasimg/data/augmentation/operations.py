"""What the compiled augmentation is made of: operations that draw for a whole batch and act picture by picture."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class Operation:
    """One change of a picture, as a pure function of its pixels and of random words.

    name: of the layer it stands for.
    numbers: how many random words it draws a picture.
    size: height and width of its results, where they are not those of what it gets.
    alone: whether what comes before is best computed in full first (`settled`), because it reads pixels repeatedly.
    last: whether what comes after is best to wait for it, because computing it again would cost more.
    """

    name: str = ""
    numbers: int = 0
    size: tuple[int, int] | None = None
    alone: bool = False
    last: bool = False

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Draw for a batch, from (N, numbers) uint32: tensors with one row a picture."""
        return ()

    def apply(self, picture: Any, drawn: tuple[Any, ...]) -> Any:
        """Change one picture, (H, W, C) float32 of 0-255 (the first operation may find uint8), by its rows."""
        raise NotImplementedError


def settled(known: Any, *tensors: Any) -> list[Any]:
    """The same tensors, computed in full before they are used.

    XLA otherwise computes a value anew for each of its uses: lookups for each use of a pixel, a hue for each channel.
    It does not see through a condition that it cannot decide. known: a bool that is true, but not to the compiler.
    """
    return tf.cond(
        known, lambda: [tf.identity(one) for one in tensors], lambda: [tf.zeros_like(one) for one in tensors]
    )
