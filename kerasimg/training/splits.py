"""Which images are trained on, validated and tested, and the seed that all of a run follows from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasimg.data.groups import group_numbers
from kerasimg.data.items import Part
from kerasimg.data.source import Source
from kerasimg.data.split import record, split
from kerasimg.spec.load import Spec

Parts = Mapping[Part, np.ndarray]
"""Indices of the images of each part."""


KEYS = ("seed", "validation_split", "test_split", "group")
"""Of `fit`: those that the split follows from."""


def split_key(spec: Spec) -> str:
    """The same for two specs that split the same images alike."""
    return repr([getattr(spec.fit, key) for key in KEYS])


def seed_of(spec: Spec) -> int:
    """The seed of the split, the first weights, the order and the augmentation."""
    return spec.fit.seed


def split_images(spec: Spec, source: Source, *, test: bool = True) -> Parts:
    """The parts of the images.  test: draw a test part too, where the data has none."""
    validation_share, test_share = split_shares(spec)
    return split(source, validation_share, test_share if test else 0, seed_of(spec), spec.fit.group)


def record_split(spec: Spec, source: Source, parts: Parts) -> dict[str, Any]:
    """What a run stores of its data, see `kerasimg.data.split.record`."""
    return record(source, parts, group=spec.fit.group)


def group_numbers_of(spec: Spec, source: Source) -> np.ndarray | None:
    """The number of the group of each image, (N,), where `fit.group` makes groups."""
    return group_numbers(source, spec.fit.group)


def split_shares(spec: Spec) -> tuple[float, float]:
    """The shares of the images to validate and to test on, where the data has no such parts of its own."""
    return spec.fit.validation_split, spec.fit.test_split
