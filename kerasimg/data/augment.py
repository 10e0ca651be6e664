"""The augmentation of a spec as one function of a batch: compiled where possible, else Keras' own layers.

The random numbers of a layer are a pure function of the image's pair of seeds and the layer's position in the list, so
an image is augmented the same way in any batch, on any worker, with any number of threads. Only MixUp and CutMix use
the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerasimg.errors import CallError
from kerasimg.spec.document import Image

if TYPE_CHECKING:
    from kerasimg.data.augmentation.operations import Node, Step


class Augmentation:
    """The layers of a spec's `augment`, in order, as a function of a batch in a TensorFlow graph.

    blends: whether labels are blended with those of other images (MixUp, CutMix): they must be (N, K) floats.
    size: height and width of what comes out.
    """

    def __init__(self, steps: Sequence[Step], said: str, size: tuple[int, int], blending: Sequence[str], seed: int):
        self.steps, self.said, self.size, self.blending, self.seed = steps, said, size, blending, seed

    @property
    def blends(self) -> bool:
        """Whether labels are blended."""
        return bool(self.blending)

    def __call__(self, images: Any, labels: Any, seeds: Any, batch_size: int | None = None) -> tuple[Any, Any]:
        """Augment a batch.

        images: (N, H, W, C) uint8, or float32 of 0-255.  labels: as they are; see `blends`.
        seeds: (N, 2) int64, one pair an image.
        batch_size: of full batches, so that a smaller last batch needs no function of its own; None: unknown.
        Returns float32 images of 0-255, and labels.
        """
        if self.blends and (labels.shape.rank != 2 or not labels.dtype.is_floating):
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
    # They load TensorFlow.
    from kerasimg.data.augmentation.lowering import lowered

    return Augmentation(*lowered(nodes, (image.size[0], image.size[1]), image.channels), seed)
