"""What compiled layers draw, thousands of times, against what Keras' layers draw by themselves."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kerasimg.data.augment import image_seeds
from kerasimg.data.augmentation.colour import PHOTOMETRIC
from kerasimg.data.augmentation.draws import Part, keys, words
from kerasimg.data.augmentation.geometry import GEOMETRIC, Warp
from kerasimg.data.augmentation.lowering import lowered
from kerasimg.data.augmentation.operations import Operation

N = 3000
SIZE = (40, 56)


def drawn(operation: Operation) -> list[np.ndarray]:
    """What an operation draws for the images of an epoch: (N, numbers) arrays."""
    seeds = image_seeds(7, 0, np.arange(N))
    made = operation.draw(words(keys(seeds), [Part(operation.numbers, (0, 0))], tf.constant(7, tf.uint32))[0])
    return [np.asarray(one, np.float64).reshape(N, -1) for one in tf.nest.flatten(made)]


def by_keras(layer: Any) -> dict[str, np.ndarray]:
    """What Keras' layer draws for a batch of N images, on TensorFlow, where these run in a pipeline."""
    layer.backend.set_backend("tensorflow")
    images = tf.zeros((N, *SIZE, 3)) if "Perspective" in type(layer).__name__ else tf.zeros((N, *SIZE, 1))
    made = layer.get_random_transformation(images)
    layer.backend.reset()
    return {key: np.asarray(value) for key, value in made.items() if tf.is_tensor(value)}


GEOMETRY: dict[str, tuple[dict[str, Any], str, Callable[[np.ndarray], np.ndarray]]] = {
    # The entries of Keras' matrix, or how its numbers stand in ours.
    "RandomRotation": ({"factor": (-0.1, 0.3)}, "rotation_matrix", lambda m: m[:, [0, 1, 2, 3, 4, 5]]),
    "RandomTranslation": ({"height_factor": 0.2, "width_factor": (0.1, 0.5)}, "translations", lambda t: -t),
    "RandomShear": ({"x_factor": (0.1, 0.4), "y_factor": 0.3}, "shear_factor", lambda s: s),
}
PLACES = {"RandomRotation": [0, 1, 2, 3, 4, 5], "RandomTranslation": [2, 5], "RandomShear": [1, 3]}


def alike(ours: np.ndarray, keras_s: np.ndarray) -> None:
    """Two samples of one distribution, by Kolmogorov and Smirnov, and with the same correlations of columns."""
    assert ours.shape == keras_s.shape
    for one, other in zip(ours.T, keras_s.T, strict=True):
        assert stats.ks_2samp(np.round(one, 4), np.round(other, 4)).pvalue > 0.001
    if ours.shape[1] > 1:
        # Within four standard errors of a difference of two.
        assert np.abs(np.corrcoef(ours.T) - np.corrcoef(keras_s.T)).max() < 4 * np.sqrt(2 / N)


@pytest.mark.parametrize("name", GEOMETRY)
def test_moves_are_distributed_as_those_of_keras(name: str):
    arguments, key, columns = GEOMETRY[name]
    layer = getattr(keras.layers, name)(**arguments, seed=5, data_format="channels_last")
    (matrix,) = drawn(Warp(name, GEOMETRIC[name](layer, SIZE)))
    alike(matrix[:, PLACES[name]], columns(by_keras(layer)[key].astype(np.float64)))


@pytest.mark.parametrize("width_factor", [None, (0.1, 0.4)])
def test_zooms_are_distributed_as_those_of_keras(width_factor: Any):
    layer = keras.layers.RandomZoom((-0.5, 0.2), width_factor, seed=5, data_format="channels_last")
    (matrix,) = drawn(Warp("", GEOMETRIC["RandomZoom"](layer, SIZE)))
    made = by_keras(layer)
    alike(matrix[:, [4, 0]], np.concatenate([made["height_zoom"], made["width_zoom"]], axis=1).astype(np.float64))


def test_perspectives_are_distributed_as_those_of_keras():
    layer = keras.layers.RandomPerspective(factor=0.8, scale=0.5, seed=5, data_format="channels_last")
    (matrix,) = drawn(Warp("", GEOMETRIC["RandomPerspective"](layer, SIZE)))
    made = by_keras(layer)
    layer.backend.set_backend("tensorflow")
    back = layer.backend.image.compute_homography_matrix(made["start_points"], made["end_points"])
    layer.backend.reset()
    applied = made["apply_perspective"]
    mine = np.abs(matrix - np.eye(3).ravel()).max(axis=1) > 0
    assert mine.mean() == pytest.approx(applied.mean(), abs=0.04)
    keras_s = np.asarray(back, np.float64)[applied][:, [0, 1, 3, 4]]
    for one, other in zip(matrix[mine][:, [0, 1, 3, 4]].T, keras_s.T, strict=True):
        assert stats.ks_2samp(np.round(one, 4), np.round(other, 4)).pvalue > 0.001


def test_flips_and_crops_are_even():
    flips = drawn(Warp("", GEOMETRIC["RandomFlip"](keras.layers.RandomFlip("horizontal"), SIZE)))[0]
    assert (flips[:, 0] == -1).mean() == pytest.approx(0.5, abs=0.04)
    matrix = drawn(Warp("", GEOMETRIC["RandomCrop"](keras.layers.RandomCrop(30, 50), SIZE)))[0]
    for column, places in ((2, 7), (5, 11)):
        assert stats.chisquare(np.bincount(matrix[:, column].astype(int), minlength=places)).pvalue > 0.001


COLOURS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "RandomBrightness": ({"factor": (-0.1, 0.4)}, ["rgb_delta"]),
    "RandomContrast": ({"factor": (0.3, 0.6)}, ["contrast_factor"]),
    "RandomSaturation": ({"factor": 0.7}, ["factor"]),
    "RandomHue": ({"factor": (0.2, 0.8)}, ["factor"]),
    "RandomInvert": ({"factor": 0.6}, ["apply_inversion"]),
    "RandomPosterization": ({"factor": (2, 7)}, ["shift_factor"]),
    "Solarization": ({"addition_factor": 0.3, "threshold_factor": (0.2, 0.9)}, ["additions", "thresholds"]),
    "RandomColorDegeneration": ({"factor": 0.7}, ["factor"]),
    "RandomSharpness": ({"factor": (0.2, 0.9)}, ["factor"]),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_distributed_as_those_of_keras(name: str):
    arguments, columns = COLOURS[name]
    layer = getattr(keras.layers, name)(**arguments, seed=5)
    (operation,) = PHOTOMETRIC[name](layer) or ()
    ours = np.concatenate(drawn(operation), axis=1)
    made = by_keras(layer)
    keras_s = np.concatenate([made[column].astype(np.float64).reshape(N, -1) for column in columns], axis=1)
    # In our units: bits that stay, twice the sharpness, parts of 255.
    scale = {"RandomBrightness": 1 / 255, "RandomSharpness": 2.0, "RandomPosterization": -1.0}.get(name, 1.0)
    alike(ours, keras_s * scale + (8 if name == "RandomPosterization" else 0))


@pytest.mark.parametrize(("name", "count"), [("RandAugment", 11), ("TrivialAugment", 14), ("RandAugmentPerImage", 14)])
def test_policies_choose_evenly_and_for_each_image(name: str, count: int):
    (operation,) = lowered([(name, {})], SIZE, 3).steps[0].operations
    chosen = drawn(operation)[0]
    for turn in chosen.T:
        assert stats.chisquare(np.bincount(turn.astype(int), minlength=count)).pvalue > 0.001
    if chosen.shape[1] == 2:
        assert (chosen[:, 0] == chosen[:, 1]).mean() == pytest.approx(1 / count, abs=0.02)
