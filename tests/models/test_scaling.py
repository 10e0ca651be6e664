import importlib
from typing import Any, get_args

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.models.scaling import SCALES, apply_scale
from kerasimg.spec.arguments import entry, known
from kerasimg.spec.document import ScaleName, Standardize

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype("float32")


def scaled(scale: Any, pixels: np.ndarray = PIXELS) -> np.ndarray:
    image = keras.Input(pixels.shape[1:])
    return np.asarray(keras.Model(image, apply_scale(image, scale, "scale"))(pixels))


def built(scale: Any, channels: int = 3) -> keras.Model:
    image = {"size": [4, 5], "channels": channels, "scale": scale}
    return kerasimg.build({"kerasimg": 1, "name": "tiny", "image": image, "model": [{"layer": "Flatten"}]})


def test_every_scale_of_the_spec_but_auto_has_a_function():
    assert set(SCALES) == set(get_args(ScaleName)) - {"auto"}


def test_the_scales_give_their_ranges():
    ends = np.array([[[[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]]]], "float32")
    assert scaled("none", ends)[0, 0] == pytest.approx(np.array([[0] * 3, [255] * 3]))
    assert scaled("unit", ends)[0, 0] == pytest.approx(np.array([[0] * 3, [1] * 3]))
    assert scaled("symmetric", ends)[0, 0] == pytest.approx(np.array([[-1] * 3, [1] * 3]))


@pytest.mark.parametrize("backbone", known("backbones"))
def test_auto_scales_for_a_backbone_as_its_own_preprocess_input_does(backbone: str):
    module = importlib.import_module(getattr(keras.applications, backbone).__module__)
    wanted = module.preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(scaled(entry("backbones", backbone)["scale"]), wanted, atol=1e-4)


def test_what_scales_inside_is_given_its_pixels_as_they_are():
    for backbone in known("backbones"):
        described = entry("backbones", backbone)
        if described.get("include_preprocessing") or backbone.startswith("EfficientNet"):
            assert described["scale"] == "none", backbone


def test_own_figures_are_subtracted_and_divided_by():
    np.testing.assert_allclose(scaled(Standardize(mean=127.0, std=128.0)), (PIXELS - 127) / 128, atol=1e-6)
    each = Standardize(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    np.testing.assert_allclose(scaled(each), (PIXELS - [1, 2, 3]) / [4, 5, 6], atol=1e-5)
    mixed = Standardize(mean=10.0, std=[4.0, 5.0, 6.0])
    np.testing.assert_allclose(scaled(mixed), (PIXELS - 10) / [4, 5, 6], atol=1e-5)


def test_own_figures_reach_the_model():
    model = built({"mean": [1, 2, 3], "std": 2})
    np.testing.assert_allclose(model(PIXELS), ((PIXELS - [1, 2, 3]) / 2).reshape(2, -1), atol=1e-5)


def test_figures_for_other_channels_than_the_image_has_are_refused():
    with pytest.raises(SpecError, match=r"image\.scale: scale has 2 values, the image 3 channels"):
        built({"mean": [1, 2]})


def test_caffe_needs_colours():
    with pytest.raises(SpecError, match=r"image\.scale: .*it needs 3 channels"):
        built("caffe", channels=1)


def test_grey_images_take_the_scales_that_know_no_colours():
    pixels = PIXELS[..., :1]
    np.testing.assert_allclose(built("symmetric", channels=1)(pixels), (pixels / 127.5 - 1).reshape(2, -1), atol=1e-6)
