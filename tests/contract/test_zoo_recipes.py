"""Padding, strides, initializers and momentum of the zoo specs match the code that they cite."""

from typing import Any

import keras
import pytest

import kerasimg
from kerasimg.deploy.measure import macs
from kerasimg.models.budget import no_variables

SMALL: dict[str, dict[str, Any]] = {
    "convmixer": {"size": 8, "depth": 1, "width": 16},
    "convnext": {"size": 32, "depths": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
    "densenet": {"size": 32, "depths": [1, 1, 1, 1], "growth": 8},
    "ghostnet": {"size": 32, "width": 0.5},
    "resnet": {"size": 32, "variant": "18", "depths": [1, 1, 1, 1]},
    "resnet_v2": {"size": 32, "depths": [2, 2, 2, 2]},
    "shufflenet_v2": {"size": 32, "variant": "0.5x"},
}


def layers(name: str, *kinds: type, **params: Any) -> list[Any]:
    with no_variables():
        model = kerasimg.build(name, weights=None, **{**SMALL.get(name, {}), **params})
    return [layer for layer in model.layers if type(layer) in kinds]


@pytest.mark.parametrize("name", ["convmixer", "densenet", "ghostnet", "resnet", "resnet_v2", "shufflenet_v2"])
def test_batch_normalization_has_the_momentum_of_pytorch(name: str):
    assert {layer.momentum for layer in layers(name, keras.layers.BatchNormalization)} == {0.9}


@pytest.mark.parametrize("name", ["densenet", "resnet", "resnet_v2"])
def test_convolutions_of_residual_networks_have_he_initialization(name: str):
    for layer in layers(name, keras.layers.Conv2D):
        initializer = layer.kernel_initializer
        assert (type(initializer).__name__, initializer.scale, initializer.mode) == ("VarianceScaling", 2.0, "fan_out")


def test_convnext_is_initialized_from_a_truncated_normal_distribution():
    for layer in layers("convnext", keras.layers.Conv2D, keras.layers.Dense):
        assert (type(layer.kernel_initializer).__name__, layer.kernel_initializer.stddev) == ("TruncatedNormal", 0.02)


@pytest.mark.parametrize("name", ["ghostnet", "resnet", "shufflenet_v2"])
def test_strided_convolutions_are_padded_on_both_sides_by_default(name: str):
    def paddings(**params: Any) -> set[str]:
        convolutions = layers(name, keras.layers.Conv2D, keras.layers.DepthwiseConv2D, **params)
        return {layer.padding for layer in convolutions if layer.strides == (2, 2) and layer.kernel_size[0] in (3, 5)}

    assert paddings() == {"valid"}
    assert paddings(padding="same") == {"same"}


def test_resnet_v1_5_has_its_stride_in_the_3x3_convolution_and_no_biases():
    params = {"variant": "50", "stride_in_3x3": True, "conv_bias": False}
    convolutions = layers("resnet", keras.layers.Conv2D, **params)
    strided = {layer.kernel_size[0] for layer in convolutions if layer.strides == (2, 2)}
    assert strided == {1, 3, 7}  # the shortcuts, the blocks and the stem
    assert not any(layer.use_bias for layer in convolutions)


def test_imagenet_weights_of_another_network_are_refused():
    with pytest.raises(kerasimg.WeightsError, match=r"keras\.applications has no ResNet50 v1\.5"):
        kerasimg.build("resnet", weights="imagenet", stride_in_3x3=True)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts in TensorFlow's graph")
@pytest.mark.parametrize(
    ("name", "params", "millions"),
    [("squeezenet", {"variant": "1.0"}, 819), ("squeezenet", {"variant": "1.1"}, 349), ("regnet", {}, 402)],
)
def test_multiplications_match_the_paper(name: str, params: dict[str, Any], millions: int):
    assert macs(kerasimg.build(name, weights=None, **params)) / 1e6 == pytest.approx(millions, abs=0.6)
