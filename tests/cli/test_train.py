"""`kerasimg train` and `tune`: without a spec, and with options that mean the same for every spec."""

import json
from pathlib import Path
from typing import Any

import pytest

import kerasimg


@pytest.fixture
def photos(images: Any, tmp_path: Path) -> Path:
    folder: Path = images(tmp_path / "photos", {"red": 10, "blue": 10})
    return folder


QUICK = ("--epochs", "1", "--batch-size", "8", "--set", "width=16", "--on-bad-image", "skip")


def test_images_alone_are_trained_on_by_the_spec_that_init_writes(say: Any, photos: Path, tmp_path: Path):
    (photos / "blue" / "copy.png").write_bytes((photos / "red" / "00.png").read_bytes())
    said = say("train", photos, *QUICK, "--out", tmp_path / "runs")
    run = tmp_path / "runs" / "photos-1"
    assert said.out.count("21 images of 2 classes") == 1
    assert "warning: the same image with different labels: blue/copy.png = red/00.png; keep one" in said.err + said.out
    assert (said.code, "no spec given; using recipes/from_scratch: the images are tiny" in said.out) == (0, True)
    assert said.out.splitlines()[-1] == f"Next: kerasimg predict {run} IMAGE"
    assert say("init", photos).code == 0
    assert json.loads((run / "first_spec.json").read_text()) == json.loads(photos.with_suffix(".json").read_text())
    trained = kerasimg.load(run / "spec.json")
    assert ([stage.epochs for stage in trained.fit.stages], trained.fit.batch_size) == ([1], 8)


def test_images_may_be_given_as_data_too(say: Any, photos: Path, tmp_path: Path):
    (photos / "blue" / "copy.png").write_bytes((photos / "red" / "00.png").read_bytes())
    said = say("train", "--data", photos, *QUICK, "--out", tmp_path / "runs", "--json")
    assert said.json["run"] == str(tmp_path / "runs" / "photos-1")
    assert "warning: the same image with different labels" in said.err  # standard output is for the JSON


def test_a_spec_trained_by_name_keeps_no_first_spec(say: Any, photos: Path, tmp_path: Path, tiny: Any):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny()))
    result = say("train", tmp_path / "tiny.json", "--data", photos, "--epochs", "2", "--out", tmp_path, "--json").json
    assert len((Path(result["run"]) / "history.csv").read_text().splitlines()) == 3
    assert not (Path(result["run"]) / "first_spec.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "train needs images: kerasimg train photos/, or train SPEC --data photos/, or --resume RUN"),
        (["mobilenet"], 2, "train needs --data: kerasimg train mobilenet --data photos/"),
        (["mobilnet"], 2, "did you mean 'mobilenet'"),
        (["gone/"], 2, "no file"),
        (["empty"], 3, "holds no folders"),
        (["simple_cnn", "--data", "sample", "--epochs", "3", "--set", "epochs=4"], 2, "--epochs and --set epochs set"),
        (["simple_cnn", "--data", "sample", "--epochs", "0"], 2, "--epochs"),
        (["simple_cnn", "--data", "sample", "--batch-size", "many"], 2, "fit.batch_size: expected"),
        (["simple_cnn", "--data", "sample", "--lr", "-1"], 2, "learning_rate"),
        (["simple_cnn", "--data", "sample", "--task", "multi"], 2, "--task"),
        (["--resume", "runs/x", "--epochs", "3"], 2, "--resume continues with what the run was started with"),
    ],
)
def test_a_call_that_cannot_be_meant_says_what_can(
    say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    said = say("train", *words)
    assert (said.code, message in said.err) == (code, True), said.err


def test_the_search_space_of_images_alone_is_printed(say: Any, photos: Path):
    said = say("tune", photos, "--space")
    assert (said.code, "width" in said.out, "combinations" in said.out) == (0, True, True)


def test_init_passes_the_task_on(say: Any, photos: Path, tmp_path: Path):
    rows = [f"photos/{label}/{k:02}.png,{label}" for label in ("red", "blue") for k in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels", *rows, "photos/red/09.png,red|blue"]))
    said = say("init", tmp_path / "labels.csv", "--task", "multilabel", "--out", tmp_path / "mine.json")
    assert (said.code, json.loads((tmp_path / "mine.json").read_text())["task"]) == (0, "multilabel")
    said = say("init", photos, "--task", "binary", "--json")
    assert json.loads(Path(said.json["spec"]).read_text())["task"] == "binary"
