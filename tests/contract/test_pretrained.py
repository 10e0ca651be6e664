"""The backbone that needs no download classifies real images, and a head trains on it."""

from importlib.resources import files
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.models.classifier import Classifier

IMAGES = Path(str(files("skimage"))) / "data"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.open("efficientnet_lite0")


@pytest.mark.parametrize(
    ("image", "names", "at_least"),
    [
        ("coffee.png", {"espresso"}, 0.9),
        ("camera.png", {"tripod"}, 0.9),
        ("chelsea.png", {"tabby", "tiger cat", "Egyptian cat"}, 0.3),
    ],
)
def test_it_classifies_a_photograph(classifier: Classifier, image: str, names: set[str], at_least: float):
    (prediction,) = kerasimg.predict(classifier, IMAGES / image)
    assert prediction.label in names
    assert prediction.confidence > at_least


def test_the_backbone_has_the_features_of_the_classifier(classifier: Classifier):
    spec = {
        "kerasimg": 1,
        "image": {"size": [224, 224]},
        "model": [{"backbone": "zoo/efficientnet_lite0.json", "weights": "imagenet", "trainable": False}],
    }
    backbone = kerasimg.build(spec)
    head = keras.Model(classifier.model.get_layer("global_average_pooling2d").input, classifier.model.output)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype("float32")
    expected = np.array(classifier.model(pixels, training=False))
    np.testing.assert_allclose(np.array(head(backbone(pixels, training=False), training=False)), expected, atol=1e-6)


def test_the_shipped_weights_are_those_that_the_spec_names():
    spec = kerasimg.load("efficientnet_lite0")
    assert spec.pretrained.imagenet is not None
    assert spec.pretrained.imagenet.sha256 is not None
    assert (spec.folder / spec.pretrained.imagenet.file).stat().st_size < 10_000_000


def test_a_head_trains_and_the_frozen_backbone_does_not_change(tmp_path: Path):
    quick = {"fit.stages": [{"epochs": 2}], "augment": []}
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (24, 64, 64, 3)).astype("uint8")
    labels = np.arange(24) % 2
    images[labels == 1, :, :32] = 0
    run = kerasimg.train("transfer", data=(images, labels), out=tmp_path, size=64, overrides=quick, verbose=0)
    fresh = kerasimg.build("transfer", num_classes=2, size=64)
    for trained, shipped in zip(run.model.get_layer("base").weights, fresh.get_layer("base").weights, strict=True):
        np.testing.assert_array_equal(np.array(trained), np.array(shipped))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
