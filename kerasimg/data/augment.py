"""Keras' augmentation layers as one function of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kerasimg.errors import CallError

Augment = Callable[[Any, Any], tuple[Any, Any]]
"""(images, labels) -> (images, labels), in a graph of TensorFlow, whatever Keras' backend is."""


def make_augment(layers: Sequence[Any]) -> Augment:
    """A function that sends a batch through the layers, in their order, as in training.

    Images: (N, H, W, C) float32 of 0-255, clipped to that at the end: layers with a `value_range` need (0, 255).
    Labels pass unchanged but for MixUp and CutMix, which blend them and so need (N, K) floats. The layers' own seeds
    make it repeatable; give them some, or call keras.utils.set_random_seed before they are made.
    """
    import tensorflow as tf
    from keras import layers as keras_layers

    blending = (keras_layers.MixUp, keras_layers.CutMix)

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        for layer in layers:
            if isinstance(layer, blending):
                if len(labels.shape) != 2 or not labels.dtype.is_floating:
                    raise CallError(f"{type(layer).__name__} blends labels: use targets 'one_hot', not 'sparse'")
                blended = layer({"images": images, "labels": labels}, training=True)
                images, labels = blended["images"], blended["labels"]
            else:
                images = layer(images, training=True)
        return tf.clip_by_value(tf.cast(images, tf.float32), 0.0, 255.0), labels

    # As it stands, not rewritten by AutoGraph, which would wrap its errors.
    return tf.autograph.experimental.do_not_convert(augment)
