"""The methods of `kerasimg.explain`: a model, images and a class for each -> heat maps.

Each returns what speaks for the class at every pixel, (N, H, W) float32, on no particular scale; what speaks against
it is negative, or 0 where the method says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import PIL.Image

from kerasimg.errors import CallError, nearest
from kerasimg.evaluation.explain_layers import changed, map_layer, without_squashing
from kerasimg.evaluation.occlusion import occlusion, require

Maps = np.ndarray


def grad_cam(model: keras.Model, images: np.ndarray, targets: np.ndarray, *, layer: str | None = None) -> Maps:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): channels weighed by their mean gradient; 0 and above.

    layer: name of a layer with an output (N, H, W, C). None: the last one before pooling.
    """
    features, slopes = _features(model, images, targets, layer)
    return _on_image(_positive((features * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1)), images)


def grad_cam_pp(model: keras.Model, images: np.ndarray, targets: np.ndarray, *, layer: str | None = None) -> Maps:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063): finds several things of a class; 0 and above.

    layer: as for Grad-CAM. The weights are those of the paper for the exponential of the score (its equation 19).
    """
    features, slopes = _features(model, images, targets, layer)
    square, cube = slopes**2, slopes**3
    below = 2 * square + features.sum(axis=(1, 2), keepdims=True) * cube
    shares = np.divide(square, below, out=np.zeros_like(square), where=np.abs(below) > 1e-12)
    weights = (shares * _positive(slopes)).sum(axis=(1, 2), keepdims=True)
    return _on_image(_positive((features * weights).sum(axis=-1)), images)


def hires_cam(model: keras.Model, images: np.ndarray, targets: np.ndarray, *, layer: str | None = None) -> Maps:
    """HiResCAM (Draelos, Carin 2020, arXiv:2011.08891): each place by its own gradient; 0 and above.

    Where one dense layer follows the map it shows what that layer adds up, which Grad-CAM, averaging, need not.
    layer: as for Grad-CAM.
    """
    features, slopes = _features(model, images, targets, layer)
    return _on_image(_positive((features * slopes).sum(axis=-1)), images)


def integrated_gradients(
    model: keras.Model, images: np.ndarray, targets: np.ndarray, *, steps: int = 32, baseline: float = 0.0
) -> Maps:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365), summed over the channels.

    baseline: the pixel value, 0-255, of the image without anything in it; what has that value explains nothing.
    steps: of the midpoint rule along the way. The map sums to score(image) - score(baseline), up to its error.
    """
    require("steps", steps, 1)
    way = images - np.float32(baseline)
    total = np.zeros_like(images)
    for step in range(steps):
        total += _pixel_slopes(model, np.float32(baseline) + way * np.float32((step + 0.5) / steps), targets)
    return (way * total / steps).sum(axis=-1)


def smooth_grad(
    model: keras.Model,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Maps:
    """SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825): the mean gradient under noise, of its greatest channel.

    0 and above: it shows where the score is sensitive, not which way.  noise: standard deviation, as a share of 255.
    """
    require("samples", samples, 1)
    draws = np.random.default_rng(seed)
    total = np.zeros_like(images)
    for _ in range(samples):
        noisy = images + draws.normal(0, noise * 255, images.shape).astype("float32")
        total += _pixel_slopes(model, noisy, targets)
    return np.abs(total / samples).max(axis=-1)


Method = Literal["grad_cam", "grad_cam_pp", "hires_cam", "integrated_gradients", "smooth_grad", "occlusion"]

METHODS: Mapping[str, Callable[..., Maps]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "hires_cam": hires_cam,
    "integrated_gradients": integrated_gradients,
    "smooth_grad": smooth_grad,
    "occlusion": occlusion,
}
"""Name -> method. All but `occlusion` take a Keras model first; that one takes a function to probabilities."""


def method_named(name: str, options: Mapping[str, Any]) -> Callable[..., Maps]:
    """Looks up a method by name; CallError for an unknown method or option."""
    if name not in METHODS:
        raise CallError(f"method: no '{name}'{nearest(name, METHODS)} (methods: {', '.join(METHODS)})")
    takes = [
        parameter.name
        for parameter in inspect.signature(METHODS[name]).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in takes:
            raise CallError(f"{name} has no option '{option}'{nearest(option, takes)} (options: {', '.join(takes)})")
    return METHODS[name]


def _features(
    model: keras.Model, images: np.ndarray, targets: np.ndarray, name: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The map that a layer gives for the images, (N, h, w, C), and the score's gradient with respect to it.

    Of a layer that runs several times in one model, the last time counts.
    """
    layer = map_layer(model, name)

    def score() -> Any:
        return _score(model, keras.ops.convert_to_tensor(images), targets)

    at_map = slope_on_the_way if keras.backend.backend() == "tensorflow" else _slope_of_a_zero
    return at_map(layer, score)


def _slope_of_a_zero(layer: Any, score: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """A layer's last output, and a score's gradient with respect to a zero that is added to it: on any backend."""
    seen: list[Any] = []

    def look(output: Any) -> Any:
        seen.append(output)
        return output

    with keras.StatelessScope(), changed(layer, look):
        score()
    times, shape = len(seen), tuple(seen[-1].shape)

    def scores(added: Any) -> tuple[Any, Any]:
        seen.clear()

        def add(output: Any) -> Any:
            seen.append(output)
            return output + keras.ops.cast(added, output.dtype) if len(seen) == times else output

        with changed(layer, add):
            return score(), keras.ops.cast(seen[-1], "float32")

    found = gradient(scores, np.zeros(shape, dtype=np.float32))
    return found.further, found.gradient


def _pixel_slopes(model: keras.Model, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The score's gradient with respect to the pixels."""

    def scores(tensor: Any) -> tuple[Any, Any]:
        score = _score(model, tensor, targets)
        return score, score

    return gradient(scores, images).gradient


def _score(model: keras.Model, images: Any, targets: np.ndarray) -> Any:
    """Each image's score of its class before the softmax or the sigmoid, (N,).

    Of two classes with one output the first one's is the output with its sign changed.
    """
    with without_squashing(model):
        outputs = keras.ops.cast(model(images, training=False), "float32")
    chosen = np.eye(max(2, outputs.shape[-1]), dtype=np.float32)[targets]
    if outputs.shape[-1] == 1:
        chosen = chosen[:, 1:] - chosen[:, :1]
    return keras.ops.sum(outputs * keras.ops.convert_to_tensor(chosen), axis=-1)


def _on_image(maps: np.ndarray, images: np.ndarray) -> Maps:
    """Coarse maps (N, h, w) at the images' size, bilinear."""
    height, width = images.shape[1:3]
    size = (width, height)
    bilinear = PIL.Image.Resampling.BILINEAR
    return np.stack([np.asarray(PIL.Image.fromarray(each).resize(size, bilinear)) for each in maps.astype("float32")])


def _positive(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


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
