import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data.cache import Cache
from kerasimg.errors import CallError, DataError, KerasimgError, SpecError
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import RunFolder
from kerasimg.training import train as verbs
from kerasimg.training.dataset import dataset
from kerasimg.training.folds import cross_val_predict
from kerasimg.training.lr_find import find_learning_rate

Train = Callable[..., Run]
ONE_EPOCH = {"batch_size": 8, "stages": [{"epochs": 1}]}
GAP = {"layer": "GlobalAveragePooling2D"}


def arrays(counts: tuple[int, ...] = (12, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Dark images of class 0, bright ones of class 1, and so on."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 30, (len(labels), 8, 8, 3))
    return (images + 200 * labels[:, None, None, None] // (len(counts) - 1)).astype("uint8"), labels


def manifest(root: Path, rows: list[tuple[str, str]], column: str = "label") -> Path:
    path = root / "images.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", column), *rows])
    return path


def test_the_model_has_the_classes_of_the_data(run: Run):
    assert RunFolder.of(run).required("spec.json")["params"]["num_classes"] == 3
    assert run.model.output_shape == (None, 3)


def test_a_run_is_never_overwritten(train: Train, tiny: Any, tmp_path: Path):
    first = train(tiny(fit=ONE_EPOCH), data=arrays(), out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = train(tiny(fit=ONE_EPOCH), data=arrays(), out=tmp_path)
    assert (first.folder.name, second.folder.name) == ("tiny-1", "tiny-2")
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def test_two_runs_with_one_seed_have_the_same_history(train: Train, tiny: Any, tmp_path: Path):
    spec = tiny(
        augment=[{"layer": "RandomFlip"}, {"layer": "RandomBrightness", "factor": 0.2}],
        model=[GAP, {"layer": "Dropout", "rate": 0.5}, {"layer": "Dense", "units": 2, "activation": "softmax"}],
        params={},
        fit={"batch_size": 8, "seed": 7, "stages": [{"epochs": 2}]},
    )

    def history() -> list[dict[str, float]]:
        run = train(spec, data=arrays(), out=tmp_path)
        return [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]

    first = history()
    keras.random.uniform((3,))  # whatever was drawn in between
    assert history() == first


@pytest.mark.parametrize(("flips", "lines"), [("on", []), ("auto", ["test-time flip: off; accuracy"])])
def test_the_spec_says_whether_the_trained_model_flips(
    flips: str, lines: list[str], train: Train, tiny: Any, tmp_path: Path, listen: Any
):
    messages: list[str] = []
    listen(messages.append)
    run = train(tiny(fit={**ONE_EPOCH, "flips": flips}), data=arrays(), out=tmp_path)
    assert Classifier.open(run.folder).flips == (flips == "on")
    found = [line for line in messages if line.startswith("test-time flip")]
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines


def test_another_seed_has_another_history(train: Train, tiny: Any, tmp_path: Path):
    losses = [
        train(tiny(fit={**ONE_EPOCH, "seed": seed}), data=arrays(), out=tmp_path).history[0]["loss"] for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_a_given_number_of_classes_must_match_the_data(train: Train, tiny: Any, tmp_path: Path):
    with pytest.raises(CallError, match="num_classes=5, and the data has 2 classes; leave it out"):
        train(tiny(), data=arrays(), out=tmp_path / "runs", params={"num_classes": 5})
    assert not (tmp_path / "runs").exists()


def test_a_model_with_other_outputs_than_classes_is_refused(train: Train, tiny: Any, tmp_path: Path):
    spec = tiny(params={}, model=[GAP, {"layer": "Dense", "units": 5, "activation": "softmax"}])
    with pytest.raises(SpecError, match="want an output of 2, one for each class; the last node gives 5"):
        train(spec, data=arrays(), out=tmp_path / "runs")
    with pytest.raises(SpecError, match="the last node gives 8x8x3"):
        train(tiny(params={}, model=[{"layer": "ReLU"}]), data=arrays(), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_overrides_are_stored_in_the_run(train: Train, tiny: Any, tmp_path: Path):
    run = train(tiny(), data=arrays(), out=tmp_path, overrides={"fit.stages.0.epochs": 1, "compile.optimizer": "SGD"})
    assert len(run.history) == 1
    assert RunFolder.of(run).required("spec.json")["compile"]["optimizer"] == "SGD"


def test_without_a_validation_part_nothing_is_validated(train: Train, tiny: Any, tmp_path: Path):
    run = train(tiny(fit={**ONE_EPOCH, "validation_split": 0}), data=arrays(), out=tmp_path)
    assert list(run.history[0]) == ["stage", "epoch", "seconds", "learning_rate", "accuracy", "loss"]
    assert run.scores["part"] == "test"


def test_without_a_test_part_the_validation_part_is_evaluated(train: Train, tiny: Any, tmp_path: Path):
    run = train(tiny(fit={**ONE_EPOCH, "test_split": 0}), data=arrays(), out=tmp_path)
    assert run.scores["part"] == "validation"


def test_without_a_held_out_part_nothing_is_evaluated(train: Train, tiny: Any, tmp_path: Path):
    run = train(tiny(fit={**ONE_EPOCH, "test_split": 0, "validation_split": 0}), data=arrays(), out=tmp_path)
    assert not (run.folder / "evaluation").exists()
    assert str(kerasimg.Run(run.folder)) == f"{run.folder} (not evaluated yet)"


def test_an_npz_file_is_trained_on(train: Train, tiny: Any, tmp_path: Path):
    images, labels = arrays()
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images[::6], y_test=labels[::6])
    run = train(tiny(), data=tmp_path / "data.npz", out=tmp_path / "runs")
    assert run.classes == ["0", "1"]
    assert (run.scores["n"], run.scores["accuracy"]) == (4, 1.0)


def test_a_manifest_is_trained_on(train: Train, tiny: Any, colours: Path, tmp_path: Path):
    rows = [(str(path), path.parent.name) for path in sorted(colours.rglob("*.png"))]
    run = train(tiny(fit=ONE_EPOCH), data=manifest(tmp_path, rows), out=tmp_path / "runs")
    assert run.classes == ["blue", "green", "red"]
    assert run.scores["n"] == 5


def test_a_binary_task_has_one_output_the_probability_of_the_second_class(
    train: Train, tiny: Any, images: Any, tmp_path: Path
):
    data = images(tmp_path / "data", {"red": 10, "blue": 10})
    spec = tiny(
        task="binary",
        params={},
        model=[GAP, {"layer": "Dense", "units": 1, "activation": "sigmoid"}],
        compile={"optimizer": {"type": "Adam", "learning_rate": 0.3}, "metrics": ["accuracy", "f1", "AUC"]},
        fit={"batch_size": 8, "class_weight": "balanced", "stages": [{"epochs": 5}]},
    )
    run = train(spec, data=data, out=tmp_path / "runs")
    assert {"accuracy", "f1", "auc"} <= set(run.history[0])
    assert (run.scores["positive"], run.scores["accuracy"]) == ("red", 1.0)
    blue, red = kerasimg.predict(run, [data / "blue" / "00.png", data / "red" / "00.png"])
    assert (blue.label, red.label) == ("blue", "red")
    assert red.probabilities == {"blue": pytest.approx(1 - red.confidence), "red": pytest.approx(red.confidence)}
    assert blue.confidence == blue.probabilities["blue"] > 0.5


def test_a_multilabel_task_predicts_every_label(train: Train, tiny: Any, colours: Path, tmp_path: Path):
    labels = {"red": "warm|pure", "green": "pure", "blue": "cold|pure"}
    rows = [(str(path), labels[path.parent.name]) for path in sorted(colours.rglob("*.png"))]
    spec = tiny(
        task="multilabel",
        model=[GAP, {"layer": "Dense", "units": "=num_classes", "activation": "sigmoid"}],
        compile={"optimizer": {"type": "Adam", "learning_rate": 0.5}, "metrics": ["accuracy", "f1"]},
        fit={"batch_size": 8, "stages": [{"epochs": 12}]},
    )
    run = train(spec, data=manifest(tmp_path, rows, "labels"), out=tmp_path / "runs")
    assert run.classes == ["cold", "pure", "warm"]
    red, green = kerasimg.predict(run, [colours / "red" / "00.png", colours / "green" / "00.png"])
    assert red.label == ("pure", "warm")
    assert green.label == ("pure",)
    assert red.confidence == pytest.approx(min(max(p, 1 - p) for p in red.probabilities.values()))
    assert kerasimg.evaluate(run) == run.scores


def test_a_model_that_ends_in_logits_gives_probabilities(train: Train, tiny: Any, colours: Path, tmp_path: Path):
    spec = tiny(model=[GAP, {"layer": "Dense", "units": "=num_classes"}])
    run = train(spec, data=colours, out=tmp_path)
    assert run.scores["accuracy"] == 1.0
    (predicted,) = kerasimg.predict(run, colours / "red" / "00.png")
    assert predicted.label == "red"
    assert sum(predicted.probabilities.values()) == pytest.approx(1)
    assert min(predicted.probabilities.values()) >= 0


def test_blended_labels_are_trained_with_accuracy_and_f1(train: Train, tiny: Any, tmp_path: Path):
    spec = tiny(augment=[{"layer": "RandomFlip"}, {"layer": "MixUp", "alpha": 0.2}], fit=ONE_EPOCH)
    spec["compile"] = {"metrics": ["accuracy", "f1"]}
    run = train(spec, data=arrays(), out=tmp_path)
    assert {"accuracy", "f1", "val_f1"} <= set(run.history[0])
    assert run.scores["n"] == 4


def test_mixed_precision_applies_to_this_training_only(train: Train, tiny: Any, tmp_path: Path):
    run = train(tiny(fit={**ONE_EPOCH, "precision": "mixed_bfloat16"}), data=arrays(), out=tmp_path)
    assert run.model.get_layer("global_average_pooling2d").compute_dtype == "bfloat16"
    assert run.model.get_layer("classes").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_class_weights_reach_the_loss(train: Train, tiny: Any, tmp_path: Path):
    def loss(kind: str) -> float:
        stop = {"optimizer": {"type": "SGD", "learning_rate": 1e-9}}
        spec = tiny(compile=stop, fit={**ONE_EPOCH, "class_weight": kind})
        return train(spec, data=arrays((20, 4)), out=tmp_path).history[0]["loss"]

    assert loss("balanced") != pytest.approx(loss("none"), rel=1e-3)


def test_rare_labels_have_larger_weights_in_a_multilabel_task(train: Train, tiny: Any, tmp_path: Path):
    images, labels = arrays((20, 4))
    hot = np.stack([labels, 1 - labels], axis=1)

    def loss(kind: str) -> float:
        spec = tiny(
            task="multilabel",
            model=[GAP, {"layer": "Dense", "units": 2, "activation": "sigmoid"}],
            compile={"optimizer": {"type": "SGD", "learning_rate": 1e-9}},
            fit={**ONE_EPOCH, "class_weight": kind},
        )
        return train(spec, data=(images, hot), out=tmp_path).history[0]["loss"]

    assert loss("balanced") != pytest.approx(loss("none"), rel=1e-3)


def test_the_weights_of_images_reach_the_loss(train: Train, tiny: Any, colours: Path, tmp_path: Path):
    files = sorted(colours.rglob("*.png"))
    rows = [f"{file},{file.parent.name},{0 if file.parent.name == 'red' else 1}" for file in files]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,care", *rows]) + "\n")
    spec = tiny(fit={"batch_size": 8, "sample_weight": "care", "stages": [{"epochs": 12}]})
    run = train(spec, data=tmp_path / "all.csv", out=tmp_path / "runs")
    recall = {name: row["recall"] for name, row in run.scores["per_class"].items()}
    assert recall["red"] == 0
    assert recall["green"] == recall["blue"] == 1


def test_a_nan_loss_ends_the_training_with_an_error(train: Train, tiny: Any, tmp_path: Path):
    spec = tiny(compile={"optimizer": {"type": "SGD", "learning_rate": 1e38}, "loss": "mean_squared_error"})
    spec["model"] = [GAP, {"layer": "Dense", "units": 2}]
    spec["params"] = {}
    with pytest.raises(KerasimgError, match=r"the loss became NaN or infinite in stage 1, epoch \d; try a lower"):
        train(spec, data=arrays(), out=tmp_path)
    assert not (tmp_path / "tiny-1" / "model.keras").exists()
    assert Run(tmp_path / "tiny-1").history


def test_an_unreadable_image_is_named_before_the_first_epoch(train: Train, tiny: Any, images: Any, tmp_path: Path):
    data = images(tmp_path / "data", {"red": 8, "blue": 8})
    (data / "red" / "03.png").write_text("<html>not found</html>")
    with pytest.raises(DataError) as caught:
        train(tiny(), data=data, out=tmp_path / "runs")
    assert "red/03.png: " in str(caught.value)
    assert "--on-bad-image skip" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_an_unreadable_image_is_skipped_on_request(train: Train, tiny: Any, images: Any, tmp_path: Path):
    data = images(tmp_path / "data", {"red": 8, "blue": 8})
    (data / "red" / "03.png").write_bytes(b"")
    run = train(tiny(fit=ONE_EPOCH), data=data, out=tmp_path / "runs", on_bad_image="skip")
    record = RunFolder.of(run).required("data.json")
    assert [item["id"] for item in record["skipped"]] == ["red/03.png"]
    assert len(record["images"]) == 15
    assert (data / "red" / "03.png").read_bytes() == b""
    assert kerasimg.evaluate(run) == run.scores


def test_callbacks_of_the_spec_are_called_in_every_stage(train: Train, tiny: Any, tmp_path: Path):
    fit = {
        "stages": [{"epochs": 1}, {"epochs": 3}],
        "callbacks": [{"type": "ReduceLROnPlateau", "monitor": "loss", "patience": 0, "factor": 0.5, "min_delta": 99}],
    }
    run = train(tiny(fit=fit), data=arrays(), out=tmp_path)
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.3, 0.3, 0.3, 0.15])


def test_a_relative_data_path_works_from_any_folder(
    train: Train, tiny: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images(tmp_path / "data", {"red": 8, "blue": 8})
    monkeypatch.chdir(tmp_path)
    run = train(tiny(fit=ONE_EPOCH), data="data", out=tmp_path / "runs")
    monkeypatch.chdir("/")
    assert kerasimg.evaluate(run)["n"] == run.scores["n"] == 2


def test_a_layer_of_kerasimg_is_trained_saved_and_opened_elsewhere(
    train: Train, tiny: Any, colours: Path, tmp_path: Path
):
    spec = tiny(model=[{"layer": "SqueezeExcite", "ratio": 1.0}, *tiny()["model"]])
    run = train(spec, data=colours, out=tmp_path)
    command = [sys.executable, "-m", "kerasimg", "predict", str(run.folder), str(colours / "red" / "00.png"), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [each["label"] for each in json.loads(done.stdout)] == ["red"], done.stderr


def test_the_log_is_short_and_in_order(listen: Any, tiny: Any, tmp_path: Path):
    messages: list[str] = []
    listen(messages.append)
    run = Run(verbs.train(tiny(fit=ONE_EPOCH), data=arrays(), out=tmp_path, verbose=0))
    assert messages == [
        "24 images of 2 classes in arrays",
        f"training train 16, validation 4, test 4 -> {run.folder}",
        "stage 1 of 1: 8 of 8 parameters train, in 1 layer",
        "evaluating on 4 images (test)",
    ]
    assert json.loads((run.folder / "data.json").read_text())["where"] == "arrays"


@pytest.mark.parametrize("command", ["train", "lr-find", "cross-validation", "dataset"])
def test_a_param_that_nothing_uses_is_warned_of(command: str, listen: Any, train: Train, tiny: Any, tmp_path: Path):
    messages: list[str] = []
    listen(messages.append)
    mistyped = tiny(fit=ONE_EPOCH, params={"num_classes": 2, "num_clases": 3})
    match command:
        case "train":
            train(mistyped, data=arrays(), out=tmp_path)
        case "lr-find":
            find_learning_rate(mistyped, data=arrays(), steps=10, verbose=0)
        case "cross-validation":
            cross_val_predict(mistyped, data=arrays(), folds=2, verbose=0)
        case _:
            dataset(mistyped, arrays())
    [line] = [line for line in messages if line.startswith("warning: ")]
    assert "params.num_clases: no expression uses this param: it changes nothing; did you mean 'num_classes'?" in line


def test_a_full_cache_of_decoded_images_is_logged(listen: Any, train: Train, tiny: Any, colours: Path, tmp_path: Path):
    messages: list[str] = []
    listen(messages.append)
    for limit in (0, None):
        before = Cache("disk", tmp_path / "images", limit)
        train(tiny(fit=ONE_EPOCH), data=colours, out=tmp_path / "runs", cache=before)
    (line,) = [line for line in messages if line.startswith("no room for ")]
    assert str(tmp_path / "images") in line


def test_the_curves_are_written_to_tensorboard_on_request(train, tiny, colours, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = train(tiny(), data=colours, out=tmp_path, tensorboard=True)
    (logs,) = (run.folder / "tensorboard" / "train").iterdir()
    shown = [(event.step, value.tag) for event in EventFileLoader(str(logs)).Load() for value in event.summary.value]
    assert [step for step, name in shown if name == "loss"] == [1, 2, 3]
