"""Quantization-aware training: the model trains with the rounding of int8, and is saved without it."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.training.quantization_aware import RoundedValues, round_kernel, straight_through, with_rounding


def network() -> keras.Model:
    pixels = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(pixels)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([x, keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(x))


def test_a_kernel_is_rounded_to_127_steps_of_each_output_channel():
    kernel = np.array([[127.0, 1.0], [0.4, 0.0021]], "float32")
    rounded = ops.convert_to_numpy(round_kernel(ops.convert_to_tensor(kernel), (-1,)))
    np.testing.assert_allclose(rounded, [[127.0, 1.0], [0.0, 0.0]], atol=1e-6)


def test_values_are_rounded_to_256_steps_of_which_zero_is_one():
    values = np.array([[-51.0, 0.0, 0.3, 0.7, 204.0]], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(RoundedValues()(values)), [[-51, 0, 0, 1, 204]], atol=1e-5)


def test_values_that_an_int8_runtime_stores_are_rounded_and_those_inside_of_a_fused_operation_are_not():
    model = network()
    rounded = with_rounding(model)
    names = [type(layer).__name__ for layer in rounded.layers]
    assert names.count("RoundedKernel") == 3
    assert names.count("RoundedValues") == 4  # after ReLU, the depthwise layer, Add and the pooling
    assert [id(weight) for weight in rounded.weights] == [id(weight) for weight in model.weights]
    x = np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype("float32")
    difference = np.abs(ops.convert_to_numpy(model(x)) - ops.convert_to_numpy(rounded(x))).max()
    assert 0 < difference < 0.02


def test_the_gradient_passes_the_rounding():
    model = network()
    rounded = with_rounding(model)
    rounded.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    before = model.get_weights()
    x = np.random.default_rng(0).uniform(0, 1, (8, 6, 6, 3)).astype("float32")
    rounded.train_on_batch(x, np.arange(8) % 3)
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    assert float(ops.convert_to_numpy(straight_through(ops.convert_to_tensor(0.4), ops.round(0.4)))) == 0


def test_a_run_saves_the_plain_model(tiny: Any, colours: Any, tmp_path: Any):
    run = kerasimg.train(
        tiny(fit={"batch_size": 8, "stages": [{"epochs": 1}], "quantization_aware": True}),
        data=colours,
        out=tmp_path,
        report=False,
        verbose=0,
    )
    plain = kerasimg.build(tiny(), num_classes=3)
    assert [type(layer) for layer in run.model.layers] == [type(layer) for layer in plain.layers]


def test_cached_features_exclude_it(tiny: Any, colours: Any, tmp_path: Any):
    spec = tiny(fit={"features": "cached", "quantization_aware": True})
    with pytest.raises(SpecError, match=r'fit\.quantization_aware: cannot go with features: "cached"'):
        kerasimg.train(spec, data=colours, out=tmp_path)
