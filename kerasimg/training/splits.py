"""The train, validation and test split of the images, and the seed of a run."""

from __future__ import annotations

import hashlib
import json
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
"""The keys of `fit` on which the split depends."""


def split_key(spec: Spec) -> str:
    """Returns a text that is equal for specs with the same split of the same images."""
    return repr([getattr(spec.fit, key) for key in KEYS])


def seed_of(spec: Spec) -> int:
    """Returns the seed of the split, the initial weights, the order and the augmentation."""
    return spec.fit.seed


def split_images(spec: Spec, source: Source, *, test: bool = True) -> Parts:
    """Returns the split of the images.  test: draw a test part, too, if the data has none."""
    validation_share, test_share = split_shares(spec)
    return split(source, validation_share, test_share if test else 0, seed_of(spec), spec.fit.group)


def record_split(spec: Spec, source: Source, parts: Parts) -> dict[str, Any]:
    """Returns what a run records of its data, see `kerasimg.data.split.record`."""
    return record(source, parts, group=spec.fit.group)


def columns_digest(spec: Spec, source: Source) -> str:
    """Returns the SHA-256 of the columns of a manifest besides the labels, if any may matter: "" if none does.

    Sample weights, groups and soft labels are such columns. All are hashed, since a search may choose among them.
    """
    written = spec.document.get("fit", {})
    if not (source.soft or written.get("sample_weight") or written.get("group")):
        return ""
    columns = [sorted(item.extras.items()) for item in source.items]
    return hashlib.sha256(json.dumps(columns, default=str).encode()).hexdigest()


def group_numbers_of(spec: Spec, source: Source) -> np.ndarray | None:
    """Returns the group number of each image, (N,); None without `fit.group`."""
    return group_numbers(source, spec.fit.group)


def split_shares(spec: Spec) -> tuple[float, float]:
    """Returns the shares of the validation and the test part, for data that has none."""
    return spec.fit.validation_split, spec.fit.test_split
