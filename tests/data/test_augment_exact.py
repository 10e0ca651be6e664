"""Each compiled layer against Keras' own, by the same random numbers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import keras
import keras.src.backend.tensorflow as keras_on_tensorflow
import numpy as np
import pytest
import tensorflow as tf

from kerasimg.data.augmentation.blend import CutMix
from kerasimg.data.augmentation.colour import PHOTOMETRIC
from kerasimg.data.augmentation.erase import Erasing
from kerasimg.data.augmentation.geometry import GEOMETRIC, Flip, Warp
from kerasimg.data.augmentation.operations import Operation
from kerasimg.data.augmentation.policies import PARTS, keras_aug_mix, keras_rand_augment

N = 12
SIZE = (13, 16)


class Numbers:
    """Keras' random numbers, taken from (N, columns) of [0, 1) in the order in which a layer draws."""

    def __init__(self, numbers: np.ndarray):
        self.columns: Iterator[np.ndarray] = iter(numbers.T)

    def uniform(self, shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
        shape = [int(side) for side in shape]
        count = int(np.prod(shape[1:])) if shape else 1
        if shape == [2]:
            # The two blurs of a batch of one.
            values = np.stack([next(self.columns)[0] for _ in range(2)])
        else:
            values = np.stack([next(self.columns) for _ in range(count)], axis=-1)
        values = minval + (maxval - minval) * values.astype("float32")
        return tf.constant(values.reshape(shape), tf.float32)

    def randint(self, shape: Any, minval: int, maxval: int, dtype: str, seed: Any = None) -> Any:
        values = minval + np.floor(next(self.columns) * (maxval - minval))
        return tf.constant(values.reshape(shape).astype(dtype))


class Backend:
    """Keras' functions for TensorFlow, except the random ones."""

    name = _backend = "tensorflow"

    def __init__(self, numbers: Numbers):
        self.random = SimpleNamespace(uniform=numbers.uniform, randint=numbers.randint)

    def __getattr__(self, name: str) -> Any:
        return getattr(keras_on_tensorflow, name)

    def set_backend(self, name: str) -> None:
        pass

    def reset(self) -> None:
        pass


def with_numbers(layer: Any, numbers: np.ndarray) -> Any:
    """The layer, on TensorFlow, drawing these numbers: (N, columns)."""
    backend = Backend(Numbers(numbers))
    for part in layer._flatten_layers():
        part.backend = backend
        part._get_seed_generator = lambda backend=None: None
    return layer


def as_keras(layer: Any, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """What the layer makes of the images by these numbers."""
    with_numbers(layer, numbers)
    images = tf.constant(images, tf.float32)
    return np.asarray(layer.transform_images(images, layer.get_random_transformation(images)))


def make_images(count: int = N, channels: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth noise, so that a difference of place is a difference of value, and not a larger one."""
    noise = np.random.default_rng(0).uniform(0, 255, (count, *size, channels))
    for axis in (1, 2):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3
    return np.round((noise - noise.min()) * 255 / np.ptp(noise)).astype("float32")


def random_numbers(count: int, columns: int, seed: int = 1) -> tuple[np.ndarray, Any]:
    """Numbers in [0, 1), (count, columns), and the words of which `draws.uniform` makes them."""
    whole = np.random.default_rng(seed).integers(0, 2**24, (count, columns))
    return whole / 2**24, tf.constant((whole << 8).astype(np.uint32))


def applied(operation: Operation, images: np.ndarray, words: Any) -> np.ndarray:
    """Image by image, as the compiled function does, but without compiling."""
    drawn = operation.draw(words)
    made = [
        operation.apply(tf.constant(image), tf.nest.map_structure(lambda row, k=k: row[k], drawn))
        for k, image in enumerate(images)
    ]
    return np.stack(made)


GEOMETRY = {
    "RandomFlip": [{}, {"mode": "horizontal"}, {"mode": "vertical"}],
    "RandomRotation": [
        {"factor": 0.1},
        {"factor": (0.2, 0.4), "fill_mode": "constant", "fill_value": 77.0},
        {"factor": 0.5, "fill_mode": "nearest"},
        {"factor": 0.3, "fill_mode": "wrap"},
        {"factor": 0.3, "interpolation": "nearest", "fill_mode": "constant"},
    ],
    "RandomTranslation": [
        {"height_factor": 0.2, "width_factor": 0.3},
        {"height_factor": (-1.0, 0.5), "width_factor": (0.2, 0.9), "fill_mode": "reflect"},
        {"height_factor": 1.0, "width_factor": 1.0, "fill_mode": "wrap"},
        {"height_factor": 0.4, "width_factor": 0.4, "fill_mode": "constant", "fill_value": 255.0},
        {"height_factor": 0.4, "width_factor": 0.4, "fill_mode": "nearest", "interpolation": "nearest"},
    ],
    "RandomZoom": [
        {"height_factor": 0.3},
        {"height_factor": (-0.5, -0.2), "width_factor": (0.1, 0.9), "fill_mode": "constant"},
    ],
    "RandomShear": [
        {"x_factor": 0.3, "y_factor": 0.2},
        {"x_factor": (0.5, 1.0), "fill_mode": "constant", "fill_value": 3.0},
    ],
    "RandomPerspective": [{}, {"factor": 0.5, "scale": 0.3, "fill_value": 99.0}, {"interpolation": "nearest"}],
}


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, arguments) for name, cases in GEOMETRY.items() for arguments in cases]
)
def test_a_move_is_that_of_keras(name: str, arguments: dict[str, Any]):
    layer = getattr(keras.layers, name)(data_format="channels_last", **arguments)
    operation = Warp(name, GEOMETRIC[name](layer, SIZE) or ())
    numbers, words = random_numbers(N, operation.numbers)
    expected = as_keras(layer, make_images(), numbers)
    found = applied(operation, make_images(), words)
    difference = np.abs(found - expected)
    # Where a place is rounded, or wrapped, the last bit of it may decide.
    assert np.mean(difference < 0.05) > (1.0 if "nearest" not in arguments.values() else 0.995) - 0.005
    assert np.median(difference) < 1e-4
    assert np.abs(expected - make_images()).mean() > 1


@pytest.mark.parametrize("arguments", GEOMETRY["RandomFlip"])
def test_flips_are_exactly_those_of_keras(arguments: dict[str, Any]):
    layer = keras.layers.RandomFlip(data_format="channels_last", **arguments)
    numbers, words = random_numbers(N, 1)
    expected = as_keras(layer, make_images(), numbers)
    assert np.array_equal(applied(Warp("", GEOMETRIC["RandomFlip"](layer, SIZE)), make_images(), words), expected)
    assert np.array_equal(applied(Flip("", [layer.mode]), make_images(), words), expected)


def test_flips_one_after_the_other_are_exactly_those_of_keras():
    layers = [keras.layers.RandomFlip(mode) for mode in ("horizontal", "vertical", "horizontal_and_vertical")]
    numbers, words = random_numbers(N, 3)
    expected = make_images()
    for k, layer in enumerate(layers):
        expected = as_keras(layer, expected, numbers[:, k : k + 1])
    assert np.array_equal(applied(Flip("", [layer.mode for layer in layers]), make_images(), words), expected)


@pytest.mark.parametrize("size", [(7, 9), (13, 9), (20, 20), (5, 30), (13, 16), (12, 16)])
def test_a_crop_is_that_of_keras(size: tuple[int, int]):
    layer = keras.layers.RandomCrop(*size)
    operation = Warp("", GEOMETRIC["RandomCrop"](layer, SIZE))
    numbers, words = random_numbers(5, 2)
    found = applied(operation, make_images(5), words if operation.numbers else words[:, :0])
    assert found.shape == (5, *size, 3)
    for k in range(5):
        # Keras draws one place for a batch, as two numbers of no shape.
        layer = with_numbers(keras.layers.RandomCrop(*size, data_format="channels_last"), numbers[k : k + 1])
        image = tf.constant(make_images(5)[k : k + 1])
        expected = layer.transform_images(image, layer.get_random_transformation(image))
        np.testing.assert_allclose(found[k], expected[0], atol=1e-3)


def test_resizing_and_a_centre_crop_are_those_of_keras():
    for layer in (
        keras.layers.Resizing(20, 9, data_format="channels_last"),
        keras.layers.Resizing(5, 31, data_format="channels_last"),
        keras.layers.CenterCrop(8, 9, data_format="channels_last"),
    ):
        operation = Warp("", GEOMETRIC[type(layer).__name__](layer, SIZE))
        found = applied(operation, make_images(3), random_numbers(3, 1)[1][:, :0])
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(layer(make_images(3))), atol=2e-3)


COLOURS = {
    "RandomBrightness": [{"factor": 0.4}, {"factor": (0.1, 0.3)}],
    "RandomContrast": [{"factor": 0.6}, {"factor": (0.2, 0.9)}],
    "RandomSaturation": [{"factor": 0.8}, {"factor": (0.0, 0.4)}],
    "RandomHue": [{"factor": 0.5}, {"factor": (0.9, 1.0)}],
    "RandomColorJitter": [
        {"brightness_factor": 0.2, "contrast_factor": 0.4, "saturation_factor": (0.3, 0.7), "hue_factor": 0.3},
        {"hue_factor": 0.3},
    ],
    "RandomGrayscale": [{"factor": 0.5}],
    "RandomInvert": [{"factor": 0.7}],
    "RandomPosterization": [{"factor": 4}, {"factor": (2, 8)}, {"factor": (3, 3)}],
    "Solarization": [{"addition_factor": 0.2, "threshold_factor": 0.9}, {"threshold_factor": (0.1, 0.6)}],
    "AutoContrast": [{}],
    "RandomColorDegeneration": [{"factor": 0.9}],
    "RandomSharpness": [{"factor": 1.0}, {"factor": (0.6, 0.7)}],
}


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, arguments) for name, cases in COLOURS.items() for arguments in cases]
)
def test_a_change_of_colours_is_that_of_keras(name: str, arguments: dict[str, Any]):
    takes_format = name not in ("AutoContrast", "Solarization", "RandomBrightness", "RandomContrast")
    layer = getattr(keras.layers, name)(**arguments, **({"data_format": "channels_last"} if takes_format else {}))
    operations = PHOTOMETRIC[name](layer) or ()
    images = make_images() * 0.8 + 20
    # One image has a channel of one value, one is black.
    images[0, ..., 1], images[1] = 9, 0
    found, columns = images, []
    for operation in operations:
        numbers, words = random_numbers(N, max(operation.numbers, 1), seed=len(columns))
        found = applied(operation, found, words)
        columns.append(numbers[:, : operation.numbers])
    if name == "RandomGrayscale":
        with_numbers(layer, columns[0])
        expected = np.asarray(layer.transform_images(tf.constant(images), layer.get_random_transformation(images)))
    else:
        expected = as_keras(layer, images, np.concatenate(columns, axis=1) if columns else np.zeros((N, 0)))
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(expected - images).mean() > 1


@pytest.mark.parametrize("arguments", [{}, {"factor": 0.5, "kernel_size": 7, "sigma": (0.5, 1.0)}])
def test_a_blur_is_that_of_keras_with_one_for_each_image(arguments: dict[str, Any]):
    layer = keras.layers.RandomGaussianBlur(data_format="channels_last", **arguments)
    (operation,) = PHOTOMETRIC["RandomGaussianBlur"](layer) or ()
    numbers, words = random_numbers(6, 4)
    found = applied(operation, make_images(6), words)
    expected = [as_keras(layer, make_images(6)[k : k + 1], numbers[k : k + 1])[0] for k in range(6)]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_equalization_is_that_of_keras_with_a_histogram_for_each_image():
    layer = keras.layers.Equalization(data_format="channels_last")
    (operation,) = PHOTOMETRIC["Equalization"](layer) or ()
    images = make_images(4) * 0.5
    images[0, ..., 2] = 40
    found = applied(operation, images, tf.zeros((4, 0), tf.uint32))
    for k in range(4):
        expected = as_keras(layer, images[k : k + 1], np.zeros((1, 0)))
        np.testing.assert_allclose(found[k], expected[0], atol=1e-3)


@pytest.mark.parametrize("arguments", [{"fill_value": 12.0}, {"factor": 0.5, "scale": (0.3, 0.9), "fill_value": 300.0}])
def test_what_is_erased_is_what_keras_erases(arguments: dict[str, Any]):
    layer = keras.layers.RandomErasing(data_format="channels_last", **arguments)
    numbers, words = random_numbers(N, 6)
    assert np.array_equal(applied(Erasing(layer), make_images(), words), as_keras(layer, make_images(), numbers))


def test_noise_is_distributed_as_that_of_keras():
    layer = keras.layers.RandomErasing(factor=(1.0, 1.0), scale=(1.0, 1.0), data_format="channels_last")
    black = np.zeros((2, 100, 100, 3), "float32")
    found = applied(Erasing(layer), black, random_numbers(2, 10)[1])
    expected = keras.ops.convert_to_numpy(layer(black))
    assert not np.array_equal(found[0], found[1])
    for quantile in (0.45, 0.55, 0.6, 0.7, 0.8, 0.9):
        assert np.quantile(found, quantile) == pytest.approx(np.quantile(expected, quantile), abs=6)
    assert np.mean(found == 255) == pytest.approx(0.1587, abs=0.01)


def test_the_box_of_cutmix_is_what_the_labels_say():
    operation = CutMix(keras.layers.CutMix())
    _, words = random_numbers(200, 7)
    drawn = operation.draw(words)
    share = operation.share(drawn, (50, 80)).numpy()
    for k in range(200):
        mine = tuple(row[k] for row in drawn)
        image = operation.blend(tf.zeros((50, 80, 1)), tf.ones((50, 80, 1)), mine).numpy()
        assert image.mean() == pytest.approx(1 - share[k], abs=1e-6)
        rows, columns = image[..., 0].any(axis=1), image[..., 0].any(axis=0)
        assert image.sum() == rows.sum() * columns.sum()


def test_rand_augment_does_what_keras_would_for_a_batch_of_one_image():
    layer = keras.layers.RandAugment(factor=0.5, num_ops=1, data_format="channels_last")
    (operation,) = keras_rand_augment(layer, SIZE)
    numbers, _ = random_numbers(11, operation.numbers, seed=4)
    # Each of the eleven is chosen once.
    numbers[:, 0] = (np.arange(11) + 0.5) / 11
    words = tf.constant((numbers * 2**24).astype(np.int64) << 8, tf.uint32)
    found = applied(operation, make_images(11), words)
    start = 1
    for k, (option, (attribute, _)) in enumerate(zip(operation.options, PARTS, strict=True)):
        part = getattr(layer, attribute)
        mine = numbers[k : k + 1, start : start + option.numbers]
        start += option.numbers
        expected = as_keras(part, make_images(11)[k : k + 1], mine)
        np.testing.assert_allclose(found[k], expected[0], atol=0.05, err_msg=attribute)


def test_aug_mix_mixes_what_its_chains_make_of_the_image():
    layer = keras.layers.AugMix(num_chains=2, chain_depth=3, data_format="channels_last")
    (operation,) = keras_aug_mix(layer, SIZE) or ()
    _, words = random_numbers(8, operation.numbers)
    changes, weights, stays = operation.draw(words)
    assert np.allclose(np.sum(weights, axis=1), 1)
    found = applied(operation, make_images(8), words)
    for k in range(8):
        image = tf.constant(make_images(8)[k])
        expected = float(stays[k]) * image
        for chain in range(2):
            changed = image
            for at in range(3 * chain, 3 * chain + 3):
                mine = tf.nest.map_structure(lambda row, at=at, k=k: row[k, at], changes)
                changed = operation.choice.once(changed, mine)
            expected += (1 - float(stays[k])) * float(weights[k, chain]) * changed
        np.testing.assert_allclose(found[k], np.clip(expected, 0, 255), atol=1e-3)
    assert len(operation.choice.options) == 12
    (few,) = keras_aug_mix(keras.layers.AugMix(all_ops=False), SIZE) or ()
    assert len(few.choice.options) == 8
