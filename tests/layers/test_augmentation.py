import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from kerasimg import layers
from kerasimg.layers.one_change import CHANGES
from kerasimg.layers.trivial_augment import WIDE


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def make_images(n=5, height=20, width=24, channels=3):
    """Smooth noise, so that a change of brightness is not lost in it."""
    noise = np.random.default_rng(0).uniform(40, 190, (n, height, width, channels))
    return np.round((noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)) / 3).astype("float32")


def changed(images, names, magnitudes):
    layer = layers.TrivialAugment()
    numbers = np.array([CHANGES.index(name) for name in names], "int32")
    convert = keras.ops.convert_to_tensor
    magnitudes = convert(np.array(magnitudes, "float32"))
    return array(layer._change(convert(images), convert(numbers), magnitudes, WIDE))


PILLOW = {
    "brightness": (0.5, lambda image: ImageEnhance.Brightness(image).enhance(1.495)),
    "color": (-0.5, lambda image: ImageEnhance.Color(image).enhance(0.505)),
    "contrast": (-0.8, lambda image: ImageEnhance.Contrast(image).enhance(0.208)),
    "sharpness": (0.6, lambda image: ImageEnhance.Sharpness(image).enhance(1.594)),
    "posterize": (0.9, lambda image: ImageOps.posterize(image, 3)),
    "solarize": (0.4, lambda image: ImageOps.solarize(image, 153)),
    "auto_contrast": (0.0, ImageOps.autocontrast),
    "equalize": (0.0, ImageOps.equalize),
}


@pytest.mark.parametrize("name", PILLOW)
def test_a_change_of_colours_is_that_of_pillow(name):
    magnitude, expected = PILLOW[name]
    images = make_images()
    found = changed(images, [name] * 5, [magnitude] * 5)
    for image, one in zip(images, found, strict=True):
        again = np.asarray(expected(Image.fromarray(image.astype("uint8"))), "float32")
        # Pillow rounds and truncates between its steps.
        assert np.abs(one - again).max() <= 2
        assert np.abs(one - image).max() > 10


def test_a_change_of_geometry_moves_the_image():
    images = make_images(5, 40, 48)
    names = ["identity", "translate_x", "translate_y", "rotate", "shear_x"]
    found = changed(images, names, [1.0, 0.25, -0.125, 90 / 135, 0.5])
    np.testing.assert_array_equal(found[0], images[0])
    np.testing.assert_allclose(found[1][:, :-8], images[1][:, 8:], atol=1e-3)
    assert not found[1][:, -7:].any()
    np.testing.assert_allclose(found[2][4:], images[2][:-4], atol=1e-3)
    # A quarter turn about the middle: the middle square of it, turned.
    middle = images[3][4:36, 8:40]
    turned = found[3][4:36, 8:40]
    difference = min(np.abs(turned - np.rot90(middle, turns)).max() for turns in (1, 3))
    assert difference < 0.01
    assert np.abs(found[4] - images[4]).mean() > 5


def test_each_image_of_a_batch_has_a_change_of_its_own():
    one = np.repeat(make_images(1), 40, axis=0)
    for layer in (layers.TrivialAugment(seed=1), layers.RandAugmentPerImage(seed=1), layers.GridMask(seed=1)):
        found = array(layer(one)).reshape(40, -1)
        assert len(np.unique(found.round(), axis=0)) > 20, type(layer).__name__
        assert found.min() >= 0
        assert found.max() <= 255


def test_other_ranges_of_pixels_are_varied_alike():
    images = make_images()
    whole = array(layers.TrivialAugment(seed=5)(images))
    small = array(layers.TrivialAugment(seed=5, value_range=(-1, 1))(images / 127.5 - 1))
    np.testing.assert_allclose((small + 1) * 127.5, whole, atol=1.1)


def test_gray_images_stay_gray():
    found = array(layers.RandAugmentPerImage(num_ops=3, seed=2)(make_images(8, channels=1)))
    assert found.shape == (8, 20, 24, 1)


def test_a_grid_mask_cuts_out_its_share_and_leaves_the_rest():
    images = np.full((200, 40, 40, 3), 100.0, "float32")
    found = array(layers.GridMask(rate=1.0, ratio=0.6, cell=(0.25, 0.5), fill_value=7, seed=0)(images))
    assert set(np.unique(found)) == {7, 100}
    assert (found == 7).mean() == pytest.approx(0.16, abs=0.02)
    assert (found[..., 0] == found[..., 2]).all()
    half = array(layers.GridMask(rate=0.5, seed=0)(images)).reshape(200, -1)
    assert 70 < (half.min(axis=1) == 100).sum() < 130


def test_they_augment_in_a_pipeline_on_every_backend():
    tf = pytest.importorskip("tensorflow")

    made = [layers.TrivialAugment(seed=1), layers.RandAugmentPerImage(seed=2), layers.GridMask(seed=3)]

    def augment(images, labels):
        for layer in made:
            images = layer(images)
        return images, labels

    batches = tf.data.Dataset.from_tensors((make_images(8), np.arange(8))).repeat(2).map(augment)
    (first, labels), (second, _) = ((images.numpy(), numbers.numpy()) for images, numbers in batches)
    np.testing.assert_array_equal(labels, np.arange(8))
    assert first.shape == second.shape == (8, 20, 24, 3)
    assert (first != second).any(axis=(1, 2, 3)).sum() >= 7
