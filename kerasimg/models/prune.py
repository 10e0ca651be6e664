"""Structured pruning: a smaller spec, and a model of it with the most important channels of a trained one.

The model is described by `to_spec`, one node per layer. Values whose channels must stay the same, because they are
added, multiplied, or pass through layers that keep channels, form a group. In each group the channels with the largest
weights are kept, over all layers that produce them (Li et al. 2017, arXiv:1608.08710, with the scales of the batch
normalization behind them). A group that any other layer reads, or that is an output of the model, is kept whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kerasimg import catalog
from kerasimg.errors import CallError
from kerasimg.models.build import build
from kerasimg.models.flat_graph import Call, FlatGraph, flatten
from kerasimg.models.to_spec import copy_weights, to_spec
from kerasimg.spec.load import Spec

PRODUCING = {"Conv1D": "filters", "Conv2D": "filters", "Conv3D": "filters", "Dense": "units"}
"""Layer whose outputs are new channels -> the argument with their number."""
KEEPING = frozenset(
    (
        *("Activation", "ReLU", "LeakyReLU", "ELU", "GELU", "BatchNormalization", "DepthwiseConv2D", "Identity"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
        *("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "GlobalAveragePooling1D"),
        *("GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "ZeroPadding2D", "Cropping2D"),
        *("UpSampling2D", "DropPath", "BlurPool2D", "ActivityRegularization"),
    )
)
"""Layers whose outputs have the channels of their inputs."""
MERGING = frozenset(("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"))
MULTIPLE = 8
"""Pruned groups have a multiple of this number of channels, by which CPUs compute."""


@dataclass
class _Group:
    """Channels that are kept or removed together."""

    size: int
    whole: bool = False
    scores: list[np.ndarray] = field(default_factory=list)
    """The importance of the channels, from each layer that produces them."""
    same: _Group | None = None
    """The group that this one has become part of."""

    def root(self) -> _Group:
        group = self
        while group.same is not None:
            group = group.same
        return group

    def kept(self, share: float) -> np.ndarray:
        """The numbers of the channels that remain."""
        count = max(MULTIPLE, round(self.size * share / MULTIPLE) * MULTIPLE)
        if self.whole or not self.scores or count >= self.size:
            return np.arange(self.size)
        total = sum(score / max(float(score.mean()), 1e-12) for score in self.scores)
        return np.sort(np.argsort(np.asarray(total), kind="stable")[::-1][:count])


@dataclass(frozen=True)
class _Channels:
    """The channels of a value: groups one after the other, `repeats` times (after a Flatten)."""

    groups: tuple[_Group, ...]
    repeats: int = 1

    def kept(self, share: float) -> np.ndarray:
        parts, start = [], 0
        for group in (each.root() for each in self.groups):
            parts.append(start + group.kept(share))
            start += group.size
        return (np.arange(self.repeats)[:, None] * start + np.concatenate(parts)).reshape(-1)


def prune(model: keras.Model, share: float, name: str | None = None) -> tuple[Spec, keras.Model]:
    """Removes the least important channels of a model.

    Args:
        model: a functional model of one image with one output.
        share: of the channels of each group that remain, between 0 and 1.
        name: of the spec.

    Returns:
        The spec of the smaller model, and the model built from it, with the weights of the channels that remain.

    Raises:
        CallError: if no channel of the model can be removed.
        SpecError: if a spec cannot describe the model.

    Example:
        >>> spec, smaller = prune(kerasimg.build("simple_cnn", num_classes=3), 0.5)
        >>> smaller.count_params()
        410075
    """
    document = dict(to_spec(model, name, blocks=False).document)
    document.pop("expect", None)
    plain = [row for node in document["model"] for row in _rows(node)]
    nodes = [{"name": f"layer_{place}", **node} for place, node in enumerate(plain)]
    for node in nodes:
        node.pop("trainable", None)
    whole = build(catalog.load({**document, "model": nodes}), weights=None)
    copy_weights(model, whole)
    taken = _trace(flatten(whole))
    counts: dict[str, int] = {}
    weights: dict[str, list[np.ndarray]] = {}
    for layer, (entry, given) in taken.items():
        values = layer.get_weights()
        if type(layer).__name__ in PRODUCING:
            inputs, outputs = entry.kept(share), given.kept(share)
            counts[layer.name] = len(outputs)
            values = [np.take(np.take(values[0], inputs, -2), outputs, -1), *(np.take(v, outputs) for v in values[1:])]
        elif type(layer).__name__ == "DepthwiseConv2D":
            inputs = entry.kept(share)
            values = [np.take(values[0], inputs, -2), *(np.take(v, inputs) for v in values[1:])]
        elif type(layer).__name__ == "BatchNormalization":
            values = [np.take(v, entry.kept(share)) for v in values]
        weights[layer.name] = values
    for node in nodes:
        if (argument := PRODUCING.get(str(node.get("layer")))) is not None:
            node[argument] = counts.get(node["name"], node[argument])
    spec = catalog.load({**document, "model": nodes})
    smaller = build(spec, weights=None)
    if smaller.count_params() >= whole.count_params():
        raise CallError(f"'{model.name}' has no channels that can be removed")
    for layer_name, values in weights.items():
        smaller.get_layer(layer_name).set_weights(values)
    return spec, smaller


def _rows(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One node for each row of a node with a table; the first has its inputs, and the last its name."""
    keys, *rows = node.get("table", [[], []])
    common = {key: value for key, value in node.items() if key not in ("table", "name", "inputs")}
    filled = [{**common, **{k: v for k, v in zip(keys, row, strict=True) if v is not None}} for row in rows]
    filled[0] |= {"inputs": node["inputs"]} if "inputs" in node else {}
    filled[-1] |= {"name": node["name"]} if "name" in node else {}
    return filled


def _trace(graph: FlatGraph) -> dict[Any, tuple[_Channels, _Channels]]:
    """Groups the channels of all values; returns those that each layer with weights reads, and those that it gives."""
    channels: dict[int, _Channels] = {}
    taken: dict[Any, tuple[_Channels, _Channels]] = {}
    consumers = graph.consumers()
    for number in graph.inputs:
        channels[number] = _whole(graph, number)
    for call in graph.calls:
        entries = [channels[number] for number in call.inputs]
        kind, layer, (number, *others) = type(call.operation).__name__, call.operation, call.outputs
        given = None if others else _given(graph, call, kind, entries, taken)
        if given is None:  # any other operation: its inputs and outputs stay as they are
            for entry in entries:
                for group in entry.groups:
                    group.root().whole = True
            given = _whole(graph, number)
        channels.update(dict.fromkeys(call.outputs, given))
        for other in others:
            channels[other] = _whole(graph, other)
        if kind in PRODUCING and not given.groups[0].root().whole:
            given.groups[0].root().scores.append(_importance(layer, consumers[number]))
        if getattr(layer, "weights", None):
            taken[layer] = (entries[0] if entries else given, given)
    for number in graph.outputs:
        for group in channels[number].groups:
            group.root().whole = True
    return taken


def _whole(graph: FlatGraph, number: int) -> _Channels:
    return _Channels((_Group(int(graph.tensors[number].shape[-1] or 1), whole=True),))


def _given(
    graph: FlatGraph, call: Call, kind: str, entries: Sequence[_Channels], taken: Mapping[Any, Any]
) -> _Channels | None:
    """The channels that a call gives; None if it is not known how they follow from those that it reads."""
    layer, number = call.operation, call.outputs[0]
    if kind in PRODUCING and getattr(layer, "groups", 1) == 1 and layer not in taken and len(entries) == 1:
        return _Channels((_Group(int(graph.tensors[number].shape[-1])),))
    if kind in KEEPING and getattr(layer, "depth_multiplier", 1) == 1 and layer not in taken:
        return entries[0]
    if kind in MERGING:
        return _merged(entries)
    if kind == "Concatenate" and layer.axis in (-1, len(graph.tensors[number].shape) - 1):
        same = {entry.repeats for entry in entries} == {1}
        return _Channels(tuple(group for entry in entries for group in entry.groups)) if same else None
    if kind == "Flatten":
        size = sum(group.root().size for group in entries[0].groups)
        return _Channels(entries[0].groups, int(graph.elements(number)) // size)
    if kind == "Reshape":
        before, after = (tuple(graph.tensors[each].shape[1:]) for each in (call.inputs[0], number))
        ones = set(before[:-1]) | set(after[:-1]) <= {1}
        return entries[0] if ones and before[-1] == after[-1] else None
    return None


def _merged(entries: Sequence[_Channels]) -> _Channels | None:
    """Makes the groups of several values the same, if their sizes are."""
    sizes = {tuple(group.root().size for group in entry.groups) for entry in entries}
    if len(sizes) > 1 or len({entry.repeats for entry in entries}) > 1:
        return None
    for entry in entries[1:]:
        for ours, theirs in zip(entries[0].groups, entry.groups, strict=True):
            first, second = ours.root(), theirs.root()
            if first is not second:
                first.scores += second.scores
                first.whole |= second.whole
                second.same = first
    return entries[0]


def _importance(layer: Any, consumers: Sequence[Call]) -> np.ndarray:
    """The norm of the weights of each output of a layer, scaled as batch normalization behind it does."""
    kernel = np.asarray(layer.get_weights()[0], dtype=np.float64)
    norms = np.sqrt(np.square(kernel.reshape(-1, kernel.shape[-1])).sum(0))
    behind = [call.operation for call in consumers if isinstance(call.operation, keras.layers.BatchNormalization)]
    if len(consumers) == len(behind) == 1:
        scale = keras.ops.convert_to_numpy(behind[0].gamma) if behind[0].scale else 1.0
        variance = keras.ops.convert_to_numpy(behind[0].moving_variance)
        norms = norms * np.abs(scale) / np.sqrt(variance + behind[0].epsilon)
    return np.asarray(norms)
