"""Padding of convolutions by numbers and equally on both sides, compared with NumPy."""

from typing import Any

import keras
import numpy as np
import pytest

import kerasimg


def built(size: int = 8, **node: Any) -> keras.Model:
    return kerasimg.build({"kerasimg": 1, "image": {"size": [size, size], "channels": 1, "scale": "none"},
                           "model": [{"layer": "Conv2D", "name": "conv", "filters": 1, **node}]})  # fmt: skip


def correlated(image: np.ndarray, kernel: np.ndarray, pads: tuple[int, int], stride: int, dilation: int) -> np.ndarray:
    """What PyTorch's Conv2d gives: the image filled up with zeros on both sides, then a kernel moved over it."""
    padded = np.pad(image, [(pad, pad) for pad in pads])
    reach = [(side - 1) * dilation + 1 for side in kernel.shape]
    places = [range(0, padded.shape[axis] - reach[axis] + 1, stride) for axis in (0, 1)]
    return np.array(
        [
            [(padded[y : y + reach[0] : dilation, x : x + reach[1] : dilation] * kernel).sum() for x in places[1]]
            for y in places[0]
        ]
    )


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(
    ("padding", "kernel", "stride", "dilation", "pads"),
    [
        ("symmetric", 3, 2, 1, (1, 1)),
        ("symmetric", 5, 2, 1, (2, 2)),
        ("symmetric", 3, 1, 1, (1, 1)),
        ("symmetric", 3, 1, 2, (2, 2)),
        ("symmetric", [3, 5], 2, 1, (1, 2)),
        ("symmetric", 1, 2, 1, (0, 0)),
        ("symmetric", 4, 2, 1, (1, 1)),
        (1, 3, 2, 1, (1, 1)),
        (2, 3, 1, 1, (2, 2)),
        ([0, 1], 3, 1, 1, (0, 1)),
        (0, 3, 1, 1, (0, 0)),
    ],
)
def test_a_convolution_is_padded_on_both_sides_alike(padding, kernel, stride, dilation, pads, size):
    model = built(size, kernel_size=kernel, padding=padding, strides=stride, dilation_rate=dilation)
    pixels = np.random.default_rng(0).normal(size=(1, size, size, 1)).astype("float32")
    weights = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)[..., 0, 0]
    expected = correlated(pixels[0, ..., 0], weights, pads, stride, dilation)
    found = keras.ops.convert_to_numpy(model(pixels))[0, ..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_same_pads_otherwise_where_a_stride_meets_an_even_side():
    same, symmetric = (built(8, kernel_size=3, strides=2, padding=padding) for padding in ("same", "symmetric"))
    symmetric.set_weights(same.get_weights())
    pixels = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype("float32")
    assert np.abs(same(pixels) - symmetric(pixels)).max() > 0.1


def test_no_layer_is_added_where_keras_pads_the_same():
    assert [layer.name for layer in built(kernel_size=3, padding="symmetric").layers] == ["image", "conv"]
    strided = built(kernel_size=3, padding="symmetric", strides=2)
    assert [layer.name for layer in strided.layers] == ["image", "conv_padding", "conv"]


def test_a_padded_layer_that_is_called_again_is_padded_again():
    nodes = [
        {"layer": "DepthwiseConv2D", "name": "conv", "kernel_size": 3, "padding": 2, "use_bias": False},
        {"reuse": "conv"},
    ]
    model = kerasimg.build({"kerasimg": 1, "image": {"size": [4, 4], "channels": 1}, "model": nodes})
    assert model.output_shape == (None, 8, 8, 1)


@pytest.mark.parametrize("padding", [-1, 1.5, "full", [1], [1, 2, 3]])
def test_other_paddings_are_errors_of_check(padding):
    with pytest.raises(kerasimg.SpecError, match="padding: expected 'valid', 'same', 'symmetric', an integer >= 0"):
        built(kernel_size=3, padding=padding)
