"""Test-time flip: the answer is that for the image and for its mirror image, averaged; it takes twice the time.

Logits are averaged, so that a temperature and the logits of an int8 export mean the same as without. Everything else
that is known of an image (features, p-value) is of the image as it is.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.models.output_kind import OutputKind, output_kind
from kerasimg.models.temperature import symbolic_logits

PROBABILITIES = "probabilities"


def with_flips(model: keras.Model, kind: OutputKind | None = None) -> keras.Model:
    """A model with the same outputs, the first of which is averaged over each image and its mirror image.

    It shares the weights, and runs them once, on a batch of twice the size.

    Args:
        model: images (N, H, W, C) -> a classifier's output, alone, first in a list, or "probabilities" in a dict.
        kind: of that output, which stays of this kind; None: as the model shows.
    """
    kind = kind or output_kind(model)
    [entry] = model.inputs
    images = keras.Input(entry.shape[1:], dtype=entry.dtype, name="pixels")
    outputs = model(_WithMirrors(dtype=entry.dtype)(images), training=False)
    if isinstance(outputs, dict):
        found: Any = {name: _joined(value, kind if name == PROBABILITIES else None) for name, value in outputs.items()}
    elif isinstance(outputs, list | tuple):
        found = [_joined(value, kind if place == 0 else None) for place, value in enumerate(outputs)]
    else:
        found = _joined(outputs, kind)
    return keras.Model(images, found, name=model.name)


def _joined(values: Any, kind: OutputKind | None) -> Any:
    """One row for each image, of rows of images and mirror images.

    kind: of an output that is averaged; None: the row of the image itself.
    """
    if kind is None:
        return _OfImages(dtype="float32")(values)
    mean = _MeanOfBoth(dtype="float32")(symbolic_logits(values, kind))
    return mean if kind == "logits" else keras.layers.Activation(kind, dtype="float32", name=PROBABILITIES)(mean)


class _Resized(keras.layers.Layer):
    """A layer that changes the number of images only, whatever it is: JAX cannot divide an unknown number."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Any number of images."""
        return (None, *input_shape[1:])


class _WithMirrors(_Resized):
    """(N, H, W, C) -> (2 N, H, W, C): the images, and behind them their mirror images."""

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        return ops.concatenate([inputs, ops.flip(inputs, axis=2)], axis=0)


class _OfImages(_Resized):
    """(2 N, ...) -> (N, ...): the first half."""

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        return _halves(inputs)[0]


class _MeanOfBoth(_Resized):
    """(2 N, ...) -> (N, ...): the mean of the two halves."""

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        return ops.mean(_halves(inputs), axis=0)


def _halves(values: Any) -> Any:
    return ops.reshape(values, (2, -1, *values.shape[1:]))
