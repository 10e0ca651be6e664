"""The exported model predicts like the classifier, for any last layer and dtype policy."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
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


def classifier(
    task: str, last: list[Any], temperature: float, policy: str = "float32", flips: bool = False
) -> Classifier:
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
    return Classifier(model, spec, names, None, temperature, flips=flips)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("end", ["dense", "activation", "logits"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_model_and_logits_match_the_classifier(task: str, end: str, temperature: float):
    trained = classifier(task, ends(task)[end], temperature)
    expected = trained.probabilities(PIXELS)
    whole = inference_model(trained.model, temperature, trained.spec.task)
    assert np.allclose(keras.ops.convert_to_numpy(whole(PIXELS)), expected, atol=2e-6)
    logits, activation = logits_model(trained.model, temperature, trained.spec.task)
    probabilities = getattr(keras.activations, activation)(logits(PIXELS))
    assert np.allclose(keras.ops.convert_to_numpy(probabilities), expected, atol=2e-6)


@pytest.mark.parametrize("end", ["dense", "activation", "logits"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_model_and_logits_of_a_classifier_that_flips_match_it(task: str, end: str):
    trained = classifier(task, ends(task)[end], 0.4, flips=True)
    # The mean does not see a mirror image: the filters do.
    trained.model.layers[3].set_weights([np.random.default_rng(0).normal(0, 0.1, (3, 3, 3, 5)), np.zeros(5)])
    expected = trained.probabilities(PIXELS)
    whole = inference_model(trained.model, 0.4, trained.spec.task, flips=True)
    assert np.allclose(keras.ops.convert_to_numpy(whole(PIXELS)), expected, atol=2e-6)
    logits, activation = logits_model(trained.model, 0.4, trained.spec.task, flips=True)
    probabilities = getattr(keras.activations, activation)(logits(PIXELS))
    assert np.allclose(keras.ops.convert_to_numpy(probabilities), expected, atol=2e-6)


def test_other_last_layer_has_logits():
    trained = classifier("multiclass", [keras.layers.EinsumDense("ab,bc->ac", (3,), activation="softmax")], 2.0)
    logits, activation = logits_model(trained.model, 2.0, "multiclass")
    probabilities = keras.ops.convert_to_numpy(getattr(keras.activations, activation)(logits(PIXELS)))
    assert np.allclose(probabilities, trained.probabilities(PIXELS), atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_model_trained_in_mixed_precision_is_exported_in_float32(policy: str):
    trained = classifier("multiclass", [keras.layers.Dense(3, activation="softmax")], 1.0, policy)
    assert trained.model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    exact = in_float32(trained.model)
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    for ours, theirs in zip(exact.get_weights(), trained.model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    assert in_float32(exact) is exact


@pytest.mark.parametrize("precision", ["float32", "int16"])
def test_litert_flips_and_divides_by_the_temperature(precision: Any, tmp_path: Path):
    trained = classifier("multiclass", ends("multiclass")["dense"], 3.0, flips=True)
    (bundle,) = kerasimg.export(trained, "litert", precision=precision, out=tmp_path, data=_images(tmp_path))
    assert bundle.manifest.flips
    [row] = bundle.manifest.parity
    assert row.greatest_difference < (1e-5 if precision == "float32" else 0.01)


def _images(folder: Path) -> Path:
    for number, pixels in enumerate(np.random.default_rng(1).integers(0, 256, (12, 4, 4, 3)).astype("uint8")):
        file = folder / "photos" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(file)
    return folder / "photos"


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_each_task_runs_in_every_runtime(task: str, tmp_path: Path):
    trained = classifier(task, ends(task)["dense"], 2.0)
    for bundle in kerasimg.export(trained, ["litert", "onnx"], out=tmp_path, allow_uncompared=True):
        probabilities = open_runtime(bundle)(PIXELS.astype(np.uint8))
        assert probabilities.shape == (6, 1 if task == "binary" else 3)
        assert np.allclose(probabilities, trained.probabilities(PIXELS), atol=2e-6)
        assert kerasimg.verify(bundle).vectors[0].passed
