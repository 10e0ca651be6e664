"""The gradient of a model's score with respect to a tensor, on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasimg.errors import CallError
from kerasimg.evaluation.explain_layers import changed

Function = Callable[[Any], tuple[Any, Any]]
"""A tensor (N, ...) -> the scores (N,), each of its own image alone, and a further tensor from the way there."""


class Slope(NamedTuple):
    """What `gradient` returns."""

    scores: np.ndarray
    """(N,)."""
    gradient: np.ndarray
    """d score / d tensor, of the tensor's shape; zero where the score does not depend on it."""
    further: np.ndarray
    """The function's second output."""


def gradient(function: Function, at: np.ndarray) -> Slope:
    """Scores and their gradient with respect to a tensor; CallError on a backend without gradients."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise CallError(f"the backend '{backend}' has no gradients ({known} have); method='occlusion' needs none")
    scores, slope, further = BACKENDS[backend](function, np.asarray(at, dtype=np.float32))
    slope = np.zeros_like(at) if slope is None else keras.ops.convert_to_numpy(slope)
    as_array = keras.ops.convert_to_numpy
    return Slope(*(np.asarray(each, dtype=np.float32) for each in (as_array(scores), slope, as_array(further))))


def slope_on_the_way(layer: Any, score: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """A layer's last output while a score is computed, and the score's gradient with respect to it: on TensorFlow.

    In one pass, where other backends need the output's shape before they can differentiate.
    """
    tensorflow = import_module("tensorflow")
    seen: list[Any] = []
    with tensorflow.GradientTape(watch_accessed_variables=False) as tape:

        def watch(output: Any) -> Any:
            seen.append(output)
            tape.watch(output)
            return output

        with changed(layer, watch):
            scores = score()
    slope = tape.gradient(scores, seen[-1], unconnected_gradients=tensorflow.UnconnectedGradients.ZERO)
    found, slope = (np.asarray(tensorflow.cast(each, "float32").numpy()) for each in (seen[-1], slope))
    return found, slope


def _tensorflow(function: Function, at: np.ndarray) -> tuple[Any, Any, Any]:
    tensorflow = import_module("tensorflow")
    tensor = tensorflow.convert_to_tensor(at)
    with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensor)
        scores, further = function(tensor)
    return scores, tape.gradient(scores, tensor), further


def _jax(function: Function, at: np.ndarray) -> tuple[Any, Any, Any]:
    def total(tensor: Any) -> tuple[Any, Any]:
        # What a layer would write into its variables while it is traced must not stay there.
        with keras.StatelessScope():
            scores, further = function(tensor)
        return scores.sum(), (scores, further)

    jax = import_module("jax")
    slope, (scores, further) = jax.grad(total, has_aux=True)(jax.numpy.asarray(at))
    return scores, slope, further


def _torch(function: Function, at: np.ndarray) -> tuple[Any, Any, Any]:
    torch = import_module("torch")
    tensor = keras.ops.convert_to_tensor(at).detach().clone().requires_grad_(True)
    with torch.enable_grad():
        scores, further = function(tensor)
        (slope,) = torch.autograd.grad(scores.sum(), tensor, allow_unused=True)
    return scores, slope, further


BACKENDS: dict[str, Callable[[Function, np.ndarray], tuple[Any, Any, Any]]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
"""Backend -> what differentiates on it."""
