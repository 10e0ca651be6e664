"""Every model of keras.applications becomes a spec through `to_spec`, and the spec builds the same model."""

import inspect
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.models.budget import Budget, no_variables
from kerasimg.models.graph import Graph
from kerasimg.models.to_spec import copy_weights, to_spec

MODELS = sorted(name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing))
SMALLEST_PX = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
REWRITTEN = ("ConvNeXt", "InceptionResNetV2", "MobileNetV3")
"""Models with operations, private layers or nested models: the spec has other layers with the same effect."""
ONE_OF_EACH_FAMILY = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
SMALL = ("EfficientNetB0", "MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50V2", "Xception")


def application(name: str, **arguments: Any) -> keras.Model:
    size = SMALLEST_PX.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **arguments)


def graph(model: keras.Model) -> list[tuple[Any, ...]]:
    """For each layer in order: its class, the layers it is called on, the shapes of its weights and of its output."""
    numbers = {layer.name: number for number, layer in enumerate(model.layers)}
    return [
        (
            type(layer).__name__,
            [
                numbers[tensor._keras_history.operation.name]
                for node in layer._inbound_nodes
                for tensor in node.input_tensors
            ],
            [tuple(weight.shape) for weight in layer.weights],
            tuple(layer.output.shape),
        )
        for layer in model.layers
    ]


def assert_round_trip(name: str, **arguments: Any) -> None:
    with no_variables():
        model = application(name, **arguments)
        spec = to_spec(model)
        image = keras.Input((*spec.image.size, spec.image.channels))
        built = keras.Model(image, Graph(spec, Budget()).make(image))
        assert built.count_params() == model.count_params() == spec.expect.params
        assert built.output_shape == model.output_shape
        assert [tuple(w.shape) for w in built.weights] == [tuple(w.shape) for w in model.weights]
        if not name.startswith(REWRITTEN):
            assert graph(built) == graph(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_keras_applications_keeps_its_graph(name: str):
    assert_round_trip(name, classes=10)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_a_backbone_of_keras_applications_keeps_its_graph(name: str):
    assert_round_trip(name, include_top=False)


@pytest.mark.parametrize("name", SMALL)
def test_with_copied_weights_the_outputs_are_equal(name: str):
    model = application(name, classes=10, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    built = kerasimg.build(to_spec(model))
    pixels = rng.uniform(0, 255, (1, *model.input_shape[1:])).astype("float32")
    expected = model(pixels)
    built.set_weights(model.get_weights())
    np.testing.assert_allclose(built(pixels), expected, rtol=1e-5, atol=1e-5)
    copy_weights(model, built)
    np.testing.assert_allclose(built(pixels), expected, rtol=1e-5, atol=1e-5)


def test_all_models_of_keras_applications_are_tested():
    assert len(MODELS) == 40
    assert {*ONE_OF_EACH_FAMILY, *SMALL} <= set(MODELS)
