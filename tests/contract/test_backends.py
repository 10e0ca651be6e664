"""The same spec with the same weights gives the same outputs on TensorFlow, JAX and PyTorch, and trains on each.

A process can use only one backend, so all are compared with expected_outputs.json: for each spec, the outputs that
TensorFlow gave for weights and images drawn by NumPy. Every backend must reproduce them to 1e-4, TensorFlow as well, so
that every change of a spec is noticed. After an intended change, write the file again:

    python tests/contract/test_backends.py
"""

import json
import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX compiles each operation for each shape, which takes most of the time here.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.models.classifier import Classifier

EXPECTED = Path(__file__).with_name("expected_outputs.json")
TOLERANCE = 1e-4
CLASSES = 5

SPECS = {
    "simple_cnn": {"size": 32},
    "branched": {"size": 32},
    "mobilenet": {"size": 32},
    "mobilenet_v2": {"size": 32, "alpha": 0.35},
    "resnet": {"size": 32, "variant": "18"},
    "densenet": {"size": 32, "depths": [2, 2, 2, 2]},
    "efficientnet": {"size": 32},
    "convnext": {"size": 32, "depths": [1, 1, 2, 1]},
    "shufflenet_v2": {"size": 32, "variant": "0.5x"},
    "ghostnet": {"size": 32, "width": 0.5},
    "mlp_mixer": {"size": 32, "variant": "s16"},
}
"""Specs with params that make them small; together: every kind of convolution, normalizations, tokens, branches."""


def draw_weights(model, gain, divisor):
    """Sets weights drawn by NumPy, in layer order.

    gain: of each layer; if too low, the outputs do not depend on the image; if too high, they amplify rounding errors.
    divisor: of the last kernel, so that the softmax does not saturate.
    """
    draw = np.random.default_rng(0)
    values = []
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if len(shape) > 1:
            depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = math.prod(shape[:-2]) * (1 if depthwise else shape[-2])
            values.append(draw.normal(0, gain / math.sqrt(fan_in), shape))
        elif name in ("gamma", "moving_variance"):
            values.append(draw.uniform(0.5, 1.5, shape))
        else:
            values.append(draw.uniform(-0.1, 0.1, shape))
    *values, kernel, bias = (value.astype("float32") for value in values)
    model.set_weights([*values, kernel / divisor, bias])


def draw_images(model):
    """Two images, each a colour with noise."""
    draw = np.random.default_rng(1)
    height, width, channels = model.input_shape[1:]
    colours = draw.uniform(0, 255, (2, 1, 1, channels))
    return ((colours + draw.uniform(0, 255, (2, height, width, channels))) / 2).astype("float32")


def build(name, gain, divisor):
    model = kerasimg.build(name, weights=None, num_classes=CLASSES, **SPECS[name])
    draw_weights(model, gain, divisor)
    return model


def outputs(model, images=None):
    """By `predict`, which JAX compiles as one function; in direct calls it compiles each operation of each layer."""
    return model.predict(draw_images(model) if images is None else images, verbose=0)


def photo():
    """An image with structure that a network responds to: a disc on a gradient, (1, 224, 224, 3), 0-255."""
    y, x = np.mgrid[0:224, 0:224] / 223
    sky = np.stack([90 + 80 * y, 140 + 60 * y, 250 - 60 * y], axis=-1)
    disc = ((x - 0.5) ** 2 + (y - 0.55) ** 2 < 0.08)[..., None]
    return np.where(disc, [240.0, 120.0, 20.0], sky)[None].astype("float32")


def shipped_outputs():
    """The 20 highest of 1,000 probabilities of efficientnet_lite0 with the weights that ship: {class: probability}."""
    model = kerasimg.build("efficientnet_lite0", weights="imagenet")
    probabilities = outputs(model, photo())[0]
    return {str(index): float(probabilities[index]) for index in np.argsort(probabilities)[:-21:-1]}


def expected():
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def test_every_spec_of_the_table_has_expected_outputs_that_depend_on_the_image():
    rows = expected()["drawn"]
    assert set(rows) == set(SPECS)
    for row in rows.values():
        one, other = np.array(row["outputs"])
        assert np.abs(one - other).max() > 10 * TOLERANCE
        assert max(*one, *other) < 0.99


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_with_the_same_weights_gives_the_same_outputs_on_every_backend(name):
    row = expected()["drawn"][name]
    np.testing.assert_allclose(
        outputs(build(name, row["gain"], row["divisor"])), row["outputs"], rtol=0, atol=TOLERANCE
    )


def test_the_weights_that_ship_give_the_same_outputs_on_every_backend():
    found, wanted = shipped_outputs(), expected()["efficientnet_lite0"]
    assert next(iter(found)) == next(iter(wanted))
    for index, probability in wanted.items():
        assert found.get(index, 0) == pytest.approx(probability, abs=TOLERANCE)


@pytest.fixture
def augmented(tiny):
    """A spec with what differs between backends in training: batch statistics, dropout, augmentation."""
    return tiny(
        augment=[{"layer": "RandomFlip"}, {"layer": "TrivialAugment"}],
        model=[
            {"layer": "Conv2D", "name": "stem", "filters": 8, "kernel_size": 3, "padding": "same"},
            {"layer": "BatchNormalization"},
            {"layer": "ReLU"},
            {"layer": "SqueezeExcite", "ratio": 0.5},
            {"layer": "GeMPooling2D"},
            {"layer": "Dropout", "rate": 0.1},
            {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
        ],
        compile={"optimizer": {"type": "AdamW", "learning_rate": 0.01}, "metrics": ["accuracy", "f1"]},
        fit={
            "batch_size": 8,
            "stages": [{"epochs": 2}, {"epochs": 1, "freeze": ["stem"], "learning_rate": 0.001}],
            "class_weight": "balanced",
        },
    )


@pytest.mark.parametrize("kind", ["plain", "augmented"])
def test_a_spec_trains_evaluates_predicts_and_reloads_on_every_backend(kind, tiny, augmented, images, tmp_path):
    folder = images(tmp_path / "images", {"train/red": 16, "train/blue": 16, "test/red": 4, "test/blue": 4})
    run = kerasimg.train(tiny() if kind == "plain" else augmented, data=folder, out=tmp_path / "runs", verbose=0)
    assert len(run.history) == 3
    assert all(np.isfinite(row["loss"]) for row in run.history)
    assert json.loads((run.folder / "environment.json").read_text())["backend"] == keras.backend.backend()
    if kind == "plain":
        assert run.scores["accuracy"] == 1.0
    assert kerasimg.evaluate(run)["accuracy"] == run.scores["accuracy"]
    found = kerasimg.predict(run, folder / "test")
    again = Classifier.open(run.folder / "model.keras").probabilities(
        np.stack([decoded(prediction.file) for prediction in found])
    )
    np.testing.assert_allclose([list(one.probabilities.values()) for one in found], again, rtol=0, atol=1e-6)


def decoded(file):
    return np.asarray(PIL.Image.open(file), dtype="float32")


def best_gain(name):
    """The gain and divisor with the largest effect of the image, among those with no visible effect of rounding."""
    found = []
    for gain in (1.0, 1.2, 1.4, 1.5, 1.6, 1.7, 2.0):
        model = build(name, gain, 1.0)
        before = keras.Model(model.input, model.layers[-1].input)
        kernel = model.layers[-1].get_weights()[0]
        images = draw_images(model)
        rounded = images * (1 + 1e-6 * np.random.default_rng(2).uniform(-1, 1, images.shape))
        logits, near = (outputs(before, these.astype("float32")) @ kernel for these in (images, rounded))
        spread = float(np.float32(logits.std()))
        if np.abs(near - logits).max() / spread < TOLERANCE / 5:
            found.append((float(np.abs(logits[0] - logits[1]).max()) / spread, gain, spread))
    return max(found)[1:]


def regenerate():
    drawn = {}
    for name in SPECS:
        gain, divisor = best_gain(name)
        values = outputs(build(name, gain, divisor)).astype(float).round(7).tolist()
        drawn[name] = {"gain": gain, "divisor": divisor, "outputs": values}
    content = {"backend": keras.backend.backend(), "drawn": drawn, "efficientnet_lite0": shipped_outputs()}
    EXPECTED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    regenerate()
