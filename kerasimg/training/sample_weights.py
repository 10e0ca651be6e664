"""How much each image, or each label, counts in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kerasimg.data.items import ManyFaults
from kerasimg.data.source import Source
from kerasimg.errors import Fault
from kerasimg.spec.load import Spec


def weighs(spec: Spec) -> bool:
    """Whether images, or their labels, count differently."""
    return spec.fit.class_weight != "none" or spec.fit.sample_weight is not None


def weighs_labels(spec: Spec) -> bool:
    """Whether each of several labels counts for itself, see `label_weights`."""
    return spec.fit.class_weight != "none" and spec.task == "multilabel"


def image_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray | None:
    """The weight of each image at `indices`, (N,) float32: its class's times its own; None where all count alike."""
    weights = None
    if spec.fit.class_weight != "none" and spec.task != "multilabel":
        of_class = class_weights(spec, source, indices)
        weights = of_class[source.label_ids(indices)]
    if spec.fit.sample_weight is not None:
        own = _column(spec.fit.sample_weight, source, indices)
        weights = own if weights is None else weights * own
    return None if weights is None else weights.astype(np.float32)


def class_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray:
    """By class number: n / (classes * n of the class), or its square root."""
    counts = np.bincount(source.label_ids(indices), minlength=len(source.classes))
    weights = len(indices) / (len(counts) * np.maximum(counts, 1))
    return np.sqrt(weights) if spec.fit.class_weight == "sqrt" else weights


def label_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray | None:
    """Where an image has several labels: how much it counts that each does not hold, and that it holds; (2, K).

    n / (2 * n of the images where it is so), or its square root. None where all count alike.
    """
    if not weighs_labels(spec):
        return None
    hold = source.label_ids(indices).sum(axis=0)
    weights = len(indices) / (2 * np.maximum([len(indices) - hold, hold], 1))
    return np.sqrt(weights) if spec.fit.class_weight == "sqrt" else weights


def _column(name: str, source: Source, indices: np.ndarray) -> np.ndarray:
    """A column of the manifest as numbers; DataError names each image that has none, or one below 0."""
    weights = np.ones(len(indices))
    faults = []
    for place, index in enumerate(indices):
        item = source.items[int(index)]
        value: Any = item.extras.get(name)
        try:
            weights[place] = float(value)
        except (TypeError, ValueError):
            weights[place] = math.nan
        if not 0 <= weights[place] < math.inf:
            found = "nothing" if value is None else repr(value)
            faults.append(Fault(source.where, item.id, f"expected a number >= 0 as its {name!r}, found {found}"))
    if len(faults) == len(indices):
        message = (
            f"fit.sample_weight names the column {name!r}, which no image has a number in; only a manifest has any"
        )
        faults = [Fault(source.where, "", message)]
    if faults:
        raise ManyFaults(faults)
    return weights
