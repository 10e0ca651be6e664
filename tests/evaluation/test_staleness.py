"""What is derived from a model knows of which; a change of the model makes it stale, and whoever reads it says so."""

import json
import logging
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import kerasimg
from kerasimg.evaluation.calibrate import calibration_verdict, temperature_interval
from kerasimg.models.classifier import Classifier, set_decisions, weights_digest
from kerasimg.run_folder import RunFolder
from kerasimg.staleness import MEMBER, as_identity, change, identity_of_file, mark, stale_files


def changed_weights(run):
    """The run's model with other weights in its file."""
    classifier = Classifier.open(run.folder)
    classifier.model.set_weights([array * 0.5 for array in classifier.model.get_weights()])
    classifier.save(run.folder / "model.keras")


def stale(run):
    return {each.path.name: (each.why, each.command) for each in stale_files(run)}


def without_identity(file):
    """The model file as an earlier version wrote it."""
    with zipfile.ZipFile(file) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    content = json.loads(members[MEMBER])
    del content["weights"]
    with zipfile.ZipFile(file, "w") as archive:
        for member, held in (members | {MEMBER: json.dumps(content).encode()}).items():
            archive.writestr(member, held)


def test_the_model_file_and_the_figures_store_the_same_identity(make_run):
    run = make_run("binary")
    model = identity_of_file(run.folder / "model.keras")
    assert model == run.scores["model"] == Classifier.open(run.folder).identity()
    assert (model["temperature"], model["thresholds"]) == (1.0, None)
    assert stale(run) == {}


def test_the_digest_is_of_the_weights_and_of_nothing_else(make_run, tmp_path):
    classifier = Classifier.open(make_run("multiclass").folder)
    digest = weights_digest(classifier.model)
    replace(classifier, temperature=2.0).save(tmp_path / "again.keras")
    assert weights_digest(Classifier.open(tmp_path / "again.keras").model) == digest
    kernel, bias = classifier.model.get_weights()
    classifier.model.set_weights([kernel, np.nextafter(bias, 1)])
    assert weights_digest(classifier.model) != digest


def test_other_weights_make_figures_label_errors_calibration_and_thresholds_stale(make_run, caplog):
    run = make_run("binary")
    kerasimg.choose_thresholds(run)
    kerasimg.calibrate(run)
    kerasimg.label_errors(run)
    assert stale(run) == {}
    changed_weights(run)
    why = "the model's weights have changed since"
    assert stale(run) == {
        "metrics.json": (why, f"evaluate {run.folder}"),
        "label_errors.json": (why, f"run label-errors {run.folder}"),
        "calibration.json": (why, f"run calibrate {run.folder}"),
        "thresholds.json": (why, f"run thresholds {run.folder}"),
    }
    with caplog.at_level(logging.WARNING, "kerasimg"):
        kerasimg.evaluate(run)
    assert "metrics.json" not in stale(run)  # evaluate has renewed it, and names the others
    assert [line.split("'")[1].rsplit("/", 1)[1] for line in caplog.messages if "is stale" in line] == [
        "label_errors.json",
        "calibration.json",
        "thresholds.json",
    ]


def test_calibrating_names_what_it_makes_stale_and_undoing_it_makes_that_right_again(make_run, caplog):
    run = make_run("multiclass")
    kerasimg.label_errors(run)
    with caplog.at_level(logging.WARNING, "kerasimg"):
        temperature = kerasimg.calibrate(run)["temperature"]
    (message,) = [line for line in caplog.messages if "is stale" in line]
    assert f"label_errors.json' is stale: the model's temperature was 1 and is {temperature:.4g} now" in message
    assert message.endswith(f"kerasimg run label-errors {run.folder}")
    kerasimg.calibrate(run, undo=True)
    assert stale(run) == {}


def test_thresholds_chosen_before_calibration_move_along_in_their_file_too(make_run):
    run = make_run("multilabel")
    chosen = kerasimg.choose_thresholds(run)["thresholds"]
    kerasimg.calibrate(run)
    moved = RunFolder.of(run).required("thresholds.json")
    assert list(moved["thresholds"].values()) == list(Classifier.open(run.folder).thresholds)
    assert moved["thresholds"] != chosen
    assert {name: row["threshold"] for name, row in moved["labels"].items()} == moved["thresholds"]
    assert stale(run) == {}


def test_other_thresholds_make_figures_stale_and_label_errors_not(make_run):
    run = make_run("binary")
    kerasimg.label_errors(run)
    set_decisions(run.folder / "model.keras", replace(Classifier.open(run.folder), thresholds=(0.25,)))
    assert stale(run) == {
        "metrics.json": ("the model's thresholds have changed since", f"evaluate {run.folder}"),
    }


def test_compare_says_which_of_its_figures_are_stale(make_run, caplog):
    first, second = make_run("binary", "first"), make_run("binary", "second")
    changed_weights(second)
    with caplog.at_level(logging.WARNING, "kerasimg"):
        kerasimg.compare(first, second)
    (message,) = caplog.messages
    assert f"{second.folder}/evaluation/metrics.json' is stale" in message
    assert message.endswith(f"kerasimg evaluate {second.folder}")


def test_files_of_an_earlier_version_are_unknown_and_not_stale(make_run):
    run = make_run("binary")
    metrics = run.folder / "evaluation" / "metrics.json"
    content = json.loads(metrics.read_text())
    del content["model"]
    metrics.write_text(json.dumps(content))
    changed_weights(run)
    assert stale(run) == {}
    kerasimg.evaluate(run)
    changed_weights(run)
    assert list(stale(run)) == ["metrics.json"]
    without_identity(run.folder / "model.keras")
    assert stale(run) == {}
    assert Classifier.open(run.folder).temperature == 1.0
    set_decisions(run.folder / "model.keras", Classifier.open(run.folder))  # from now on it is known
    assert list(stale(run)) == ["metrics.json"]


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"model": "x"}', '{"model": {"weights": 3}}'])
def test_a_spoilt_file_is_not_called_stale(make_run, spoilt):
    run = make_run("binary")
    (run.folder / "evaluation" / "metrics.json").write_text(spoilt)
    changed_weights(run)
    assert stale(run) == {}


def test_an_identity_from_a_file_is_only_what_an_identity_may_be():
    digest = "0" * 64
    assert as_identity({"weights": f"{digest}--><script>"}) is None
    assert mark({"weights": digest, "temperature": "--><b>", "other": 1}) == (
        f'<!-- kerasimg model {{"weights": "{digest}"}} -->'
    )
    now = {"weights": digest, "temperature": 2.0, "thresholds": None}
    assert change({"weights": digest}, now) is None
    assert change({"weights": digest, "temperature": 1}, now) == "the model's temperature was 1 and is 2 now"


def test_a_calibration_on_few_images_warns_with_the_interval(make_run, caplog):
    run = make_run("multiclass")
    keep(run, "validation", 34)
    with caplog.at_level(logging.WARNING, "kerasimg"):
        result = kerasimg.calibrate(run)
    low, high = result["interval"]
    assert low < result["temperature"] < high
    assert any(
        line.startswith("warning: fitted on 34 images only, fewer than 50: the 95 % interval of the temperature is ")
        for line in caplog.messages
    )


def test_a_temperature_that_makes_the_held_out_images_worse_is_not_applied(make_run, caplog):
    run = make_run("multiclass", sure=0.02)  # about as sure as it is right, so that few images mislead
    before, scores = (run.folder / "model.keras").read_bytes(), run.scores
    keep(run, "validation", 8)
    with caplog.at_level(logging.WARNING, "kerasimg"):
        result = kerasimg.calibrate(run)
    test = result["parts"]["test"]
    assert any(test["after"][name] > test["before"][name] for name in ("log_loss", "calibration_error"))
    assert (result["applied"], result["temperature"]) == (False, 1.0)
    assert result["fitted"] != 1.0
    assert (run.folder / "model.keras").read_bytes() == before
    assert run.scores == scores
    record = json.loads((run.folder / "calibration.json").read_text())
    assert record == result.to_dict()
    assert stale_files(run) == []
    off = {"calibration_error": 0.2, "intervals": {"calibration_error": [0.1, 0.3]}}
    assert (
        calibration_verdict(off, record),
        calibration_verdict(off, None),
        calibration_verdict(off | {"temperature": 2.0}, None),
    ) == (
        "refused",
        "off",
        "calibrated",
    )
    assert calibration_verdict(off | {"intervals": {"calibration_error": [0.0, 0.3]}}, None) == "unshown"
    assert calibration_verdict({"calibration_error": 0.05}, None) == "right"
    assert any("nothing was changed, the temperature stays 1" in line for line in caplog.messages)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_interval_of_the_temperature_holds_it_in_95_of_100_draws(task):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        z = random.normal(0, 1.5, (300, 1 if task == "binary" else 3))
        if task == "multiclass":
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            truth = (p.cumsum(axis=1) > random.random((300, 1))).argmax(axis=1)
            sure = np.exp(2 * z) / np.exp(2 * z).sum(axis=1, keepdims=True)
        else:
            truth = (random.random(z.shape) < 1 / (1 + np.exp(-z))).astype(int)
            truth = truth.reshape(-1) if task == "binary" else truth
            sure = 1 / (1 + np.exp(-2 * z))
        fitted = kerasimg.evaluation.calibrate.fit_temperature(truth, sure, task)
        low, high = temperature_interval(truth, sure, fitted, task)
        held += low <= 2 <= high
    assert 180 <= held <= 198


def keep(run, part, count):
    """Leaves that number of images in a part."""
    record = RunFolder.of(run).required("data.json")
    of_part = [row for row in record["images"] if row["part"] == part]
    dropped = {row["id"] for row in of_part[count:]}
    record["images"] = [row for row in record["images"] if row["id"] not in dropped]
    (run.folder / "data.json").write_text(json.dumps(record))


def test_a_copy_of_a_run_is_as_fresh_as_the_run(make_run, tmp_path):
    run = make_run("binary")
    shutil.copytree(run.folder, tmp_path / "copy")
    assert stale_files(tmp_path / "copy") == []
