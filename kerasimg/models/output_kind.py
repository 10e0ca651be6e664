"""The kind of a model's outputs: softmax, sigmoid or logits."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from kerasimg.keras_internals import call_behind, output_position
from kerasimg.spec.heads import CHANGES, KEEPS, KEEPS_SIGMOID, kind_of

OutputKind = Literal["softmax", "sigmoid", "logits"]


def output_kind(model: keras.Model) -> OutputKind:
    """Whether a model gives softmax or sigmoid probabilities, or logits (anything else)."""
    head = head_of(model)
    return head if head in ("softmax", "sigmoid") else "logits"  # type: ignore[return-value]


def head_of(model: keras.Model) -> str:
    """The kind of outputs: softmax, sigmoid, logits, or the name of another activation."""
    return _kind(model.outputs[0], {})


def _kind(tensor: Any, seen: dict[int, str]) -> str:
    """As `heads.kind_of`, of a tensor; seen: what is known by the id of a tensor."""
    if id(tensor) not in seen:
        call = call_behind(tensor)
        layer = call.operation
        if isinstance(layer, keras.Model):
            seen[id(tensor)] = _kind(layer.outputs[output_position(tensor)], seen)
        else:
            name, activation = type(layer).__name__, getattr(layer, "activation", None)
            passed = name in KEEPS | KEEPS_SIGMOID | CHANGES
            inputs = call.input_tensors if passed else ()
            kinds = [_kind(item, seen) for item in inputs]
            seen[id(tensor)] = kind_of(name, getattr(activation, "__name__", None), kinds) or "logits"
    return seen[id(tensor)]


def as_probabilities(outputs: np.ndarray, kind: OutputKind, task: str) -> np.ndarray:
    """A model's outputs (N, K) as probabilities: logits through softmax, or sigmoid where classes are independent."""
    outputs = np.asarray(outputs, dtype=np.float32)
    if kind != "logits":
        return outputs
    if task != "multiclass":
        return np.asarray((1 + np.tanh(outputs / 2)) / 2, dtype=np.float32)  # the sigmoid, without overflow
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)
