"""What is exported is what the classifier says, whatever its last layer and its numbers are."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.deploy.logits import in_float32, inference_model, logits_model
from kerasimg.deploy.targets import open_runtime
from kerasimg.models.classifier import Classifier

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype("float32")


def ends(task: str) -> dict[str, Any]:
    activation, units = ("softmax", 3) if task == "multiclass" else ("sigmoid", 1 if task == "binary" else 3)
    return {
        "dense": [keras.layers.Dense(units, activation=activation)],
        "activation": [keras.layers.Dense(units), keras.layers.Activation(activation)],
        "logits": [keras.layers.Dense(units)],
    }


def classifier(task: str, last: list[Any], temperature: float, policy: str = "float32") -> Classifier:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.Rescaling(1 / 32)(inputs)
        x = keras.layers.RandomFlip()(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(x))
        for layer in last:
            x = layer(x)
        model = keras.Model(inputs, x)
    finally:
        keras.config.set_dtype_policy(before)
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "name": "ends",
            "task": task,
            "image": {"size": [4, 4]},
            "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 1}],
        }
    )
    names = ("no", "yes") if task == "binary" else ("a", "b", "c")
    return Classifier(model, spec, names, None, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("end", ["dense", "activation", "logits"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_model_and_its_logits_say_what_the_classifier_says(task: str, end: str, temperature: float):
    one = classifier(task, ends(task)[end], temperature)
    expected = one.probabilities(PIXELS)
    whole = inference_model(one.model, temperature, one.spec.task)
    assert np.allclose(keras.ops.convert_to_numpy(whole(PIXELS)), expected, atol=2e-6)
    logits, activation = logits_model(one.model, temperature, one.spec.task)
    found = getattr(keras.activations, activation)(logits(PIXELS))
    assert np.allclose(keras.ops.convert_to_numpy(found), expected, atol=2e-6)


def test_a_last_layer_of_another_kind_has_logits_too():
    one = classifier("multiclass", [keras.layers.EinsumDense("ab,bc->ac", (3,), activation="softmax")], 2.0)
    logits, activation = logits_model(one.model, 2.0, "multiclass")
    found = keras.ops.convert_to_numpy(getattr(keras.activations, activation)(logits(PIXELS)))
    assert np.allclose(found, one.probabilities(PIXELS), atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_what_was_trained_in_mixed_precision_is_float32(policy: str):
    one = classifier("multiclass", [keras.layers.Dense(3, activation="softmax")], 1.0, policy)
    assert one.model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    exact = in_float32(one.model)
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    for ours, theirs in zip(exact.get_weights(), one.model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    assert in_float32(exact) is exact


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_each_task_goes_through_every_runtime(task: str, tmp_path: Path):
    one = classifier(task, ends(task)["dense"], 2.0)
    for bundle in kerasimg.export(one, ["litert", "onnx"], out=tmp_path, allow_uncompared=True):
        found = open_runtime(bundle)(PIXELS.astype(np.uint8))
        assert found.shape == (6, 1 if task == "binary" else 3)
        assert np.allclose(found, one.probabilities(PIXELS), atol=2e-6)
        assert kerasimg.verify(bundle).vectors[0].passed
