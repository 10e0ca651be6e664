"""What `kerasimg init` asks and writes."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import kerasimg


@pytest.fixture
def photos(images: Any, tmp_path: Path) -> Path:
    folder: Path = images(tmp_path / "my photos", {"red": 6, "blue": 6})
    return folder


def test_a_spec_beside_the_images_trains_as_it_is(say: Any, photos: Path):
    said = say("init", photos)
    spec = photos.with_name("my photos.json")
    assert (said.code, said.out.splitlines()[-1]) == (0, f"Next: kerasimg train '{spec}' --data '{photos}'")
    assert kerasimg.load(spec, partial=True).params["num_classes"] == 2


def test_an_existing_file_is_not_overwritten(say: Any, photos: Path):
    spec = photos.with_name("my photos.json")
    spec.write_text("mine")
    said = say("init", photos)
    assert (said.code, "exists already" in said.err, spec.read_text()) == (2, True, "mine")
    assert say("init", photos, "--force").code == 0


def test_five_answers_decide(say: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("transfer\n128\npad\nn\ny\n"))
    out = tmp_path / "asked.json"
    assert say("init", photos, "--interactive", "--out", out).code == 0
    spec = json.loads(out.read_text())
    assert (spec["params"]["size"], spec["image"]["resize"], spec["fit"]["class_weight"]) == (128, "pad", "balanced")
    monkeypatch.setattr(sys, "stdin", io.StringIO("resnet\n"))
    said = say("init", photos, "-i", "--out", tmp_path / "other.json")
    assert (said.code, "expected one of transfer, finetune" in said.err) == (2, True)
    assert not (tmp_path / "other.json").exists()


def test_the_summary_is_printed_as_json(say: Any, photos: Path):
    result = say("init", photos, "--json").json
    assert sorted(result["seen"]["classes"].items()) == [("blue", 6), ("red", 6)]
    assert Path(result["spec"]).is_file()


def test_no_images_is_an_error_of_the_data(say: Any, tmp_path: Path):
    assert say("init", tmp_path).code == 3


def test_images_of_which_none_can_be_read_are_an_error_with_the_reason(say: Any, photos: Path):
    for file in photos.rglob("*.*"):
        file.write_bytes(b"no image")
    said = say("init", photos)
    assert said.code == 3
    assert "3 of 3 images cannot be read" in said.err
    assert "is not an image" in said.err
    assert not photos.with_suffix(".json").exists()


@pytest.fixture
def damaged(photos: Path) -> Path:
    """The images, one of them cut: the last, since the first is decoded for its colours."""
    last = sorted(photos.rglob("*.*"))[-1]
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    return photos


def test_every_suggested_step_from_a_damaged_folder_to_a_training_runs_as_printed(
    say: Any, damaged: Path, monkeypatch: pytest.MonkeyPatch
):
    spec, good = damaged.with_name("my photos.json"), damaged.with_name("my photos-good.csv")
    monkeypatch.chdir(damaged.parent)
    checked = say("data", "check", damaged)
    assert checked.code == 3
    assert "classes  blue 6, red 5; 1 of 12 images cannot be read, and is not counted" in checked.out.splitlines()
    assert checked.out.splitlines()[-1] == f"Next: kerasimg data check '{damaged}' --fix-list '{good}'"
    listed = say("data", "check", damaged, "--fix-list", good)
    assert listed.out.splitlines()[-1] == f"Next: kerasimg init '{good}'"
    beside = good.with_suffix(".json")
    assert say("init", good).out.splitlines()[-1] == f"Next: kerasimg train '{beside}' --data '{good}'"

    begun = say("init", damaged).out.splitlines()
    assert begun[0].startswith("11 images of 2 classes, 6 of 'blue' to 5 of 'red'; ")
    assert begun[1].startswith("1 of 12 images cannot be read, and is not counted; to list all: ")
    following = f"Next: kerasimg train '{spec}' --data '{damaged}'"
    assert begun[-1] == f"{following} --on-bad-image skip"
    assert say("data", "check", damaged, "--fix-list", good, "--spec", spec).out.splitlines()[-1] == (
        f"Next: kerasimg train '{spec}' --data '{good}'"
    )


def test_options_that_the_next_step_needs_are_part_of_it(say: Any, photos: Path):
    checked = say("check", "zoo/simple_cnn.json", "--set", "num_classes=2", "--set", "fit.seed=3")
    assert checked.out.splitlines()[-1] == (
        "Next: kerasimg train zoo/simple_cnn.json --data DATA --set num_classes=2 --set fit.seed=3"
    )
    assert say("data", "check", photos, "--task", "binary").out.splitlines()[-1] == (
        f"Next: kerasimg init '{photos}' --task binary"
    )
