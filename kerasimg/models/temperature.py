"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599): one number that calibrates a model's probabilities.

The logits are divided by the temperature before softmax or sigmoid. Above 1 it makes the probabilities less sure, below
1 surer. What is decided does not change: the most likely class stays the same, and 0.5 of a sigmoid stays 0.5.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from kerasimg.models.output_kind import OutputKind, output_kind
from kerasimg.spec.document import Task

LEAST = float(np.finfo(np.float32).tiny)
"""Replaces a probability that float32 rounded to 0; its logarithm is finite."""
MOST = 1 - 2.0**-25
"""Replaces a probability that float32 rounded to 1; half a step below 1."""


def logits(probabilities: ArrayLike, task: Task) -> np.ndarray:
    """Logits of probabilities, float64 of the same shape: of a softmax (multiclass) up to a sum, else of a sigmoid."""
    p = np.asarray(probabilities, dtype=np.float64)
    if task == "multiclass":
        return np.log(np.maximum(p, LEAST))
    p = np.clip(p, LEAST, MOST)
    return np.asarray(np.log(p) - np.log1p(-p))


def at_temperature(probabilities: ArrayLike, temperature: float, task: Task) -> np.ndarray:
    """Probabilities, as a classifier gives them, at another temperature: float32, of the same shape.

    temperature: above 0; 1 returns them unchanged.
    A float32 sigmoid is the same for all logits above about 17, so these are scaled as if they were 17.
    """
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float32)
    scaled = logits(probabilities, task) / temperature
    if task != "multiclass":
        return np.asarray((1 + np.tanh(scaled / 2)) / 2, dtype=np.float32)  # the sigmoid, without overflow
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def symbolic_logits(output: Any, kind: OutputKind) -> Any:
    """Logits of a model's symbolic output, float32, as `logits` computes them of an array."""
    x = keras.ops.cast(output, "float32")
    if kind == "softmax":
        return keras.ops.log(keras.ops.maximum(x, LEAST))
    if kind == "sigmoid":
        # MOST is 1 in float32; the largest float32 below 1 is 1 - 2**-24.
        x = keras.ops.clip(x, LEAST, 1 - 2.0**-24)
        return keras.ops.log(x) - keras.ops.log(1 - x)
    return x


def model_at_temperature(model: keras.Model, temperature: float) -> keras.Model:
    """A model whose output is that of `model` at a temperature, for an export; it shares the weights.

    Softmax and sigmoid stay softmax and sigmoid, logits stay logits. The given model itself for temperature 1.
    """
    if temperature == 1:
        return model
    kind = output_kind(model)
    x = symbolic_logits(model.outputs[0], kind)
    x = keras.layers.Rescaling(1 / temperature, dtype="float32", name="temperature")(x)
    if kind != "logits":
        x = keras.layers.Activation(kind, dtype="float32", name="calibrated")(x)
    return keras.Model(model.inputs, x, name=model.name)
