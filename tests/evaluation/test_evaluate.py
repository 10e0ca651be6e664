import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg import Run
from kerasimg.errors import CallError, DataError
from kerasimg.evaluation.predictions import read_predictions
from kerasimg.evaluation.scores import scores


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Any, tiny: Callable[..., dict[str, Any]]) -> Run:
    """A run that tells red, green and blue apart."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = images(folder / "colours", {"red": 12, "green": 12, "blue": 12})
    return kerasimg.train(tiny(), data=data, out=folder / "runs", verbose=0)


@pytest.fixture
def copy(run: Run, tmp_path: Path, images: Any) -> Path:
    """A folder of a run on data of its own, which a test may spoil; gives the run's folder."""
    images(tmp_path / "colours", {"red": 12, "green": 12, "blue": 12})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.keras").write_bytes((run.folder / "model.keras").read_bytes())
    record = json.loads((run.folder / "data.json").read_text()) | {"where": str(tmp_path / "colours")}
    (folder / "data.json").write_text(json.dumps(record))
    return folder


def held_out(folder: Path) -> list[str]:
    images = json.loads((folder / "data.json").read_text())["images"]
    return [image["id"] for image in images if image["part"] == "test"]


def test_the_held_out_part_gives_the_figures_of_the_training_again(run: Run):
    assert kerasimg.evaluate(run) == run.scores
    assert kerasimg.evaluate(run.folder)["part"] == "test"


def test_the_held_out_part_is_known_by_its_files(copy: Path):
    first, second, *_ = held_out(copy)
    data = copy.parent / "colours"
    (data / first).unlink()
    PIL.Image.new("RGB", (8, 8)).save(data / second)
    with pytest.raises(DataError) as caught:
        kerasimg.evaluate(copy)
    assert str(caught.value) == (
        f"{data}: {first}: was used by the run and is no longer there\n"
        f"{data}: {second}: is not the file that the run used: its content has changed\n"
        f"restore these files, or use those that are left: --data {data}, and --part test where the command has it; "
        "or train again"
    )


def test_images_that_were_added_since_do_not_matter(copy: Path, images: Any):
    images(copy.parent / "colours" / "more", {"red": 3})
    (copy.parent / "colours" / "more" / "red").rename(copy.parent / "colours" / "red" / "more")
    (copy.parent / "colours" / "more").rmdir()
    assert kerasimg.evaluate(copy)["n"] == 5


def test_data_that_is_gone_is_named(copy: Path):
    (copy.parent / "colours").rename(copy.parent / "colors")
    with pytest.raises(DataError, match=r"colours: no such file or folder; did you mean '.*colors'") as caught:
        kerasimg.evaluate(copy)
    assert (
        "if these images have moved: name their new place, --data DIR, and --part test where the command has it"
        in str(caught.value)
    )


def test_images_that_have_moved_have_the_parts_of_the_run(copy: Path):
    before, data = kerasimg.evaluate(copy), copy.parent / "colours"
    moved = data.rename(copy.parent / "elsewhere")
    for name in held_out(copy)[:2]:
        shutil.copy(moved / name, (moved / name).with_name("copy.png"))  # of which the run knows nothing
    found = kerasimg.evaluate(copy, data=moved, part="test")
    assert (found["part"], found["n"], found["confusion"]) == ("test", before["n"], before["confusion"])
    assert "warnings" not in found
    listed = moved.parent / "list.csv"
    rows = [f"{file},{file.parent.name}" for file in sorted(moved.rglob("*.png"))]
    listed.write_text("\n".join(["path,label", *rows]))
    assert kerasimg.evaluate(copy, data=listed, part="test")["n"] == before["n"]  # by content: other names
    for file in moved.rglob("*.png"):
        PIL.Image.new("RGB", (8, 8), "white").save(file)
    with pytest.raises(CallError, match="has no test part"):
        kerasimg.evaluate(copy, data=moved, part="test")


def test_a_model_file_alone_says_that_it_does_not_know_its_training_images(
    run: Run, images: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    kerasimg.evaluate(run.folder / "model.keras", data=images(tmp_path / "two", {"red": 3, "blue": 2}))
    assert "has no list of the images that it was trained on" in caplog.text


def test_a_model_file_alone_does_not_know_its_held_out_part(run: Run):
    with pytest.raises(CallError, match="a model file does not know its held-out images; name the data"):
        kerasimg.evaluate(run.folder / "model.keras")


def test_arrays_are_to_be_given_again(copy: Path):
    record = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(record | {"where": "arrays"}))
    with pytest.raises(CallError, match="trained on arrays, which it did not keep; give them again"):
        kerasimg.evaluate(copy)


def test_any_split_of_the_runs_own_images_is_evaluated_on_demand_and_its_figures_stay(run: Run):
    before = (run.folder / "evaluation" / "metrics.json").stat().st_mtime_ns
    evaluated = {part: kerasimg.evaluate(run, part=part) for part in ("test", "val", "train", "all")}
    assert {part: (found["part"], found["n"]) for part, found in evaluated.items()} == {
        "test": ("test", 5),
        "val": ("validation", 5),
        "train": ("train", 26),
        "all": ("all", 36),
    }
    assert (run.folder / "evaluation" / "metrics.json").stat().st_mtime_ns == before


def test_a_test_folder_that_lacks_a_class_gives_right_numbers(run: Run, images: Any, tmp_path: Path):
    found = kerasimg.evaluate(run, data=images(tmp_path / "two", {"red": 3, "blue": 2}))
    assert found["classes"] == ["blue", "green", "red"]
    assert found["confusion"] == [[2, 0, 0], [0, 0, 0], [0, 0, 3]]
    assert (found["accuracy"], found["balanced_accuracy"], found["macro_f1"]) == (1.0, 1.0, 1.0)


def test_a_test_folder_of_one_class_gives_right_numbers(run: Run, images: Any, tmp_path: Path):
    found = kerasimg.evaluate(run, data=images(tmp_path / "one", {"red": 3}))
    assert found["confusion"][2] == [0, 0, 3]


def test_a_test_folder_with_one_more_class_is_refused_and_the_class_named(run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path / "four", {"red": 3, "green": 3, "blue": 3, "grey": 2})
    with pytest.raises(DataError, match=r"class 'grey': the model does not know it; .*images: 2"):
        kerasimg.evaluate(run, data=data)


def test_classes_in_another_order_are_matched_by_name(run: Run, tmp_path: Path, images: Any):
    images(tmp_path, {"red": 1, "green": 2, "blue": 3})
    rows = [("path", "label"), *((str(path), path.parent.name) for path in sorted(tmp_path.rglob("*.png"))[::-1])]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = kerasimg.evaluate(run, data=tmp_path / "list.csv")
    assert found["confusion"] == [[3, 0, 0], [0, 2, 0], [0, 0, 1]]


def test_labels_that_are_wrong_count_as_wrong(run: Run, images: Any, tmp_path: Path):
    images(tmp_path, {"red": 4, "blue": 2})
    (tmp_path / "red").rename(tmp_path / "green")
    found = kerasimg.evaluate(run, data=tmp_path)
    assert found["confusion"] == [[2, 0, 0], [0, 0, 4], [0, 0, 0]]
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_arrays_with_names_as_labels_are_matched_by_name(run: Run):
    images = np.full((2, 8, 8, 3), (220, 30, 30), "uint8")
    assert kerasimg.evaluate(run, data=(images, np.array(["red", "red"])))["accuracy"] == 1.0


def test_the_test_split_is_evaluated_where_there_is_one_and_any_split_on_demand(run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path, {"train/red": 3, "val/red": 2, "test/red": 1})
    evaluated = {part: kerasimg.evaluate(run, data=data, part=part) for part in (None, "val", "train", "all")}
    assert {part: (found["part"], found["n"]) for part, found in evaluated.items()} == {
        None: ("test", 1),
        "val": ("validation", 2),
        "train": ("train", 3),
        "all": ("all", 6),
    }


def test_a_part_that_is_not_there_is_named(run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path, {"train/red": 3, "test/red": 1})
    with pytest.raises(CallError, match=r"has no validation part \(it has: test, train\)"):
        kerasimg.evaluate(run, data=data, part="val")
    with pytest.raises(CallError, match=r"no part 'tets'; did you mean 'test'"):
        kerasimg.evaluate(run, data=data, part="tets")


@pytest.mark.usefixtures("drawn_figures")
def test_every_prediction_is_written_and_gives_the_figures_again(run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path / "data", {"red": 3, "blue": 2})
    found = kerasimg.evaluate(run, data=data, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json",
        "predictions.csv",
        "confusion.png",
        "calibration.png",
        "curves.json",
        "curves.png",
    }
    for name in ("confusion", "calibration", "curves"):
        with PIL.Image.open(tmp_path / "out" / f"{name}.png") as figure:
            assert min(figure.size) > 300
    stored = read_predictions(tmp_path / "out" / "predictions.csv", "multiclass")
    assert stored.ids == ["blue/00.png", "blue/01.png", "red/00.png", "red/01.png", "red/02.png"]
    again = scores(stored.truth, stored.probabilities, stored.classes, "multiclass")
    assert {key: found[key] for key in again} == again
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found.to_dict()


def test_other_data_than_the_runs_own_leaves_its_figures_alone(run: Run, images: Any, tmp_path: Path):
    before = (run.folder / "evaluation" / "metrics.json").stat().st_mtime_ns
    kerasimg.evaluate(run, data=images(tmp_path, {"red": 2}))
    assert (run.folder / "evaluation" / "metrics.json").stat().st_mtime_ns == before


def test_an_unreadable_image_is_named_or_left_out(run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path, {"red": 3})
    (data / "red" / "01.png").write_text("no image")
    with pytest.raises(DataError, match=r"red/01\.png"):
        kerasimg.evaluate(run, data=data)
    assert kerasimg.evaluate(run, data=data, on_bad_image="skip")["n"] == 2
    with pytest.raises(DataError, match=r"name a list without them: kerasimg data check \S+ --fix-list good\.csv"):
        kerasimg.compare(run, run, data=data)  # has no on_bad_image
