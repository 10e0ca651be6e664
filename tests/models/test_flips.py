"""A test-time flip is the mean of the logits of an image and its mirror image, and changes nothing else."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.models.classifier import Classifier, read_pack, write_pack
from kerasimg.models.flips import with_flips
from kerasimg.models.known import outputs_and_features
from kerasimg.models.temperature import at_temperature

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3)).astype("float32")
MIRRORED = np.ascontiguousarray(PIXELS[:, :, ::-1])


def make(task: str, flips: bool = False) -> Classifier:
    units, activation = {"multiclass": (3, "softmax"), "binary": (1, "sigmoid"), "multilabel": (3, "sigmoid")}[task]
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": units, "activation": activation}]
    spec = kerasimg.load({"kerasimg": 1, "name": "flat", "task": task, "image": {"size": [6, 6]}, "model": layers})
    names = ("no", "yes") if task == "binary" else ("a", "b", "c")
    return Classifier(kerasimg.build(spec), spec, names, None, 2.0, flips=flips)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_answer_is_the_mean_of_the_logits_of_both(task):
    plain = make(task)
    a, b = (at_temperature(plain.probabilities(images), 0.5, task) for images in (PIXELS, MIRRORED))  # at 1
    logits = [np.log(p) - (0 if task == "multiclass" else np.log(1 - p)) for p in (a, b)]
    powers = np.exp(sum(logits) / 2 / 2.0)
    expected = powers / (powers.sum(axis=1, keepdims=True) if task == "multiclass" else 1 + powers)
    flipped = replace(plain, flips=True)
    np.testing.assert_allclose(flipped.probabilities(PIXELS), expected, atol=2e-6)
    np.testing.assert_allclose(flipped.probabilities(MIRRORED), expected, atol=2e-6)
    assert np.abs(expected - plain.probabilities(PIXELS)).max() > 0.01


def test_features_are_those_of_the_image_itself():
    both = outputs_and_features(make("multiclass").model)
    _, features = both(PIXELS)
    _, found = with_flips(both)(PIXELS)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(features), atol=1e-6)


def test_a_saved_classifier_and_a_pack_flip(tmp_path):
    trained = make("multiclass", flips=True)
    trained.save(tmp_path / "model.keras")
    write_pack(trained, tmp_path / "model.kerasimg")
    for again in (Classifier.open(tmp_path / "model.keras"), read_pack(tmp_path / "model.kerasimg")):
        np.testing.assert_allclose(again.probabilities(PIXELS), trained.probabilities(PIXELS), atol=1e-6)
