"""The plain Keras code that the docs show beside a zoo spec builds the same model."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import kerasimg

SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets"
NAMES = ("mobilenet", "simple_cnn", "branched")


class Pair(NamedTuple):
    plain: keras.Model
    ours: keras.Model


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Pair:
    source = (SNIPPETS / f"plain_{request.param}.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(source.replace('weights="imagenet"', "weights=None"), names)  # tests have no network
    return Pair(names["model"], kerasimg.build(f"zoo/{request.param}.json", weights=None))


def layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers sorted by class name: the order of branches may differ, and a Sequential lists no input."""
    shown = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return sorted(shown, key=lambda layer: (type(layer).__name__, str(layer.output.shape)))


def test_every_snippet_matches_a_zoo_spec_and_the_source_of_its_weights():
    assert {path.stem for path in SNIPPETS.glob("plain_*.py")} == {f"plain_{name}" for name in NAMES}
    assert 'weights="imagenet"' in (SNIPPETS / "plain_mobilenet.py").read_text(encoding="utf-8")
    assert kerasimg.load("mobilenet").nodes[0].arguments["weights"] == "imagenet"


def test_the_layers_have_the_same_classes_and_shapes(pair: Pair):
    def classes_and_shapes(model: keras.Model) -> list[tuple[str, Any]]:
        return [(type(layer).__name__, layer.output.shape) for layer in layers(model)]

    assert classes_and_shapes(pair.ours) == classes_and_shapes(pair.plain)


def test_the_layers_have_the_same_config(pair: Pair):
    for ours, plain in zip(layers(pair.ours), layers(pair.plain), strict=True):
        if isinstance(ours, keras.Model):
            continue
        assert ours.get_config() | {"name": ""} == plain.get_config() | {"name": ""}


def test_the_same_parameters_train(pair: Pair):
    assert pair.ours.count_params() == pair.plain.count_params()
    shapes = [tuple(weight.shape) for weight in pair.plain.weights]
    assert [tuple(weight.shape) for weight in pair.ours.weights] == shapes
    trained = [tuple(weight.shape) for weight in pair.plain.trainable_weights]
    assert [tuple(weight.shape) for weight in pair.ours.trainable_weights] == trained


def test_with_equal_weights_the_outputs_are_equal(pair: Pair):
    pair.ours.set_weights(pair.plain.get_weights())
    size = pair.plain.input_shape[1:]
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size)).astype("float32")
    np.testing.assert_allclose(np.asarray(pair.ours(pixels)), np.asarray(pair.plain(pixels)), rtol=0, atol=1e-6)
