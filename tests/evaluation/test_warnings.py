"""What a figure does not say by itself is said beside it."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg


@pytest.fixture(scope="module")
def folder(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("colours"), {"red": 12, "blue": 12})


@pytest.fixture(scope="module")
def run(folder: Path, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return kerasimg.train(tiny(), data=folder, out=tmp_path_factory.mktemp("runs"), verbose=0)


def parts(run: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in json.loads((run.folder / "data.json").read_text())["images"]:
        found.setdefault(row["part"], []).append(row["id"])
    return found


def test_images_that_were_trained_on_are_counted(run: Any, folder: Path, caplog: pytest.LogCaptureFixture):
    found = kerasimg.evaluate(run, data=folder)
    count = len(parts(run)["train"])
    assert found["warnings"][0].startswith(f"{count} of 24 images were trained on (the same content, by SHA-256)")
    assert "were trained on" in caplog.text


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("calibrate", {}),
        ("prediction_sets", {}),
        ("flips", {}),
        ("label_errors", {}),
        ("known", {"share": 0.5}),
        ("robustness", {"images": 4, "corruptions": ["brightness"]}),
    ],
)
def test_rules_fitted_to_images_that_were_trained_on_are_warned_of(
    verb: str, options: dict[str, Any], run: Any, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    copy = kerasimg.Run(shutil.copytree(run.folder, tmp_path / "copy"))
    getattr(kerasimg, verb)(copy, data=folder, **options)
    assert "were trained on (the same content, by SHA-256)" in caplog.text


def test_copies_of_them_under_other_names_are_counted_too(run: Any, folder: Path, tmp_path: Path):
    for place, name in enumerate([*parts(run)["train"][:3], *parts(run)["test"]]):
        target = tmp_path / Path(name).parent / f"copy{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / name).read_bytes())
    (warning,) = kerasimg.evaluate(run, data=tmp_path)["warnings"]
    assert warning.startswith(f"3 of {3 + len(parts(run)['test'])} images were trained on")


def test_new_images_and_the_held_out_part_are_no_warning(run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (8, 8), name).save(tmp_path / name / "new.png")
    assert "warnings" not in kerasimg.evaluate(run, data=tmp_path)
    assert "warnings" not in kerasimg.evaluate(run)
    assert caplog.text == ""


def test_copies_that_a_drawn_split_puts_into_two_parts_are_counted(folder: Path, tiny: Any, tmp_path: Path):
    data = Path(shutil.copytree(folder, tmp_path / "data"))
    for file in sorted(data.rglob("*.png")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    run = kerasimg.train(tiny(), data=data, out=tmp_path / "runs", verbose=0)
    rows = json.loads((run.folder / "data.json").read_text())["images"]
    trained = {row["sha256"] for row in rows if row["part"] == "train"}
    count = sum(row["sha256"] in trained for row in rows if row["part"] == "test")
    assert count
    found = json.loads((run.folder / "evaluation" / "metrics.json").read_text())
    assert found["trained_on"] == count
    assert "trained on (the same content" in found["warnings"][0]
    assert kerasimg.evaluate(run)["trained_on"] == count
    assert f"of which it was trained on {count}," in (run.folder / "report.html").read_text()


def test_a_class_that_no_image_shows_is_named(run: Any, tmp_path: Path):
    (tmp_path / "red").mkdir()
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / "red" / "new.png")
    (warning,) = kerasimg.evaluate(run, data=tmp_path)["warnings"]
    assert warning.startswith("class blue has no image among the 1 evaluated image, so how well")


def test_a_rare_class_without_a_held_out_image_is_named_in_the_report(tiny: Any, tmp_path: Path):
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (42, 8, 8, 3)).astype(np.uint8)
    y = np.array(["a", "b"] * 20 + ["rare"] * 2)
    run = kerasimg.train(tiny(), data=(x, y), out=tmp_path, verbose=0)
    found = json.loads((run.folder / "evaluation" / "metrics.json").read_text())
    assert found["warnings"][0].startswith("class rare has no image among the")
    assert found["per_class"]["rare"]["support"] == 0
    assert "class rare has no image among the" in (run.folder / "report.html").read_text()


def test_the_command_of_the_report_skips_bad_images_where_the_run_did(folder: Path, tiny: Any, tmp_path: Path):
    data = tmp_path / "data"
    for name in ("red", "blue"):
        (data / name).mkdir(parents=True)
        for file in (folder / name).iterdir():
            (data / name / file.name).write_bytes(file.read_bytes())
    (data / "red" / "bad.png").write_bytes(b"")
    run = kerasimg.train(tiny(), data=data, out=tmp_path / "runs", verbose=0, on_bad_image="skip")
    page = (run.folder / "report.html").read_text()
    assert f"--data {shlex.quote(str(data))} --on-bad-image skip" in page
