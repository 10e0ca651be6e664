"""The steps of int8 quantization that are ours: rounding, ranges, copies, and operations that stay in float32."""

import keras
import numpy as np
import pytest

from kerasimg import layers
from kerasimg.deploy import litert_file, quantization
from kerasimg.deploy.export_context import Fallback, Options
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.quiet import silence
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


def write(model, tmp_path, agree=None, count=12):
    """A LiteRT int8 file, and the logits of file and model.  agree: share of decisions that must be the same."""
    images = [RANDOM.uniform(0, 255, (1, *model.input_shape[1:])).astype("float32") for _ in range(count)]
    extremes = [np.zeros_like(images[0]), np.full_like(images[0], 255)]
    fallback = None if agree is None else Fallback("softmax", lambda: iter(images), agree)
    options = Options(input_dtype="float32", fallback=fallback)
    path = tmp_path / "model.tflite"
    target("litert").convert(
        model,
        [keras.InputSpec("float32", (1, *model.input_shape[1:]))],
        path,
        "int8",
        options,
        lambda: ([image] for image in [*extremes, *images]),
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


def test_division_stays_in_float32_wherever_it_stands(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)  # whose output is int8; of an image it is not
    model = keras.Model(inputs, keras.layers.Dense(3)(layers.GeMPooling2D()(x)))
    _, found, expected = write(model, tmp_path)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def unbalanced():
    """A model with one value that is 2,000 times as large as its neighbours, which a single scale for all loses."""
    inputs = keras.Input((4, 4, 3))
    first, last = keras.layers.Dense(8), keras.layers.Dense(3)
    model = keras.Model(inputs, last(first(keras.layers.Flatten()(inputs))))
    kernel, bias = first.get_weights()
    first.set_weights([kernel * np.array([2e3] + [1] * 7, "float32"), bias])
    kernel, bias = last.get_weights()
    last.set_weights([kernel * np.array([[0]] + [[1]] * 7, "float32"), bias])
    return model


def test_operations_that_change_too_many_decisions_stay_in_float32(tmp_path):
    model = unbalanced()
    plain, *_ = write(model, tmp_path)
    content, found, expected = write(model, tmp_path, agree=0.99, count=40)
    assert not litert_file.float_operations(plain)
    assert litert_file.float_operations(content)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.99


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_other_targets_keep_operations_in_float32_too(name, tmp_path):
    model = unbalanced()
    images = RANDOM.uniform(0, 255, (30, 1, 4, 4, 3)).astype("float32")
    expected = np.concatenate([model(image) for image in images]).argmax(-1)
    agreement = {}
    for agree in (None, 0.99):
        path = tmp_path / target(name).path_of("int8")
        options = Options(fallback=agree and Fallback("softmax", lambda: iter(images), agree))
        with silence(lambda error: True):
            target(name).convert_model(model, path, "int8", options, [images[:, 0]])
        file = ModelFile(path=path.name, runtime=name, precision="int8", input_dtype="float32", batch=1)
        runtime = target(name).runtime(path, file)
        outputs = np.concatenate([runtime.run(image)[0] for image in images])
        agreement[agree] = (outputs.argmax(-1) == expected).mean()
    assert agreement[None] < 0.9
    assert agreement[0.99] >= 0.99


@pytest.mark.parametrize("outlier", [0, 5, 11])
def test_the_operation_that_changes_the_outputs_is_found_and_the_others_are_quantized(outlier):
    def make(kept):
        return [0.0 if place in kept else 3.0 if place == outlier else 0.001 for place in range(30)]

    def run(model, images):
        return np.stack([image + np.array([sum(model), 0.0]) for image in images])

    images = [np.array([-1.0, 1.0]) + shift for shift in RANDOM.normal(size=(50, 1))]
    fallback = Fallback("softmax", lambda: iter(images), 1.0)
    model = quantization.keep_in_float32(make, run, range(30), [0.0] * 30, fallback)
    assert [place for place, error in enumerate(model) if error == 0] == [outlier]


def test_rounding_needs_as_many_moments_as_weights():
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        quantization.round_weights(np.ones((1, 2, 3), "float32"), np.ones((1, 4, 4)))
