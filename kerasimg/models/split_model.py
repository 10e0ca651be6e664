"""A model in two: the part that no training changes, and the rest.

What is frozen comes out the same in every epoch, so it need not be computed by the training loop. The two parts are
made of the model's own layers: to train the rest is to train the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from kerasimg.layers import DropPath
from kerasimg.models.flat_graph import Call, FlatGraph, flatten
from kerasimg.models.own_layers import own_layer_names

DROPPING = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
    DropPath,
)
"""Layers that only regularise: inside a frozen part they do nothing."""


@dataclass(frozen=True, eq=False)
class Split:
    """A model cut in two at its seam, the tensors that cross."""

    frozen: keras.Model
    """Image -> the seam, (N, ...) or a list of several. Call it with training=False."""
    rest: keras.Model
    """The seam -> the outputs of the whole model, with the layers and variables of it."""
    silenced: tuple[str, ...]
    """Layers that would drop values in training, between frozen weights; they work as in inference."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the seam for one image."""
        return [tuple(tensor.shape[1:]) for tensor in self.frozen.outputs]

    @property
    def elements(self) -> int:
        """Number of values that cross the boundary for one image."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def parameters(self) -> int:
        """Parameters of the frozen part."""
        return int(self.frozen.count_params())

    @cached_property
    def digest(self) -> str:
        """The digest of the frozen part."""
        return digest(self.frozen)


def digest(model: keras.Model, *, weights: bool = True) -> str:
    """A digest (32 digits) of a functional model, without names: its layers, their connections, and their weights.

    Of a model with layers of a program's own it is that of these layer objects alone: see `own_layer_names`.
    """
    graph = flatten(model)
    found = hashlib.blake2b(digest_size=16)
    for call in graph.calls:
        said = [type(call.operation).__name__, _configuration(call.operation), call.inputs, call.outputs]
        said += own_layer_names([call.operation])
        found.update(json.dumps([*said, repr(_plain_arguments(call))], sort_keys=True, default=str).encode())
        for weight in getattr(call.operation, "weights", ()) if weights else ():
            found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    found.update(repr((graph.inputs, graph.outputs, model.input_shape)).encode())
    return found.hexdigest()


def split_frozen(model: keras.Model) -> Split | None:
    """Cut a functional model behind its frozen part, also within a nested model; None where no weights are frozen.

    Frozen is every call that follows from the image by calls that training does not change: no trainable variables,
    no statistics that training updates. BatchNormalization with trainable=False is frozen, for Keras then uses its
    moving statistics. Of layers that are random in training,
    - those of DROPPING with frozen weights behind them belong to the frozen part and do nothing, as in Keras' guide
      to transfer learning (`base(x, training=False)`); behind the last frozen weights they belong to the rest;
    - all others (augmentation inside the model, noise) end the frozen part.
    Layers without weights after the last frozen ones go where they make the boundary smallest: global pooling in
    the frozen part, upsampling in the rest.
    """
    graph = flatten(model)
    frozen = _frozen_calls(graph)
    if not any(map(_has_weights, frozen)) or len(frozen) == len(graph.calls):
        return None
    frozen = _cheapest(graph, frozen)
    seam = _seam(graph, frozen)
    inside = set(map(id, frozen))
    rest = [call for call in graph.calls if id(call) not in inside]
    image = [keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs]
    first = rebuild(frozen, graph.inputs, image, seam, f"{model.name}_frozen")
    taken = {call.operation.name for call in rest}
    names = [_free("features" if len(seam) == 1 else f"features_{index}", taken) for index in range(len(seam))]
    features = [
        keras.Input(graph.tensors[number].shape[1:], dtype=graph.tensors[number].dtype, name=name)
        for number, name in zip(seam, names, strict=True)
    ]
    second = rebuild(rest, seam, features, graph.outputs, model.name)
    silenced = tuple(dict.fromkeys(call.operation.name for call in frozen if isinstance(call.operation, DROPPING)))
    return Split(first, second, silenced)


def _frozen_calls(graph: FlatGraph) -> list[Call]:
    """The calls that training does not change, as `split_frozen` describes them."""
    known = set(graph.inputs)
    frozen = []
    for call in graph.calls:
        noise = _is_random(call) and not _has_weights(call) and not isinstance(call.operation, DROPPING)
        if known.issuperset(call.inputs) and _is_unchanging(call.operation) and not noise:
            known.update(call.outputs)
            frozen.append(call)
    last = [call for call in frozen if _is_random(call) and call in _behind_weights(frozen)]
    return _without(frozen, last)


def _behind_weights(frozen: Sequence[Call]) -> list[Call]:
    """The calls without weights that no frozen weights come after."""
    needed: set[int] = set()
    found = []
    for call in reversed(frozen):
        if _has_weights(call) or needed.intersection(call.outputs):
            needed.update(call.inputs)
        else:
            found.append(call)
    return found


def _without(frozen: Sequence[Call], removed: Iterable[Call]) -> list[Call]:
    """The frozen calls less these and all that follows from them."""
    gone = set(map(id, removed))
    lost: set[int] = set()
    chosen = []
    for call in frozen:
        if id(call) in gone or lost.intersection(call.inputs):
            lost.update(call.outputs)
        else:
            chosen.append(call)
    return chosen


def _cheapest(graph: FlatGraph, frozen: list[Call]) -> list[Call]:
    """Hand calls without weights at the end over to the rest while that makes the seam smaller."""
    while True:
        best, cost = frozen, _cost(graph, frozen)
        for call in _behind_weights(frozen):
            fewer = _without(frozen, [call])
            if (less := _cost(graph, fewer)) < cost:
                best, cost = fewer, less
        if best is frozen:
            return _needed(frozen, _seam(graph, frozen))
        frozen = best


def _needed(frozen: Sequence[Call], seam: Sequence[int]) -> list[Call]:
    """The calls that the seam follows from."""
    wanted = set(seam)
    chosen = []
    for call in reversed(frozen):
        if wanted.intersection(call.outputs):
            wanted.update(call.inputs)
            chosen.append(call)
    return chosen[::-1]


def _cost(graph: FlatGraph, frozen: Sequence[Call]) -> float:
    return sum(graph.elements(number) for number in _seam(graph, frozen))


def _seam(graph: FlatGraph, frozen: Sequence[Call]) -> list[int]:
    """The values that the rest needs, in the order in which they come about."""
    inside = set(map(id, frozen))
    made = {*graph.inputs, *(number for call in frozen for number in call.outputs)}
    wanted = {number for call in graph.calls if id(call) not in inside for number in call.inputs}
    return sorted(made & (wanted | set(graph.outputs)))


def rebuild(
    calls: Sequence[Call], inputs: Sequence[int], tensors: Sequence[Any], outputs: Sequence[int], name: str
) -> keras.Model:
    """A model that makes these calls of the same layers on its own inputs.

    calls, inputs, outputs: of a `FlatGraph`.  tensors: the new inputs, one for each of `inputs`.
    """
    values = dict(zip(inputs, tensors, strict=True))
    owners: dict[str, Any] = {tensor.name: None for tensor in tensors}
    for call in calls:
        if owners.setdefault(call.operation.name, call.operation) is call.operation:
            values.update(zip(call.outputs, call.run(values), strict=True))
            continue
        # Keras wants one name for one layer: of two nested models with equal names inside, one layer is wrapped.
        own = {number: keras.Input(values[number].shape[1:], dtype=values[number].dtype) for number in call.inputs}
        inner = keras.Model(list(own.values()), list(call.run(own)), name=_free(call.operation.name, owners))
        owners[inner.name] = inner
        made = keras.tree.flatten(inner([values[number] for number in own]))
        values.update(zip(call.outputs, made, strict=True))
    found = [values[number] for number in outputs]
    return keras.Model(
        list(tensors) if len(tensors) > 1 else tensors[0], found if len(found) > 1 else found[0], name=name
    )


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, or with the first number that no other has."""
    known, number, free = set(taken), 1, name
    while free in known:
        number, free = number + 1, f"{name}_{number}"
    return free


def _has_weights(call: Call) -> bool:
    return bool(getattr(call.operation, "weights", ()))


def _is_random(call: Call) -> bool:
    # What a layer has besides its weights is the state of its random numbers.
    return len(getattr(call.operation, "variables", ())) > len(getattr(call.operation, "weights", ()))


def _is_unchanging(operation: Any) -> bool:
    """Whether training changes nothing of it: no variable by a gradient, no statistics."""
    if getattr(operation, "trainable_variables", ()):
        return False
    if isinstance(operation, keras.layers.Normalization):
        return True  # its statistics are adapted before any training
    return not (getattr(operation, "trainable", False) and getattr(operation, "weights", ()))


def _configuration(operation: Any) -> dict[str, Any]:
    """The config of an operation, without its name, which differs from model to model, and its `trainable`."""
    config = operation.get_config() if hasattr(operation, "get_config") else {}
    return {key: value for key, value in config.items() if key not in ("name", "trainable")}


def _plain_arguments(call: Call) -> Any:
    """The arguments that are no tensors; in the place of a tensor nothing."""
    arguments = call.node.arguments
    return arguments.fill_in(dict.fromkeys(map(id, arguments.keras_tensors)))
