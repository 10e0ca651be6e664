import numpy as np
import pytest

from kerasimg.data.augment import make_augment
from kerasimg.errors import CallError

IMAGES = np.random.default_rng(1).uniform(0, 255, (8, 6, 6, 3)).astype("float32")
LABELS = np.eye(4, dtype="float32")[[0, 1, 2, 3, 0, 1, 2, 3]]


def applied(layers, images=IMAGES, labels=LABELS) -> tuple[np.ndarray, np.ndarray]:
    """As a data pipeline applies them: in a graph, on one batch."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors((images, labels)).map(make_augment(layers))
    return next(dataset.as_numpy_iterator())


def test_no_layers_change_nothing():
    images, labels = applied([])
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_layers_are_applied_in_their_order():
    import keras

    images, _ = applied([keras.layers.Rescaling(0.5), keras.layers.Rescaling(1, offset=10)])
    assert np.allclose(images, IMAGES * 0.5 + 10)


def test_layers_act_as_in_training():
    import keras

    images, _ = applied([keras.layers.RandomBrightness(0.5, value_range=(0, 255), seed=1)])
    assert not np.allclose(images, IMAGES)


def test_values_are_clipped_to_those_of_pixels():
    import keras

    images, _ = applied([keras.layers.Rescaling(3, offset=-200)])
    assert np.allclose(images, np.clip(IMAGES * 3 - 200, 0, 255))


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_blending_layers_blend_the_labels_too(name: str):
    import keras

    images, labels = applied([getattr(keras.layers, name)(seed=3)])
    assert not np.allclose(images, IMAGES)
    assert not np.array_equal(labels, LABELS)
    assert np.allclose(labels.sum(axis=1), 1)
    assert labels.dtype == images.dtype == np.float32


def test_blending_needs_labels_that_can_be_blended():
    import keras

    with pytest.raises(CallError, match=r"MixUp blends labels: use targets 'one_hot', not 'sparse'"):
        applied([keras.layers.MixUp()], labels=np.arange(8))
