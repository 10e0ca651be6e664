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
