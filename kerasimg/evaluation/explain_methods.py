"""The methods of `kerasimg.explain`: a model, images and a class for each -> heat maps.

Each returns what speaks for the class at every pixel, (N, H, W) float32, on no particular scale; what speaks against
it is negative, or 0 where the method says so.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import keras
import numpy as np
import PIL.Image

from kerasimg.errors import CallError, listed, nearest
from kerasimg.evaluation.explain_layers import changed, is_tokens, leaves, map_layer, token_grid, without_squashing
from kerasimg.evaluation.occlusion import occlusion, require
from kerasimg.keras_internals import replaced
from kerasimg.layers import SelfAttention

Maps = np.ndarray


def grad_cam(model: keras.Model, images: np.ndarray, targets: np.ndarray, *, layer: str | None = None) -> Maps:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): channels weighed by their mean gradient; 0 and above.

    layer: name of a layer with an output (N, H, W, C), or of tokens (N, T, C). None: the last one before pooling; of
    tokens, the one that the last attention reads.
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
    slopes = _pixel_slopes(model, targets)
    for step in range(steps):
        total += slopes(np.float32(baseline) + way * np.float32((step + 0.5) / steps)).gradient
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
    slopes = _pixel_slopes(model, targets)
    for _ in range(samples):
        noisy = images + draws.normal(0, noise * 255, images.shape).astype("float32")
        total += slopes(noisy).gradient
    return np.abs(total / samples).max(axis=-1)


def attention_rollout(model: keras.Model, images: np.ndarray, targets: np.ndarray) -> Maps:
    """Attention rollout (Abnar, Zuidema 2020, arXiv:2005.00928): how far each token reaches the output; 0 and above.

    The attention of each layer, averaged over its heads, with the shortcut around it, multiplied from layer to layer.
    It shows where the network looks, for any class: `targets` makes no difference.
    """
    attentions = _attentions(model, images)
    if not attentions:
        raise CallError(f"'{model.name}' has no attention among all tokens of an image; use 'grad_cam' or 'occlusion'")
    rollout = np.eye(attentions[0].shape[-1])[np.newaxis]
    for weights in attentions:
        both = weights.mean(axis=1) + np.eye(weights.shape[-1])
        rollout = (both / both.sum(axis=-1, keepdims=True)) @ rollout
    rows, columns = token_grid(model, rollout.shape[-1])
    extra = rollout.shape[-1] - rows * columns
    takes_token = extra and any(type(layer).__name__ == "TakeToken" for layer in leaves(model))
    reached = rollout[:, 0] if takes_token else rollout[:, extra:].mean(axis=1)
    return _on_image(reached[:, extra:].reshape(-1, rows, columns), images)


def _attentions(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """The weights of each attention among all tokens, (N, heads, T, T), in the order in which they run."""
    found: list[np.ndarray] = []

    def record(weights: Any) -> Any:
        found.append(np.asarray(keras.ops.convert_to_numpy(weights), dtype="float64"))
        return weights

    def with_scores(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            output, weights = call(*args, **{**kwargs, "return_attention_scores": True})
            record(weights)
            return output

        return called

    with contextlib.ExitStack() as stack:
        for layer in leaves(model):
            if isinstance(layer, keras.layers.MultiHeadAttention):
                stack.enter_context(replaced(layer, "call", with_scores(layer.call)))
            elif isinstance(layer, SelfAttention):
                stack.enter_context(changed(layer.dropping, record))
        model(keras.ops.convert_to_tensor(images), training=False)
    return found


METHODS: Mapping[str, Callable[..., Maps]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "hires_cam": hires_cam,
    "integrated_gradients": integrated_gradients,
    "smooth_grad": smooth_grad,
    "occlusion": occlusion,
    "attention_rollout": attention_rollout,
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
            raise CallError(
                f"{name} has no option '{option}'{nearest(option, takes)} (options: {listed(takes) or 'none'})"
            )
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

    if keras.backend.backend() == "tensorflow":
        features, slopes = slope_on_the_way(layer, score)
    else:
        features, slopes = _slope_of_a_zero(model, layer, score)
    if not is_tokens(layer):
        return features, slopes
    rows, columns = token_grid(model, features.shape[1])
    extra = features.shape[1] - rows * columns
    features, slopes = (each[:, extra:].reshape(len(each), rows, columns, -1) for each in (features, slopes))
    return features, slopes


def _slope_of_a_zero(model: keras.Model, layer: Any, score: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """A layer's last output, and a score's gradient with respect to a zero that is added to it: on any backend."""
    seen: list[Any] = []

    def look(output: Any) -> Any:
        seen.append(output)
        return output

    with keras.StatelessScope(), changed(layer, look):
        if keras.backend.backend() == "jax":
            import_module("jax").eval_shape(score)  # compiles nothing
        else:
            score()
    times, shape = len(seen), tuple(seen[-1].shape)

    def scores(added: Any) -> tuple[Any, Any]:
        seen.clear()

        def add(output: Any) -> Any:
            seen.append(output)
            return output + keras.ops.cast(added, output.dtype) if len(seen) == times else output

        with changed(layer, add):
            return score(), keras.ops.cast(seen[-1], "float32")

    found = gradient(scores, model)(np.zeros(shape, dtype=np.float32))
    return found.further, found.gradient


def _pixel_slopes(model: keras.Model, targets: np.ndarray) -> Callable[[np.ndarray], Slope]:
    """A function from images to the score's gradient with respect to the pixels."""

    def scores(tensor: Any) -> tuple[Any, Any]:
        score = _score(model, tensor, targets)
        return score, score

    return gradient(scores, model)


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


def gradient(function: Function, model: keras.Model) -> Callable[[np.ndarray], Slope]:
    """The function from a tensor to the scores and their gradient; CallError on a backend without gradients.

    model: that the function calls.
    """
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise CallError(f"the backend '{backend}' has no gradients ({known} have); method='occlusion' needs none")
    differentiated = BACKENDS[backend](function, model)
    as_array = keras.ops.convert_to_numpy

    def slope_at(tensor: np.ndarray) -> Slope:
        scores, slope, further = differentiated(np.asarray(tensor, dtype=np.float32))
        slope = np.zeros_like(tensor) if slope is None else as_array(slope)
        return Slope(*(np.asarray(each, dtype=np.float32) for each in (as_array(scores), slope, as_array(further))))

    return slope_at


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


Differentiated = Callable[[np.ndarray], tuple[Any, Any, Any]]
"""A tensor -> scores, gradient, and the further tensor."""


def _tensorflow(function: Function, model: keras.Model) -> Differentiated:
    tensorflow = import_module("tensorflow")

    def run(at: np.ndarray) -> tuple[Any, Any, Any]:
        tensor = tensorflow.convert_to_tensor(at)
        with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensor)
            scores, further = function(tensor)
        return scores, tape.gradient(scores, tensor), further

    return run


def _jax(function: Function, model: keras.Model) -> Differentiated:
    """Compiled once for all tensors of a shape: JAX otherwise compiles each operation by itself."""

    def total(tensor: Any, values: Any) -> tuple[Any, Any]:
        # The weights are arguments: as constants they would be compiled into the function. What a layer would write
        # into its variables while it is traced must not stay there.
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            scores, further = function(tensor)
        return scores.sum(), (scores, further)

    jax = import_module("jax")
    slope_of = jax.jit(jax.grad(total, has_aux=True))

    def run(at: np.ndarray) -> tuple[Any, Any, Any]:
        slope, (scores, further) = slope_of(at, [variable.value for variable in model.variables])
        return scores, slope, further

    return run


def _torch(function: Function, model: keras.Model) -> Differentiated:
    torch = import_module("torch")

    def run(at: np.ndarray) -> tuple[Any, Any, Any]:
        tensor = keras.ops.convert_to_tensor(at).detach().clone().requires_grad_(True)
        with torch.enable_grad():
            scores, further = function(tensor)
            (slope,) = torch.autograd.grad(scores.sum(), tensor, allow_unused=True)
        return scores, slope, further

    return run


BACKENDS: dict[str, Callable[[Function, keras.Model], Differentiated]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
"""Backend -> what differentiates on it."""
