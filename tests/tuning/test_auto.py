"""`auto`, on a tiny recipe: a head on frozen convolutions of 8 pixels."""

import json
import re
import runpy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg import catalog
from kerasimg.errors import CallError, DataError, KerasimgError
from kerasimg.reporting.auto_page import FEW_IMAGES, advice, write_auto_page
from kerasimg.tuning import auto as autos
from kerasimg.tuning.auto import auto, resume_auto
from kerasimg.tuning.auto_specs import Limits
from kerasimg.tuning.candidates import backbones_at_hand

DOCS = Path(__file__).parents[2] / "docs"
BACKBONE = {
    "kerasimg": 1,
    "name": "small",
    "image": {"size": [8, 8], "scale": "unit"},
    "model": [
        {"layer": "Conv2D", "filters": 12, "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": 2},
    ],
}
RECIPE = {
    "kerasimg": 1,
    "name": "transfer",
    "params": {"num_classes": 3, "size": 8, "views": 2, "epochs": 4, "lr": {"$float": [0.05, 0.5], "default": 0.1}},
    "image": {"size": ["=size", "=size"], "scale": "auto"},
    "augment": [{"layer": "RandomFlip", "mode": "horizontal"}],
    "model": [
        {"backbone": "small.json", "name": "base", "trainable": False, "weights": "small.weights.h5"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "name": "classes", "units": "=head_units", "activation": "=head_activation"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": "=lr"}},
    "fit": {
        "batch_size": 8,
        "views": "=views",
        "stages": [{"epochs": "=epochs", "keep": "best", "monitor": "val_loss"}],
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished auto of two trials in each step, over images of which a share has the wrong colour."""
    folder = tmp_path_factory.mktemp("auto")
    draw = np.random.default_rng(0)
    for name, place in (("red", 0), ("green", 1)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 160, (100, 100, 3))
            pixels[..., place if number % 8 else 1 - place] += 90
            PIL.Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / "photos" / name / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "small.json").write_text(json.dumps(BACKBONE))
        kerasimg.build("small.json").save_weights("small.weights.h5")
        (folder / "transfer.json").write_text(json.dumps(RECIPE))
        (folder / "photos" / "red" / "broken.png").write_bytes(b"no image")
        patch.setattr("kerasimg.spec.document.TIMED_TRIALS", 2)
        patch.setattr(autos, "SIZES", (16,))
        patch.setattr(autos, "MOST_EPOCHS", 2)
        path = auto(
            "photos",
            minutes=3,
            recipe="transfer.json",
            on_bad_image="skip",
            on_finished=write_auto_page,
            began=time.monotonic(),
        )
        yield kerasimg.Auto(path.resolve())


def test_auto_ends_with_a_run_a_spec_a_front_an_export_and_a_page(done):
    result = done.result
    assert [step["name"] for step in result["steps"]][:2] == ["recipe", "heads"]
    assert done.run.finished
    assert done.run.spec.params["size"] == (16 if result["step"] == "smaller" else 8)
    assert kerasimg.load(done, num_classes=2).search == ()
    assert sorted(done.run.classes) == ["green", "red"]
    assert "report.html" in {path.name for path in done.folder.iterdir()}
    assert "What was tried" in done.report.read_text()
    assert "http" not in done.report.read_text().replace("http-equiv", "")


def test_the_specs_of_all_steps_are_without_a_warning(done):
    written = [*done.folder.rglob("spec.json"), *done.folder.rglob("best.json")]
    assert any("finetune" in str(path) for path in written)
    assert [path for path in written if catalog.load(path, partial=True).warnings] == []


def test_the_result_is_no_worse_on_the_validation_images_than_the_recipe(done):
    result = done.result
    assert result["score"] >= result["recipe"]["score"]
    assert result["loss"] <= result["recipe"]["loss"]
    assert result["recipe"]["gain"] == pytest.approx(result["score"] - result["recipe"]["score"])
    own = kerasimg.evaluate(done.run, part="validation", verbose=0)
    assert own.accuracy == pytest.approx(result["score"])


def test_a_finished_auto_is_not_repeated_and_a_killed_one_repeats_no_finished_step(done, monkeypatch):
    assert resume_auto(done.folder) == done.folder
    (done.folder / "result.json").rename(done.folder / "before.json")
    monkeypatch.chdir(done.folder.parent.parent)
    trials = {path: path.stat().st_mtime_ns for path in done.folder.glob("*-tune-1/trials.csv")}
    resume_auto(done.folder)
    assert {path: path.stat().st_mtime_ns for path in done.folder.glob("*-tune-1/trials.csv")} == trials
    before = json.loads((done.folder / "before.json").read_text())
    assert (done.result["score"], done.result["run"]) == (before["score"], before["run"])


def test_a_damaged_image_leaves_no_folder(done, tmp_path, monkeypatch):
    monkeypatch.chdir(done.folder.parents[1])
    for call in (lambda: auto("photos", minutes=1, recipe="transfer.json", out=tmp_path), lambda: tune(tmp_path)):
        with pytest.raises(DataError, match=r"broken\.png"):
            call()
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_version_is_refused(done, tmp_path):
    call = json.loads((done.folder / "auto.json").read_text())
    (tmp_path / "auto.json").write_text(json.dumps({**call, "pace": {"pace": {"rate": 20.0}, "parts": {}}}))
    with pytest.raises(CallError, match="of another version"):
        resume_auto(tmp_path)


def test_without_time_for_the_recipe_plain_features_take_its_place(done, tmp_path, monkeypatch, caplog):
    measure = autos.measure_pace
    monkeypatch.chdir(done.folder.parents[1])
    monkeypatch.setattr("kerasimg.spec.document.TIMED_TRIALS", 2)
    monkeypatch.setattr(autos, "MOST_EPOCHS", 0)
    monkeypatch.setattr(autos, "SIZES", (6,))
    # A second an image: 4 minutes for four views of each image, and one for the images.
    monkeypatch.setattr(autos, "measure_pace", lambda *given: measure(*given)._replace(load_s=0.0, frozen_s=1.0))
    found = kerasimg.Auto(auto("photos", minutes=3, recipe="transfer.json", on_bad_image="skip", out=tmp_path))
    assert "3 minutes cannot hold transfer.json as it is, which takes about" in caplog.text
    assert found.result["steps"][0]["name"] == "heads"
    assert "recipe" not in {step["name"] for step in found.result["steps"]}
    assert (found.run.spec.params["size"], found.run.spec.fit.views) == (8, 1)
    assert found.run.scores.accuracy > 0.5
    caplog.clear()
    (found.folder / "result.json").unlink()
    resume_auto(found.folder)
    assert "cannot hold" not in caplog.text


def test_a_machine_that_became_too_slow_gives_one_small_model_late(done, tmp_path, monkeypatch, caplog):
    measure, search = autos.measure_pace, autos.tune

    def too_slow(document, **options):
        if document["name"] != "late":
            raise KerasimgError("the search ended before an epoch of its first trial did")
        return search(document, **options)

    monkeypatch.chdir(done.folder.parents[1])
    monkeypatch.setattr(autos, "SIZES", (16,))
    monkeypatch.setattr(autos, "measure_pace", lambda *given: measure(*given)._replace(start_s=30.0))
    monkeypatch.setattr(autos, "tune", too_slow)
    options = {"recipe": "transfer.json", "on_bad_image": "skip", "out": tmp_path, "on_finished": write_auto_page}
    found = kerasimg.Auto(auto("photos", minutes=1, began=time.monotonic() - 40, **options))
    assert "this machine is slower than at the start, and 1 minute ended without a model" in caplog.text
    assert (found.result["step"], found.run.spec.params["size"], found.result["exports"]) == ("late", 16, [])
    assert found.run.scores.accuracy > 0.5
    assert "More minutes" in found.report.read_text()


def test_a_best_model_whose_training_was_cut_is_warned_of(done, monkeypatch, caplog):
    opened = autos.open_search

    def open_stopped(folder):
        task, oracle = opened(folder)
        oracle.ended = {trial: replace(ended, status="stopped") for trial, ended in oracle.ended.items()}
        return task, oracle

    monkeypatch.chdir(done.folder.parents[1])
    monkeypatch.setattr(autos, "open_search", open_stopped)
    monkeypatch.setattr(autos, "total_epochs", lambda spec: 100)
    (done.folder / "result.json").unlink()
    resume_auto(done.folder)
    cut = done.result["notes"]["cut"]
    assert cut["of"] == 100
    assert f"3 minutes ended in epoch {cut['epochs']} of 100 of the best model" in caplog.text
    assert f"More minutes: the best model was trained for {cut['epochs']} of its 100 epochs." in advice(done.result)


def test_the_front_has_the_models_that_no_other_beats():
    best, worse = {"score": 0.9, "latency_ms": 2.0, "bytes": 5.0}, {"score": 0.8, "latency_ms": 3.0, "bytes": 6.0}
    assert [row["front"] for row in autos.marked([best, worse, {"score": 0.95}])] == [True, False, False]


def tune(out):
    return kerasimg.tune("transfer.json", data="photos", out=out, trials=1, verbose=0)


def test_the_command_ends_as_its_page_shows(done, monkeypatch):
    examples = SimpleNamespace(**runpy.run_path(str(DOCS / "examples.py")))
    [[example]] = examples.blocks((DOCS / "auto.md").read_text(encoding="utf-8"))
    saved = next(place for place, line in enumerate(example.output) if line.startswith("saved in "))
    monkeypatch.chdir(done.folder.parent.parent)
    printed, _ = examples.run("kerasimg auto --resume runs/photos-auto-1")
    step = re.compile(r"\bfrom the step \w+|\b(macro )?F1\b")  # two classes here, three on the page
    shown = [step.sub("", line) for line in ("...", *example.output[saved - 1 :])]
    assert examples.matches(shown, [step.sub("", line) for line in printed]), printed


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_ms=0.0), "max_ms: expected a number above 0, got 0"),
        (Limits(device="toaster"), "device: expected one of phone, browser, server, microcontroller, got 'toaster'"),
    ],
)
def test_limits_that_cannot_be_met_are_refused(limits, message):
    with pytest.raises(CallError, match=message):
        limits.check()


def test_a_limit_of_megabytes_is_that_of_int8():
    assert Limits(max_mb=3).tuned == {"litert_bytes": 10_000_000}


def test_backbones_at_hand_are_those_in_the_cache_of_keras_and_imported_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert backbones_at_hand() == []
    (tmp_path / "home" / "models").mkdir(parents=True)
    for name in ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "other.h5"):
        (tmp_path / "home" / "models" / name).touch()
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "vit.weights.h5").touch()
    (tmp_path / "vit" / "vit.json").write_text('{"pretrained": {}}')
    assert [name for name, _ in backbones_at_hand()] == ["mobile_net_v2", "vit"]


def test_every_step_and_the_run_have_the_same_images_without_the_unreadable_one(done):
    parts = [
        {image["id"]: image["part"] for image in json.loads(path.read_text())["images"]}
        for path in done.folder.glob(f"{done.run.folder.name}/data.json")
    ]
    assert len(parts) == 1
    assert len(parts[0]) == 80
    assert not [name for name in parts[0] if "broken" in name]


def test_the_advice_is_what_the_result_lacks(done):
    result = {**done.result, "notes": {"left_out": ["finetune"], "epoch_s": 30.0}, "exports": [{"within": False}]}
    lines = advice(result)
    assert lines[0] == "More minutes, or a GPU: there was no time to train all layers. An epoch of it takes about 30 s."
    assert lines[-1].startswith("The limits:")
    assert any("40 of a class in the median are few" in line for line in lines)
    assert FEW_IMAGES == 100
