"""The same spec with the same weights gives the same outputs on TensorFlow, JAX and PyTorch, and trains on each.

No process holds two backends, so what they are compared by stands in expected_outputs.json: for each spec, weights
drawn by NumPy, a picture drawn by NumPy, and the outputs that TensorFlow gave. Every backend must give them to 1e-4,
TensorFlow too, so that no change of a spec goes by unnoticed. When one is meant:

    python tests/contract/test_backends.py
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
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
"""Specs, with params that make them small: convolutions of every kind, normalizations, tokens, splits and joins."""


def draw_weights(model):
    """Weights in layer order, from NumPy, with which the outputs depend on every layer and do not saturate."""
    draw = np.random.default_rng(0)
    values = []
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if len(shape) > 1:
            fan_in = np.prod(shape[:-2]) * (1 if "depthwise" in variable.path else shape[-2])
            values.append(draw.normal(0, (2 / max(1, fan_in)) ** 0.5, shape))
        elif "gamma" in name or "variance" in name or "scale" in name:
            values.append(draw.uniform(0.5, 1.5, shape))
        else:
            values.append(draw.uniform(-0.1, 0.1, shape))
    model.set_weights([value.astype("float32") for value in values])


def draw_pictures(model):
    """Two pictures, each a colour with noise over it."""
    draw = np.random.default_rng(1)
    height, width, channels = model.input_shape[1:]
    colours = draw.uniform(0, 255, (2, 1, 1, channels))
    return ((colours + draw.uniform(0, 255, (2, height, width, channels))) / 2).astype("float32")


def found_outputs(name):
    """The logits, if the last layer has a softmax: probabilities would hide what is small."""
    model = kerasimg.build(name, weights=None, num_classes=CLASSES, **SPECS[name])
    draw_weights(model)
    return keras.ops.convert_to_numpy(model(draw_pictures(model), training=False))
