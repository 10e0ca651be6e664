"""What the numbers that come out of a model are."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

OutputKind = Literal["softmax", "sigmoid", "logits"]


def output_kind(model: keras.Model) -> OutputKind:
    """Whether a model's last layer gives softmax or sigmoid probabilities, or logits (anything else)."""
    # Private, but for a layer that is called several times nothing else tells whose call the output is.
    layer = model.outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    kinds: dict[Any, OutputKind] = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}
    return kinds.get(activation, "logits")


def as_probabilities(outputs: np.ndarray, kind: OutputKind, task: str) -> np.ndarray:
    """A model's outputs (N, K) as probabilities: logits through softmax, or sigmoid where a class stands for itself."""
    outputs = np.asarray(outputs, dtype=np.float32)
    if kind != "logits":
        return outputs
    if task != "multiclass":
        return np.asarray((1 + np.tanh(outputs / 2)) / 2, dtype=np.float32)  # the sigmoid, without overflow
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)
