"""A functional model as one flat list of calls: nested models are opened, each value that flows has a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerasimg.keras_internals import calls_of, is_functional


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of an operation that is no layer, somewhere in the model."""

    operation: Any
    inputs: tuple[int, ...]
    """Numbers of the values that it takes, in the order of its arguments."""
    outputs: tuple[int, ...]
    node: Any = field(repr=False)
    """Keras' record of the call, with the arguments that are no tensors."""

    def run(self, values: Mapping[int, Any], **more: Any) -> Sequence[Any]:
        """Call it again, on other values of the same shapes; more: arguments besides those that were given."""
        tensors = self.node.arguments.keras_tensors
        given = {id(tensor): values[number] for tensor, number in zip(tensors, self.inputs, strict=True)}
        args, kwargs = self.node.arguments.fill_in(given)
        return keras.tree.flatten(self.operation(*args, **{**kwargs, **more}))


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """The calls of a model in an order in which they can be made."""

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: Mapping[int, Any]
    """Number of a value -> the symbolic tensor that Keras has for it, with its shape and dtype."""

    def consumers(self) -> dict[int, list[Call]]:
        """Number of a value -> the calls that take it, once for each time they do."""
        found: dict[int, list[Call]] = {number: [] for number in self.tensors}
        for call in self.calls:
            for number in call.inputs:
                found[number].append(call)
        return found

    def elements(self, number: int) -> float:
        """Number of elements of a value for one image; infinite if the shape is unknown."""
        size = 1.0
        for length in self.tensors[number].shape[1:]:
            size *= float("inf") if length is None else length
        return size


def flatten(model: keras.Model) -> FlatGraph:
    """The calls of a functional model; those of models inside stand in the place of the call of the model.

    A model with a `call` of its own stays one call. Of a layer that is called several times there are several calls.
    """
    tensors: dict[int, Any] = {}
    calls: list[Call] = []
    inputs = [_number(tensors, tensor) for tensor in model.inputs]
    outputs = _flatten(model, inputs, tensors, calls)
    return FlatGraph(tuple(calls), tuple(inputs), tuple(outputs), tensors)


def functional_of(model: keras.Sequential) -> keras.Model | None:
    """The layers of a Sequential model as a functional model; None before it is built."""
    return keras.Model(model.inputs, model.outputs, name=model.name) if model.built else None


def _number(tensors: dict[int, Any], tensor: Any) -> int:
    tensors[len(tensors)] = tensor
    return len(tensors) - 1


def _flatten(model: Any, inputs: Sequence[int], tensors: dict[int, Any], calls: list[Call]) -> list[int]:
    """Append the calls of a model on these values, and number what comes out of it."""
    numbers = {id(tensor): number for tensor, number in zip(model.inputs, inputs, strict=True)}
    for node in calls_of(model):
        taken = [numbers[id(tensor)] for tensor in node.arguments.keras_tensors]
        inner = _opened(node, taken, tensors)
        if inner is None:
            given = [_number(tensors, tensor) for tensor in node.outputs]
            calls.append(Call(node.operation, tuple(taken), tuple(given), node))
        else:
            given = _flatten(inner, taken, tensors, calls)
        numbers.update({id(tensor): number for tensor, number in zip(node.outputs, given, strict=True)})
    return [numbers[id(tensor)] for tensor in model.outputs]


def _opened(node: Any, taken: Sequence[int], tensors: Mapping[int, Any]) -> Any:
    """The functional model that a call is of, when its calls can stand in the place of this one; else None."""
    model = node.operation
    if type(model) is keras.Sequential:
        model = functional_of(model)
    if not isinstance(model, keras.Model) or not is_functional(model) or len(model.inputs) != len(taken):
        return None
    by_name = any(isinstance(argument, dict) for argument in node.arguments.args)
    same_ranks = all(
        len(own.shape) == len(tensors[number].shape) for own, number in zip(model.inputs, taken, strict=True)
    )
    return None if by_name or not same_ranks else model
