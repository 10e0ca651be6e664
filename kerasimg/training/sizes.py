"""Progressive resizing: stages at picture sizes of their own, small ones first, with the weights handed on.

As EfficientNetV2 was trained (Tan, Le 2021, arXiv:2104.00298). Keras builds a model for one size, so each size has
its own model; they are the same but for it, and what comes out of the last stage is the one of `image.size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kerasimg.catalog import load
from kerasimg.errors import Fault, SpecError
from kerasimg.models.build import Built, construct
from kerasimg.spec.document import Stage
from kerasimg.spec.load import Spec


class Sized(NamedTuple):
    """The spec at a picture size, and its model."""

    spec: Spec
    built: Built


Size = tuple[int, int]


def size_of(stage: Stage, spec: Spec) -> Size:
    """(height, width) of the pictures of a stage."""
    height, width = stage.size or spec.image.size
    return height, width


def models_by_size(spec: Spec, built: Built, limits: Mapping[str, int] | None) -> dict[Size, Sized]:
    """A model for each size that a stage asks for; SpecError where its weights would have other shapes."""
    own = (spec.image.size[0], spec.image.size[1])
    made = {own: Sized(spec, built)}
    for index, stage in enumerate(spec.fit.stages):
        size = size_of(stage, spec)
        if size in made:
            continue
        resized = load(spec, set={"image.size": list(size)})
        other = construct(resized, weights=None, limits=limits)
        if _shapes(other) != _shapes(built):
            message = (
                f"at {size[0]}x{size[1]} the weights of the model have other shapes than at {own[0]}x{own[1]}; "
                "progressive resizing needs a model that pools before its dense layers"
            )
            raise SpecError([Fault(spec.file, f"fit.stages[{index}].size", message)])
        made[size] = Sized(resized, other)
    return made


def _shapes(built: Built) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in built.model.weights]
