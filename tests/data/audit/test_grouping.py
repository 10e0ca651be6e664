"""What says that images belong together, and what does not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(path)


def suggested(data: Any, spec: Any = None) -> str:
    findings = [one for one in kerasimg.check_data(data, spec).findings if one.kind == "groups"]
    return findings[0].detail if findings else ""


@pytest.mark.parametrize("name", ["patient", "Patient_ID", "video", "session"])
def test_a_column_of_patients_is_suggested(tmp_path: Path, name: str):
    rows = []
    for number in range(24):
        noise(tmp_path / f"{number}.png", number)
        rows.append({"path": f"{number}.png", "label": "ab"[number % 2], name: f"p{number // 4}"})
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert suggested(tmp_path / "data.jsonl") == f'by the column \'{name}\': "fit": {{"group": {{"column": "{name}"}}}}'


def test_a_group_that_the_spec_has_is_not_suggested(tmp_path: Path, tiny: Any):
    for number in range(24):
        noise(tmp_path / "ab"[number % 2] / f"p{number // 4}" / f"{number}.png", number)
    assert suggested(tmp_path) == 'by 6 folders below the classes: "fit": {"group": "folder"}'
    fit = {"group": "folder", "validation_split": 0.2, "test_split": 0.2}
    assert suggested(tmp_path, kerasimg.load(tiny(fit=fit), num_classes=2)) == ""


@pytest.mark.parametrize(
    "form", ["p{0}_{1}.png", "patient-{0:02}-img{1}.png", "{0:03} {1}.png", "IMG_20{0:02}_{1}.png"]
)
def test_names_with_two_numbers_are_suggested(tmp_path: Path, form: str):
    for number in range(24):
        noise(tmp_path / "ab"[number % 2] / form.format(number // 4, number % 4), number)
    assert suggested(tmp_path).startswith("by the names of files, 6 groups such as '")


@pytest.mark.parametrize("form", ["{2:04}.png", "IMG_{2:04}.png", "{3}_{2}.png", "DSC{2}.png", "{3}.{2}.png"])
def test_names_with_one_number_are_not(tmp_path: Path, form: str):
    for number in range(24):
        label = "ab"[number % 2]
        noise(tmp_path / label / form.format(number // 4, number % 4, number, label), number)
    assert suggested(tmp_path) == ""


def test_many_near_copies_are_suggested(tmp_path: Path):
    for number in range(30):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise(path, number)
        if number < 6:
            PIL.Image.open(path).resize((40, 40), PIL.Image.Resampling.BICUBIC).save(path.with_name(f"x{number}.png"))
    assert "images are near copies of others" in suggested(tmp_path)


def test_unreadable_images_are_counted_in_no_class(tmp_path: Path):
    for number in range(24):
        noise(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    (tmp_path / "a" / "0.png").write_bytes(b"")
    checked = kerasimg.check_data(tmp_path)
    assert [(row["name"], row["images"]) for row in checked.classes()] == [("a", 11), ("b", 12)]
    assert sum(row[part] for row in checked.classes() for part in ("train", "validation", "test")) == 23
