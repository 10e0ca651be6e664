"""Images of one patient, object or burst stay together, in every split, fold and interval."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data.groups import group_names, group_numbers
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.data.split import split
from kerasimg.errors import CallError, DataError, SpecError
from kerasimg.evaluation.intervals import described, intervals
from kerasimg.evaluation.scores import scores
from kerasimg.spec.document import GroupColumn
from kerasimg.training.folds import _folds

PATIENT = GroupColumn(column="patient")


@pytest.fixture
def patients(tmp_path: Path) -> Callable[..., Path]:
    def write(count: int = 20, each: int = 6, classes: int = 2, parts: bool = False) -> Path:
        """A manifest of patients with several images each; every third patient has images of two classes."""
        rows = []
        for patient in range(count):
            for number in range(each):
                label = (patient + (number % 2 if patient % 3 == 0 else 0)) % classes
                name = f"{patient:02}_{number}.png"
                PIL.Image.new("RGB", (8, 8), (12 * patient % 256, 40 * number, 99)).save(tmp_path / name)
                split = {"split": ("train", "test")[number % 2]} if parts else {}
                rows.append({"path": name, "label": f"c{label}", "patient": f"p{patient}", **split})
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def held(source: Source, indices: np.ndarray) -> set[str]:
    names = group_names(source, PATIENT)
    return {names[index] for index in indices}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 5])
def test_a_patient_is_in_one_part(patients: Any, seed: int, classes: int):
    source = open_source(patients(classes=classes))
    parts = split(source, 0.2, 0.2, seed, PATIENT)
    groups = [held(source, indices) for indices in parts.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 20
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(source)))


def test_shares_and_classes_are_met_as_groups_allow(patients: Any):
    source = open_source(patients(count=60, each=4, classes=3))
    for seed in range(5):
        parts = split(source, 0.15, 0.25, seed, PATIENT)
        assert len(parts["test"]) / len(source) == pytest.approx(0.25, abs=0.04)
        assert len(parts["validation"]) / len(source) == pytest.approx(0.15, abs=0.04)
        shares = np.bincount(source.label_ids(parts["test"])) / np.bincount(source.label_ids())
        assert shares == pytest.approx(np.full(3, 0.25), abs=0.08)


def test_the_draw_depends_on_the_seed_alone(patients: Any):
    source = open_source(patients())
    first, again, other = (split(source, 0.2, 0.2, seed, PATIENT)["test"].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_every_class_keeps_a_group_to_train_on(patients: Any):
    source = open_source(patients(count=5, each=3, classes=5))
    parts = split(source, 0, 0.4, 0, PATIENT)
    assert set(source.label_ids(parts["train"])) == set(range(5))


def test_folders_below_the_class_are_groups(tmp_path: Path):
    for name in ("cat/p1/a.png", "cat/p1/day/b.png", "cat/p2/a.png", "dog/p1/a.png", "dog/c.png", "dog/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / name)
    source = open_source(tmp_path)
    names = dict(zip([item.id for item in source.items], group_names(source, "folder"), strict=True))
    assert names["cat/p1/a.png"] == names["cat/p1/day/b.png"] == names["dog/p1/a.png"] == "p1"
    assert names["cat/p2/a.png"] == "p2"
    assert names["dog/c.png"] != names["dog/d.png"]


def test_what_has_no_groups_is_named(patients: Any, tmp_path: Path, images: Any):
    source = open_source(patients())
    with pytest.raises(DataError, match=r"the data has no column 'patiant'; did you mean 'patient'\?"):
        split(source, group=GroupColumn(column="patiant"))
    with pytest.raises(DataError, match="no image is in a folder below its class"):
        split(open_source(images(tmp_path / "flat", {"red": 3, "blue": 3})), group="folder")
    rows = patients().read_text().replace('"patient": "p7"', '"patient": ""', 1)
    (tmp_path / "gap.jsonl").write_text(rows)
    with pytest.raises(DataError, match=r"07_0\.png: has no value in the column 'patient'"):
        split(open_source(tmp_path / "gap.jsonl"), group=PATIENT)


def test_parts_of_the_data_that_cut_through_a_group_are_named(patients: Any):
    with pytest.raises(DataError, match=r"group 'p0': is in several parts of the data \(train, test\)"):
        split(open_source(patients(parts=True)), group=PATIENT)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_patient_is_in_one_fold(patients: Any, task: Any):
    source = open_source(patients(), task)
    folds = _folds(source, 4, 0, group_numbers(source, PATIENT))
    numbers = group_numbers(source, PATIENT)
    assert set(folds) == {0, 1, 2, 3}
    assert all(len(set(folds[numbers == number])) == 1 for number in set(numbers))
    with pytest.raises(CallError, match="20 groups"):
        _folds(source, 21, 0, group_numbers(source, PATIENT))


def test_intervals_of_groups_are_those_of_drawn_groups():
    draws = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    right = np.repeat(draws.random(30) < 0.7, 20)  # a patient is right as a whole, or wrong
    truth = draws.integers(0, 2, len(groups))
    decision = np.where(right, truth, 1 - truth)
    p = np.eye(2)[decision] * 0.8 + 0.1
    found = scores(truth, p, ["a", "b"], "multiclass")
    plain = intervals(found, truth, p, "multiclass")["accuracy"]
    low, high = intervals(found, truth, p, "multiclass", groups=groups)["accuracy"]
    of_patients = np.array([right[groups == group].mean() for group in range(30)])
    expected = np.quantile([draws.choice(of_patients, 30).mean() for _ in range(4000)], [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.03)
    assert high - low > 3 * (plain[1] - plain[0])
    assert described(["accuracy"], "multiclass", groups=groups)["groups"] == 30


def test_groups_of_one_image_each_give_nearly_the_intervals_of_images():
    draws = np.random.default_rng(1)
    truth = draws.integers(0, 3, 600)
    p = draws.dirichlet(np.ones(3), 600)
    found = scores(truth, p, ["a", "b", "c"], "multiclass")
    plain = intervals(found, truth, p, "multiclass")
    grouped = intervals(found, truth, p, "multiclass", groups=np.arange(600))
    for name, pair in plain.items():
        assert grouped[name] == pytest.approx(pair, abs=0.02), name


def test_groups_that_are_all_right_have_the_interval_of_their_number():
    truth = np.tile([0, 1], 50)
    p = np.eye(2)[truth] * 0.8 + 0.1
    found = scores(truth, p, ["a", "b"], "multiclass")
    low, high = intervals(found, truth, p, "multiclass", groups=np.repeat(np.arange(10), 10))["accuracy"]
    assert (round(low, 3), high) == (0.722, 1.0)  # Wilson's for 10 of 10


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_intervals_of_groups_hold_for_every_task(task: Any):
    draws = np.random.default_rng(2)
    groups = np.repeat(np.arange(25), 4)
    truth = draws.integers(0, 2, (100,) if task == "binary" else (100, 3))
    p = draws.random((100, 1) if task == "binary" else (100, 3))
    classes = ["a", "b"] if task == "binary" else ["a", "b", "c"]
    found = scores(truth, p, classes, task)
    for name, pair in intervals(found, truth, p, task, groups=groups).items():
        assert pair is None or pair[0] <= pair[1], name
        if name != "calibration_error":
            assert pair[0] <= found[name] <= pair[1], name


def test_a_run_keeps_groups_apart_and_says_how_its_intervals_were_found(patients: Any, tiny: Any, tmp_path: Path):
    fit = {"batch_size": 8, "stages": [{"epochs": 1}], "group": {"column": "patient"}}
    run = kerasimg.train(tiny(fit=fit), data=patients(), out=tmp_path / "runs", verbose=0)
    record = json.loads((run.folder / "data.json").read_text())
    parts: dict[str, set[str]] = {}
    for row in record["images"]:
        parts.setdefault(row["id"].split("_")[0], set()).add(row["part"])
    assert all(len(names) == 1 for names in parts.values())
    assert all(row["group"] == f"p{int(row['id'][:2])}" for row in record["images"])
    metrics = json.loads((run.folder / "evaluation" / "metrics.json").read_text())
    assert metrics["intervals_by"]["groups"] == sum(names == {"test"} for names in parts.values())
    assert kerasimg.compare(run, run)["intervals_by"]["groups"] == metrics["intervals_by"]["groups"]


@pytest.mark.parametrize("group", ["patient", {"colum": "patient"}, 3, {"column": 3}])
def test_a_group_that_is_none_is_a_fault_of_the_spec(tiny: Any, group: Any):
    with pytest.raises(SpecError, match=r"fit\.group"):
        kerasimg.load(tiny(fit={"group": group}), num_classes=2)
