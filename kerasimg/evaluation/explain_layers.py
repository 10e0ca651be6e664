"""Reads inside of a trained model: the layer to explain, its output, and the score before the softmax.

A model is looked into while it runs, not cut in two: a layer's `call` is replaced for the time of one call of the
model. So it makes no difference whether the layer is in the model itself or in a backbone inside of it, and what
leads past the layer (a shortcut, a second branch) still counts. Who does so holds `MODEL_LOCK`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kerasimg.errors import CallError, counted, listed, nearest
from kerasimg.keras_internals import call_behind, replaced
from kerasimg.models.output_kind import output_kind

UNLEARNED = ("InputLayer", "Rescaling", "Normalization", "Resizing")
"""Layers that see the image, and in which nothing of the classes is."""
PASSING = (
    *("MaxPooling2D", "AveragePooling2D", "BlurPool", "Dropout", "SpatialDropout2D", "DropPath"),
    *("ZeroPadding2D", "Cropping2D", "Identity", "ActivityRegularization"),
)
"""Layers that only hand on, coarser, what the one before them found."""
ATTENTIONS = ("MultiHeadAttention", "SelfAttention", "AttentionPooling", "SequencePooling")
"""Layers that mix the tokens of a whole image."""


def leaves(model: Any) -> Iterator[Any]:
    """The layers of a model in the order in which they run, those of nested models in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def map_layer(model: keras.Model, name: str | None = None) -> Any:
    """The layer of that name, or the last whose output is a map, (N, H, W, C), before pooling.

    Of a model that looks at the image as tokens, (N, T, C), it is the layer whose tokens the last attention reads:
    after that one the score may depend on the class token alone. Without attention it is the last layer of tokens.
    CallError when the model has none: it pools before it learns anything.
    """
    if name is not None:
        return _named(model, name)
    layers = list(leaves(model))
    maps = [place for place, layer in enumerate(layers) if is_map(layer)]
    learned = [place for place, layer in enumerate(layers) if _kind(layer) not in UNLEARNED and layer.weights]
    suitable = [place for place in maps if learned and place >= learned[0] and _kind(layers[place]) not in PASSING]
    if any(is_tokens(layer) for layer in layers[suitable[-1] + 1 if suitable else 0 :]):
        return _token_layer(model, layers)
    if not suitable:
        raise CallError(
            f"'{model.name}' keeps no map of the image up to its head, so there is nothing for a CAM to show; "
            "use 'integrated_gradients', 'smooth_grad' or 'occlusion', or name a layer with an output (N, H, W, C)"
        )
    return layers[suitable[-1]]


def _token_layer(model: keras.Model, layers: list[Any]) -> Any:
    """The layer of tokens that a CAM shows."""
    place = max((place for place, layer in enumerate(layers) if _kind(layer) in ATTENTIONS), default=len(layers))
    layer = next(layer for layer in reversed(layers[:place]) if is_tokens(layer))
    token_grid(model, layer.output.shape[1])
    return layer


def token_grid(model: keras.Model, tokens: int) -> tuple[int, int]:
    """The rows and columns of the tokens that are places of the image; they are the last, after those of class tokens.

    CallError if nothing says what they are.
    """
    grids = []
    for layer in leaves(model):
        if _kind(layer) == "PatchEmbed":
            sides = zip(layer.input.shape[1:3], layer.patch_size, strict=True)
            grids.append(tuple(side // patch for side, patch in sides))
        elif is_map(layer):
            grids.append(tuple(layer.output.shape[1:3]))
    for rows, columns in reversed(grids):
        if rows * columns <= tokens < 2 * rows * columns:
            return rows, columns
    raise CallError(
        f"'{model.name}': nothing says which places of the image its {counted(tokens, 'token', 'are')}, so there is "
        "nothing to show; use 'integrated_gradients', 'smooth_grad' or 'occlusion'"
    )


def is_map(layer: Any) -> bool:
    """Whether a layer gives a map: (N, H, W, C) of more than one place."""
    shape = _output_shape(layer)
    return len(shape) == 4 and (shape[1] or 2) * (shape[2] or 2) > 1


def _named(model: keras.Model, name: str) -> Any:
    named = {layer.name: layer for layer in [*_nested(model), *leaves(model)]}
    if name not in named:
        maps = listed(layer.name for layer in reversed(list(leaves(model))) if is_map(layer))
        raise CallError(
            f"layer: the model has no layer '{name}'{nearest(name, named)} (with a map, last first: {maps})"
        )
    if is_tokens(named[name]):
        token_grid(model, named[name].output.shape[1])
    elif not is_map(named[name]):
        shape = "x".join(str(side or "?") for side in _output_shape(named[name])[1:])
        raise CallError(f"layer: '{name}' gives {shape or 'no tensor'}; expected a map (H, W, C) of several places")
    return named[name]


def _nested(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield layer
            yield from _nested(layer)


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _output_shape(layer: Any) -> tuple[Any, ...]:
    try:
        return tuple(layer.output.shape)
    except (AttributeError, ValueError):  # several outputs, or never called
        return ()


def is_tokens(layer: Any) -> bool:
    """Whether a layer gives several tokens, (N, T, C)."""
    shape = _output_shape(layer)
    return len(shape) == 3 and (shape[1] or 2) > 1


@contextmanager
def changed(layer: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    """Context in which a layer returns `change(output)` instead of its output."""
    call = layer.call
    with replaced(layer, "call", lambda *args, **kwargs: change(call(*args, **kwargs))):
        yield


@contextmanager
def without_squashing(model: keras.Model) -> Iterator[None]:
    """Context in which a model returns the logits before its last softmax or sigmoid.

    A softmax that is nearly sure has a gradient of nearly zero, and it falls when another class is less likely; the
    papers explain the score before it.
    """
    if output_kind(model) == "logits":
        yield
        return
    layer = call_behind(model.outputs[0]).operation
    name = "call" if isinstance(layer, keras.layers.Softmax) else "activation"
    with replaced(layer, name, lambda inputs, *args, **kwargs: inputs):
        yield
