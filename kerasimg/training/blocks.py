"""The blocks of a model in their order, for rates that fall from block to block.

As in ELECTRA (Clark et al. 2020, arXiv:2003.10555) and BEiT (Bao et al. 2021, arXiv:2106.08254): a block learns at the
rate of the next one times `layer_decay`. A block is what the paper draws as one: a node of the spec, be it a layer or
a macro; in a backbone that is a spec, a node of that; in one of keras.applications, the layers whose names begin with
the same block ("block_12_expand", "conv5_block3_2_conv"). Other layers with weights stand for themselves; a
normalization belongs to what it normalizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from kerasimg.models.build import Built
from kerasimg.training.stages import leaves

BLOCK = re.compile(r"(.*?block_?\d+[a-z]?)(?=_|$)|(expanded_conv(?:_\d+)?)(?=_)|conv_[dp]w(_\d+)")
"""How keras.applications name their blocks; of MobileNet, a depthwise convolution and the pointwise one after it."""

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def factors(built: Built, decay: float) -> dict[int, float]:
    """Id of each weight -> its block's share of the learning rate: decay ** (blocks after it)."""
    if decay == 1.0:
        return {}
    parts = list(blocks(built))
    return {
        id(weight): decay**depth
        for depth, layers in enumerate(reversed(parts))
        for layer in layers
        for weight in layer.weights
    }


def blocks(built: Built) -> Iterator[list[Any]]:
    """The layers with weights, block by block, from the picture to the output."""
    found: list[list[Any]] = []
    for layers in _named(built):
        weighty = [layer for layer in layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]
        normal = all(isinstance(layer, NORMALIZATIONS) for layer in weighty)
        if found and normal:
            found[-1] += weighty
        elif weighty:
            found.append(weighty)
    yield from found


def _named(built: Built) -> Iterator[list[Any]]:
    for names in built.members.values():
        yield from _of_node([built.model.get_layer(name) for name in names], built)


def _of_node(layers: list[Any], built: Built) -> Iterator[list[Any]]:
    """A node's layers: one block, but for a backbone, which has its own."""
    whole = [layer for layer in layers if not isinstance(layer, keras.Model)]
    for layer in layers:
        if isinstance(layer, keras.Model):
            inside = built.inside.get(layer.name)
            if inside is None:
                yield from _by_name(leaves([layer]))
            else:
                yield from _by_member(layer, inside, built)
    if whole:
        yield whole


def _by_member(model: keras.Model, members: Mapping[str, Iterable[str]], built: Built) -> Iterator[list[Any]]:
    for names in members.values():
        yield from _of_node([model.get_layer(name) for name in names], built)


def _by_name(layers: Iterable[Any]) -> Iterator[list[Any]]:
    """Layers that follow one another with the name of one block are a block."""
    groups: dict[str, list[Any]] = {}
    for layer in layers:
        match = BLOCK.match(layer.name)
        key = next(filter(None, match.groups())) if match else layer.name
        groups.setdefault(key, []).append(layer)
    yield from groups.values()
