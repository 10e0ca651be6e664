"""The forward pass that all share is that of `predict`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasimg.models import compiled_predict
from kerasimg.models.compiled_predict import answers, final_outputs_of, forward, images_at_once, in_batches, outputs_of

layers = keras.layers


@pytest.fixture
def model() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 8, 8, 3)).astype("float32")


def test_it_gives_what_predict_gives_for_any_number_of_images(model: keras.Model):
    for count in (1, 5, 130):
        wanted = model.predict(images(count), verbose=0)
        np.testing.assert_allclose(answers(model, images(count)), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras' own is used")
def test_a_cpu_computes_so_many_images_at_once_that_their_values_stay_small(model: keras.Model, monkeypatch):
    values = max(8 * 8 * 3, 6 * 6 * 4)  # of an image, and of the convolution
    assert images_at_once(model) == 64
    assert images_at_once(keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])) == 64
    for largest, wanted in ((1, 1), (4 * 4 * values, 4), (4 * 7 * values, 4), (4 * 8 * values, 8)):
        monkeypatch.setattr(compiled_predict, "LARGEST", largest)
        assert images_at_once(model) == wanted
    assert forward(model)(images(0)).shape == (0, 3)
    for count in (1, 8, 21):
        found = forward(model)(images(count))
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, np.asarray(model(images(count), training=False)), rtol=1e-5, atol=1e-7)


def test_it_takes_batches_with_and_without_labels(model: keras.Model):
    alone = tf.data.Dataset.from_tensor_slices(images(5)).batch(2)
    labelled = tf.data.Dataset.from_tensor_slices((images(5), np.zeros(5))).batch(2)
    wanted = model.predict(images(5), verbose=0)
    for batches in (alone, labelled):
        np.testing.assert_allclose(answers(model, batches), wanted, rtol=1e-5, atol=1e-7)


def test_weights_that_change_later_count(model: keras.Model):
    assert not np.allclose(forward(model)(images(2)), 1 / 3)
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(forward(model)(images(2)), 1 / 3, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras' own is used")
def test_it_is_compiled_once():
    runs: list[int] = []
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Lambda(lambda pixels: runs.append(1) or layers.Flatten()(pixels))(image))
    runs.clear()
    assert outputs_of(model) is outputs_of(model)
    for count in (1, 2, 3):
        assert forward(model)(images(count)).shape == (count, 192)
    assert len(runs) == 1


def test_a_model_that_was_asked_is_saved_without_it(model: keras.Model, tmp_path):
    forward(model)(images(2))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(answers(again, images(2)), answers(model, images(2)), rtol=1e-6)


@pytest.mark.parametrize("working", ["float32", "bfloat16"])
def test_the_pass_of_final_weights_gives_every_output_of_predict(model: keras.Model, working):
    image = keras.Input((8, 8, 3))
    shown = layers.RandomFlip("horizontal", seed=0)(image)  # applied by default
    both = keras.Model(image, [model(shown), layers.GlobalAveragePooling2D()(layers.RandomBrightness(0.9)(image))])
    pixels = images(70)
    wanted = both.predict(pixels, verbose=0)
    found = in_batches(final_outputs_of(both, working), pixels)
    assert [array.dtype for array in found] == [np.float32] * 2
    near = {"rtol": 1e-5, "atol": 1e-6} if working == "float32" else {"rtol": 0.01, "atol": 0.02}
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, **near)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras' own is used")
def test_final_weights_become_constants_where_a_normalization_is_folded(model: keras.Model, monkeypatch):
    folded = final_outputs_of(model)
    before = folded(images(2))[0]
    assert final_outputs_of(model) is not outputs_of(model)
    convolution = model.layers[1]
    convolution.set_weights([0 * weight for weight in convolution.get_weights()])
    np.testing.assert_array_equal(folded(images(2))[0], before)
    assert not np.allclose(forward(model)(images(2)), before)
    plain = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])
    assert final_outputs_of(plain) is outputs_of(plain)
    mixed = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, dtype="mixed_bfloat16")])
    assert final_outputs_of(mixed) is outputs_of(mixed)
    monkeypatch.setattr(compiled_predict, "MOST_FOLDED", 10)
    assert final_outputs_of(model) is outputs_of(model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own warning")
def test_many_models_in_one_process_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture):
    for _ in range(8):
        small = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
        answers(small, np.zeros((1, 2, 2, 1)))
    assert "retracing" not in caplog.text
