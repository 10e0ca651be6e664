"""Structured pruning: what is removed, and that the channels that remain are the right ones."""

from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError
from kerasimg.models.prune import prune

RANDOM = np.random.default_rng(0)


def residual() -> keras.Model:
    """Residual, depthwise, concatenated, squeezed and flattened channels in one small model."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = first = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.Conv2D(16, 1)(x)
    x = keras.layers.Add()([first, x])
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(16, 1, activation="sigmoid")(gate)])
    x = keras.layers.Concatenate()([x, keras.layers.Conv2D(24, 1, activation="relu")(x)])
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(4)(x))
    x = keras.layers.Dense(16, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def with_dead_channels(model: keras.Model) -> keras.Model:
    """Random weights; half of the outputs of each layer, the same ones everywhere, are 0 and nobody uses them."""
    for layer in model.layers:
        values = [RANDOM.uniform(0.1, 0.5, value.shape).astype("float32") for value in layer.get_weights()]
        if layer is not model.layers[-1] and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            values = [value * (np.arange(value.shape[-1]) % 2) for value in values]
        layer.set_weights(values)
    return model


def test_removed_channels_are_the_dead_ones_wherever_channels_are_added_or_joined():
    model = with_dead_channels(residual())
    for layer in model.layers:  # batch normalization and depthwise convolutions must not revive a dead channel
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, shift, mean, variance = layer.get_weights()
            dead = np.arange(len(scale)) % 2
            layer.set_weights([scale, shift * dead, mean * dead, variance])
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, bias * (np.arange(len(bias)) % 2)])
    spec, smaller = prune(model, 0.5)
    pixels = RANDOM.uniform(0, 1, (4, 8, 8, 3)).astype("float32")
    assert smaller.count_params() < 0.35 * model.count_params()
    np.testing.assert_allclose(smaller(pixels), model(pixels), rtol=1e-4, atol=1e-6)
    assert kerasimg.build(spec, weights=None).count_params() == smaller.count_params()


@pytest.mark.parametrize(("name", "params"), [("small_vit", {})])
def test_a_pruned_model_of_the_zoo_is_a_spec_with_the_same_output(name: str, params: dict[str, Any]):
    model = kerasimg.build(name, weights=None, params={"num_classes": 3, **params})
    spec, smaller = prune(model, 0.5, "smaller")
    assert (spec.name, smaller.output_shape) == ("smaller", model.output_shape)
    assert smaller.count_params() < 0.8 * model.count_params()


def test_a_model_without_removable_channels_is_refused():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    with pytest.raises(CallError, match="no channels that can be removed"):
        prune(model, 0.5)
