"""What the compiled augmentation is made of: operations that draw for a whole batch and act image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Node = tuple[str, Mapping[str, Any]]
"""A layer of a spec's `augment`, and its arguments."""


class Step(Protocol):
    """Some of the layers of a spec's `augment`."""

    def __call__(self, images: Any, labels: Any, seeds: Any, run: int, batch_size: int | None) -> tuple[Any, Any]:
        """Changes a batch. run: the run's seed."""


class Operation:
    """One change of an image, as a pure function of its pixels and of random words.

    name: of the layer it implements.
    numbers: how many random words it draws an image.
    size: height and width of its results, where they are not those of what it gets.
    alone: whether it reads pixels repeatedly, so that what comes before is best computed in full first.
    costly: whether, for one that is `alone`, it is worth a pass of its own over the batch.
    """

    name: str = ""
    numbers: int = 0
    size: tuple[int, int] | None = None
    alone: bool = False
    costly: bool = False

    def draw(self, words: Any) -> tuple[Any, ...]:
        """Draw for a batch, from (N, numbers) uint32: tensors with one row an image."""
        return ()

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """Change one image, (H, W, C) float32 of 0-255 (the first operation may find uint8), by its rows."""
        raise NotImplementedError
