import json
import shutil

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, KerasimgError
from kerasimg.evaluation.calibrate import PRIOR, fit_temperature, temperature_interval
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import RunFolder

TASKS = ["multiclass", "binary", "multilabel"]


def drawn(task, n=20000, k=4, seed=0):
    """Truth and logits that say exactly how likely it is."""
    random = np.random.default_rng(seed)
    z = random.normal(0, 1.5, (n, 1 if task == "binary" else k))
    if task == "multiclass":
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1), z
    truth = (random.random(z.shape) < 1 / (1 + np.exp(-z))).astype(int)
    return truth.reshape(-1) if task == "binary" else truth, z


def probabilities(task, z):
    if task == "multiclass":
        powers = np.exp(z - z.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype("float32")
    return (1 / (1 + np.exp(-z))).astype("float32")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(task, temperature):
    truth, z = drawn(task)
    assert fit_temperature(truth, probabilities(task, z * temperature), task) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_is_more_likely():
    truth, z = drawn("multiclass", n=500)
    p = probabilities("multiclass", 2 * z).astype("float64")
    best = fit_temperature(truth, p, "multiclass")

    def loss(temperature):
        scaled = np.exp(np.log(p) / temperature)
        return -np.log((scaled / scaled.sum(axis=1, keepdims=True))[np.arange(500), truth]).sum() + np.log(
            temperature
        ) ** 2 / (2 * PRIOR**2)

    assert loss(best) < min(loss(best * 1.001), loss(best / 1.001))


@pytest.mark.parametrize("wrong", [0, 1])
def test_few_images_that_are_nearly_all_right_do_not_make_a_model_sure(wrong):
    truth, p = np.arange(22) % 2, np.where(np.eye(2)[np.arange(22) % 2] == 1, 0.6, 0.4)
    truth[:wrong] = 1 - truth[:wrong]
    temperature = fit_temperature(truth, p, "multiclass")
    low, high = temperature_interval(truth, p, temperature, "multiclass")
    assert 0.2 < temperature < 1
    assert 0.1 < low < temperature < high


def test_many_images_that_are_all_right_fit_no_temperature():
    p = np.tile([[0.6, 0.4]], (20000, 1))
    with pytest.raises(KerasimgError, match="too few of them are wrong"):
        fit_temperature(np.zeros(20000, int), p, "multiclass")


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_is_too_sure_becomes_less_so_and_decides_the_same(make_run, task):
    run = make_run(task)
    before = run.scores
    result = kerasimg.calibrate(run)
    assert result.to_dict() == RunFolder.of(run).required("calibration.json")
    assert result["temperature"] > 1.5
    assert result["fitted_on"]["part"] == "validation"
    test = result["parts"]["test"]
    assert (test["before"]["log_loss"], test["before"]["calibration_error"]) == (
        before["log_loss"],
        before["calibration_error"],
    )
    assert test["after"]["calibration_error"] < before["calibration_error"]
    after = run.scores
    assert after["temperature"] == result["temperature"]
    assert after["calibration_error"] == test["after"]["calibration_error"]
    same = "subset_accuracy" if task == "multilabel" else "confusion"
    assert after[same] == before[same]
    assert kerasimg.evaluate(run) == after


def test_the_temperature_travels_with_the_model_file_and_leaves_the_keras_model_alone(make_run, tmp_path):
    run = make_run("multiclass")
    weights = run.model.get_weights()
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype("float32")
    raw = Classifier.open(run).probabilities(images)
    temperature = kerasimg.calibrate(run)["temperature"]
    shutil.copy(run.folder / "model.keras", tmp_path / "elsewhere.keras")
    calibrated = Classifier.open(tmp_path / "elsewhere.keras")
    assert calibrated.temperature == temperature
    for old, new in zip(weights, calibrated.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "elsewhere.keras").predict(images, verbose=0), raw)
    assert calibrated.probabilities(images).max() < raw.max()
    (said,) = kerasimg.predict(run, images[:1].astype("uint8"))
    assert said.confidence == pytest.approx(calibrated.probabilities(images[:1]).max(), abs=1e-6)


def test_it_can_be_undone_and_fitted_twice(make_run):
    run = make_run("binary")
    before = run.scores
    first = kerasimg.calibrate(run)
    assert kerasimg.calibrate(run) == first
    assert kerasimg.calibrate(run, undo=True).to_dict() == {"temperature": 1.0}
    assert run.scores == before
    assert not (run.folder / "calibration.json").exists()


def test_other_images_may_be_named_and_a_model_file_needs_them(make_run, lists):
    run = make_run("binary")
    file = run.folder / "model.keras"
    with pytest.raises(CallError, match="name the data"):
        kerasimg.calibrate(file)
    result = kerasimg.calibrate(file, data=lists("binary"), part="train")
    assert (result["fitted_on"]["part"], list(result["parts"])) == ("train", ["train"])
    assert Classifier.open(file).temperature == result["temperature"]


def test_a_run_without_validation_says_so(make_run):
    run = make_run("binary")
    record = RunFolder.of(run).required("data.json")
    record["images"] = [one for one in record["images"] if one["part"] != "validation"]
    (run.folder / "data.json").write_text(json.dumps(record))
    with pytest.raises(CallError, match="the run has no validation part; name the data"):
        kerasimg.calibrate(run)
