"""The steps of int8 quantization that are ours: rounding, ranges, copies, and operations that stay in float32."""

import keras
import numpy as np
import pytest

from kerasimg.deploy import litert_file, quantization
from kerasimg.deploy.export_context import Options
from kerasimg.deploy.targets import target

RANDOM = np.random.default_rng(0)


def test_rounding_with_compensation_changes_outputs_less_than_rounding_to_the_nearest():
    weights = RANDOM.normal(size=(1, 6, 20)).astype("float32")
    inputs = RANDOM.normal(size=(20, 3)) @ RANDOM.normal(size=(3, 400)) + 0.1 * RANDOM.normal(size=(20, 400))
    rounded = quantization.round_weights(weights, (inputs @ inputs.T)[np.newaxis])
    largest = np.abs(weights).max(axis=-1, keepdims=True)
    step = largest / 127
    np.testing.assert_allclose(rounded / step, np.round(rounded / step), atol=1e-3)
    np.testing.assert_array_equal(np.abs(rounded).max(axis=-1, keepdims=True), largest)
    errors = [np.square((other - weights)[0] @ inputs).mean() for other in (rounded, np.round(weights / step) * step)]
    assert errors[0] < 0.3 * errors[1]


def write(model, tmp_path, activation=None, count=12):
    """An int8 file, its images, and the logits of file and model."""
    images = [RANDOM.uniform(0, 255, (1, *model.input_shape[1:])).astype("float32") for _ in range(count)]
    extremes = [np.zeros_like(images[0]), np.full_like(images[0], 255)]
    options = Options(input_dtype="float32", activation=activation)
    path = tmp_path / "model.tflite"
    target("litert").convert(
        model,
        [keras.InputSpec("float32", (1, *model.input_shape[1:]))],
        path,
        "int8",
        options,
        lambda: [*extremes, *images],
    )
    content = path.read_bytes()
    return content, quantization.run(content, images), np.concatenate([model(image) for image in images])


def test_values_that_an_operation_overwrites_keep_their_own_range(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.flip(inputs, axis=-1) - np.array([103.0, 116.0, 123.0], "float32")
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    _, found, expected = write(model, tmp_path)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_operations_that_change_too_many_decisions_stay_in_float32(tmp_path):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    first = keras.layers.Dense(8)
    x = first(x)
    # One output is 2,000 times as large as the others, which a single scale for all loses.
    kernel, bias = first.get_weights()
    first.set_weights([kernel * np.array([2e3] + [1] * 7, "float32"), bias])
    last = keras.layers.Dense(3)
    model = keras.Model(inputs, last(x))
    last.set_weights([last.get_weights()[0] * np.array([[0]] + [[1]] * 7, "float32"), last.get_weights()[1]])
    plain, *_ = write(model, tmp_path)
    content, found, expected = write(model, tmp_path, activation="softmax", count=40)
    assert not litert_file.float_operations(plain)
    assert litert_file.float_operations(content)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= quantization.AGREE


def test_rounding_needs_as_many_moments_as_weights():
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        quantization.round_weights(np.ones((1, 2, 3), "float32"), np.ones((1, 4, 4)))
