"""Backbones: a constructor of keras.applications, or another spec without its head, as one layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras

from kerasimg.catalog import ZOO
from kerasimg.errors import Fault, SpecError
from kerasimg.spec.arguments import entry
from kerasimg.spec.document import Standardize
from kerasimg.spec.load import Spec
from kerasimg.spec.nodes import Node

HEADS = frozenset({"GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"})
"""The layers at which a head begins, where a spec does not name its `features`."""


class Backbone(NamedTuple):
    """The facts about a backbone node that are needed before its input exists."""

    target: str
    scale: str | Standardize
    """The scaling of pixels that it expects."""
    spec: Spec | None
    """The spec that it is; None for one of keras.applications."""


def describe(target: str, arguments: Mapping[str, Any], parent: Spec) -> Backbone:
    """The backbone that a checked node names."""
    if not target.endswith(".json"):
        return Backbone(target, (entry("backbones", target) or {})["scale"], None)
    spec = parent.open(target, arguments)
    return Backbone(target, own_scale(spec), spec)


def own_scale(spec: Spec) -> str | Standardize:
    """The scale that a spec's model wants: what it says, else that of its first node."""
    if spec.image.scale != "auto":
        return spec.image.scale
    first = spec.nodes[0]
    if first.kind == "backbone":
        return describe(first.target, {}, spec).scale
    return "unit"


def application(target: str, arguments: Mapping[str, Any], shape: tuple[int, int, int], name: str) -> keras.Model:
    """A model of keras.applications without top and without weights."""
    constructor = getattr(keras.applications, target)
    model = constructor(include_top=False, weights=None, input_shape=shape, **arguments)
    model.name = name  # afterwards, for some constructors look their configuration up by it
    return model


def scales_inside(target: str) -> bool:
    """Whether a model of keras.applications scales the pixels itself."""
    return bool((entry("backbones", target) or {})["scale"] == "none")


def feature_nodes(spec: Spec) -> tuple[Node, ...]:
    """The nodes of a spec up to its features: the head is left out."""
    for index, node in enumerate(spec.nodes):
        if spec.features is not None and node.name == spec.features:
            return spec.nodes[: index + 1]
        if spec.features is None and node.kind == "layer" and node.target in HEADS and index:
            return spec.nodes[:index]
    message = f"cannot serve as a backbone: no {', '.join(sorted(HEADS))} shows where its head begins; name the node"
    raise SpecError([Fault(spec.file, "features", message)])


def specs_beside(spec: Spec) -> dict[str, Any]:
    """The specs that serve a spec as backbones, by their path below its folder; those of the zoo are everywhere."""
    specs = {inner.folder / Path(inner.file).name: inner for inner in spec.within.opened.values()}
    return {
        path.relative_to(spec.folder).as_posix(): dict(inner.document)
        for path, inner in specs.items()
        if not path.is_relative_to(ZOO)
    }
