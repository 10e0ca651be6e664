"""Folded and unfolded, by TensorFlow's operations and by Keras' layers: the same numbers."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasimg.layers import SqueezeExcite
from kerasimg.models.flat_graph import flatten
from kerasimg.models.lowering import FOLDING, LOWERED, Program, lower
from kerasimg.models.split_model import DROPPING

layers = keras.layers


def made(*chain: Any) -> keras.Model:
    image = keras.Input((9, 9, 3))
    x = image
    for layer in chain:
        x = layer(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(1)
    for weight in model.weights:
        low = 0.3 if "variance" in weight.path else -1.0
        weight.assign(random.uniform(low, 1.5, weight.shape))
    return model


def compare(model: keras.Model, tolerance: float = 1e-5) -> Program:
    x = np.random.default_rng(0).uniform(0, 255, (2, 9, 9, 3)).astype("float32")
    program = lower(flatten(model))
    (found,) = tf.function(lambda x: program(x))(x)
    wanted = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(found.numpy(), wanted, atol=tolerance * np.abs(wanted).max())
    return program


CHAINS: dict[str, tuple[Any, int]] = {
    "a convolution without bias": (lambda: [layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization()], 1),
    "with bias and strides": (lambda: [layers.Conv2D(4, 3, strides=2, padding="same"), layers.BatchNormalization()], 1),
    "dilated": (lambda: [layers.Conv2D(4, 3, dilation_rate=2), layers.BatchNormalization(scale=False)], 1),
    "depthwise": (
        lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2), layers.BatchNormalization(), layers.ReLU(6)],
        1,
    ),
    "separable": (lambda: [layers.SeparableConv2D(4, 3, padding="same"), layers.BatchNormalization(center=False)], 1),
    "dense": (lambda: [layers.Flatten(), layers.Dense(4), layers.BatchNormalization(), layers.Activation("gelu")], 1),
    "dense on places": (lambda: [layers.Dense(4), layers.BatchNormalization()], 1),
    "an activation between": (lambda: [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()], 0),
    "a pooling between": (lambda: [layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.BatchNormalization()], 0),
    "before the convolution": (lambda: [layers.BatchNormalization(), layers.Conv2D(4, 3)], 0),
    "two, one after the other": (
        lambda: [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.BatchNormalization()],
        1,
    ),
    "in groups": (lambda: [layers.Rescaling(1 / 255), layers.Conv2D(6, 3, groups=3), layers.Dropout(0.5)], 0),
    "in groups, normalized": (lambda: [layers.Conv2D(6, 3, groups=3), layers.BatchNormalization()], 0),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_normalization_is_folded_where_it_follows_a_kernel_and_nowhere_else(name: str):
    chain, folded = CHAINS[name]
    assert compare(made(*chain())).folded == folded


def test_a_normalization_is_not_folded_where_the_value_before_it_is_wanted_too():
    image = keras.Input((9, 9, 3))
    x = layers.Conv2D(4, 3)(image)
    model = keras.Model(image, layers.Add()([x, layers.BatchNormalization()(x)]))
    assert compare(model).folded == 0


OTHERS = [
    layers.Rescaling(1 / 127.5, -1),
    layers.Rescaling([1.0, 2.0, 3.0], offset=[0.0, -1.0, 1.0]),
    layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
    layers.AveragePooling2D(3, strides=2, padding="same"),
    layers.MaxPooling2D(2),
    layers.ZeroPadding2D(((1, 0), (2, 3))),
    layers.GlobalMaxPooling2D(keepdims=True),
    layers.GlobalAveragePooling2D(),
    layers.ReLU(6),
    layers.Reshape((27, 9)),
    layers.Identity(),
    *(layers.Activation(name) for name in ("silu", "hard_silu", "hard_sigmoid", "sigmoid", "tanh", "elu", "relu6")),
]


@pytest.mark.parametrize("layer", OTHERS, ids=lambda layer: f"{layer.name}")
def test_a_layer_of_the_table_computes_what_keras_computes(layer: Any):
    program = compare(made(layer))
    assert program.called == ()
    assert type(layer) in LOWERED


def test_every_entry_of_the_table_was_compared():
    chained = {type(layer) for chain, _ in CHAINS.values() for layer in chain()}
    merged = {layers.Add, layers.Multiply, layers.Maximum, layers.Concatenate}
    assert set(LOWERED) == {type(one) for one in OTHERS} | chained | merged | set(FOLDING) | set(DROPPING)


@pytest.mark.parametrize("merge", [layers.Add, layers.Multiply, layers.Maximum, layers.Concatenate])
def test_what_merges_takes_its_inputs_in_order(merge: Any):
    image = keras.Input((9, 9, 3))
    # With an offset: TensorFlow 2.21 on oneDNN takes maximum(x, 2 x) for a leaky ReLU and gets it wrong.
    model = keras.Model(image, merge()([image, layers.Rescaling(2.0, 1)(image), layers.Rescaling(-0.5, 1)(image)]))
    assert compare(model).called == ()


def test_a_layer_without_an_entry_is_called_itself():
    model = made(layers.Conv2D(8, 3, name="conv"), SqueezeExcite(name="squeeze"), layers.LeakyReLU(name="leaky"))
    assert compare(model).called == ("squeeze", "leaky")


def test_augmentation_within_the_model_does_nothing():
    augmenting = [layers.RandomFlip(seed=0), layers.RandomContrast(0.9, seed=0), layers.GaussianNoise(0.9, seed=0)]
    assert len(compare(made(*augmenting, layers.Conv2D(8, 3))).called) == 3


def test_a_layer_with_a_kernel_in_int8_is_called_itself():
    model = made(layers.Conv2D(8, 3), layers.BatchNormalization(), layers.Dense(4, name="dense"))
    model.get_layer("dense").quantize("int8")
    program = compare(model)
    assert (program.called, program.folded) == (("dense",), 1)


def test_bfloat16_is_near():
    model = made(*(layers.Conv2D(8, 3, activation="relu") for _ in range(4)))
    x = np.random.default_rng(0).uniform(0, 1, (2, 9, 9, 3)).astype("float32")
    (found,) = lower(flatten(model), "bfloat16")(x)
    wanted = keras.ops.convert_to_numpy(model(x))
    assert found.dtype == tf.float32
    error = np.abs(found.numpy() - wanted).max() / np.abs(wanted).max()
    assert 0 < error < 0.02
