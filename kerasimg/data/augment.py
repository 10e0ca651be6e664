"""The augmentation of a spec as one function of a batch: compiled where possible, else Keras' own layers.

The random numbers of a layer are a pure function of the image's pair of seeds and the layer's position in the list, so
an image is augmented the same way in any batch, on any worker, with any number of threads. Only MixUp and CutMix use
the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasimg.errors import CallError
from kerasimg.spec.document import Image

if TYPE_CHECKING:
    from kerasimg.data.augmentation.operations import Node, Step


def image_seeds(seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
    """What all random numbers of an image come from: (N, 4) uint32.

    Args:
        seed: of the run, 64 bits.
        epoch: the epoch's number.
        positions: of the images in the split, (N,).
    """
    positions = np.asarray(positions, np.int64)
    numbers = np.stack([np.full(len(positions), seed, np.int64), epoch * 2**32 + positions], axis=1)
    halves = np.stack([numbers & 0xFFFFFFFF, (numbers >> 32) & 0xFFFFFFFF], axis=2)
    return halves.reshape(-1, 4).astype(np.uint32)


class Augmentation:
    """The layers of a spec's `augment`, in order, as a function of a batch, compiled by Keras' backend.

    Under TensorFlow it works in a graph of tf.data, and eagerly; under JAX also within `jax.jit`.

    blends: whether labels are blended with those of other images (MixUp, CutMix): they must be (N, K) floats.
    size: height and width of what comes out.
    """

    def __init__(self, steps: Sequence[Step], said: str, size: tuple[int, int], blending: Sequence[str], seed: int):
        self.steps, self.said, self.size, self.blending, self.seed = steps, said, size, blending, seed

    @property
    def blends(self) -> bool:
        """Whether labels are blended."""
        return bool(self.blending)

    @property
    def keras_layers(self) -> list[Any]:
        """The layers that run as Keras layers."""
        return [step.layer for step in self.steps if hasattr(step, "layer")]

    def __call__(self, images: Any, labels: Any, seeds: Any, batch_size: int | None = None) -> tuple[Any, Any]:
        """Augment a batch.

        images: (N, H, W, C) uint8, or float32 of 0-255.  labels: as they are; see `blends`.
        seeds: (N, 4) words, from `image_seeds`.
        batch_size: of full batches, so that a smaller last batch needs no function of its own; None: unknown.
        Returns float32 images of 0-255, and labels.
        """
        if self.blends and (len(labels.shape) != 2 or "float" not in str(labels.dtype)):
            raise CallError(f"{self.blending[0]} blends labels: use targets 'one_hot', not 'sparse'")
        for step in self.steps:
            images, labels = step(images, labels, seeds, self.seed, batch_size)
        return images, labels

    def describe(self) -> str:
        """One line: how each layer is run."""
        return self.said


def compile_augment(nodes: Sequence[Node], image: Image, seed: int) -> Augmentation | None:
    """Compiles the layers of a spec's `augment`; None if there are none.

    Images that a layer leaves in another size (RandomCrop) are resized to that of `image` at the end.

    Args:
        nodes: (layer, arguments), checked.
        image: the spec's `image` section: size and channels.
        seed: the run's seed, which all layers depend on. A layer's own `seed` changes that layer alone.
    """
    if not nodes:
        return None
    # They load Keras.
    from kerasimg.data.augmentation.lowering import lowered

    return Augmentation(*lowered(nodes, (image.size[0], image.size[1]), image.channels), seed)
