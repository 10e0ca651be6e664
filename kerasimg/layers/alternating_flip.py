"""Alternating flips: an image is mirrored in every other epoch."""

from __future__ import annotations

from typing import ClassVar

import keras


@keras.saving.register_keras_serializable(package="kerasimg")
class AlternatingFlip(keras.layers.RandomFlip):
    """Flip each image in every other epoch; a coin says which ones come first (Jordan 2024, arXiv:2404.00498).

    Two successive epochs show each image and its mirror image; RandomFlip shows half of the images twice the same way.
    It alternates in `augment` of a spec, where the epoch is known. A layer by itself flips as RandomFlip does.

    Args:
        mode: `horizontal`, `vertical` or `horizontal_and_vertical`: one coin for both sides.
        seed: changes the coins.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        "mode": "'horizontal'|'vertical'|'horizontal_and_vertical'",
        "seed": "int|null",
    }
