import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.data.pipeline import batches
from kerasimg.data.readers.soft_labels import soft_labels
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError, SpecError
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image

HEADER = "path,label,split,p:cat,p:dog\n"


@pytest.fixture
def manifest(folder: Callable[..., Path]) -> Callable[..., Path]:
    """manifest("a.csv", text) beside the images a.png, b.png and c.png."""

    def make(name: str, text: str) -> Path:
        path = folder("a.png", "b.png", "c.png") / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_shares_are_read_from_columns_and_rows_without_them_count_for_their_label(manifest):
    path = manifest("pets.csv", HEADER + "a.png,,train,0.3,0.7\nb.png,cat,train,0.4,0.6\nc.png,cat,test,,\n")
    source = open_source(path)
    assert (source.soft, source.classes) == (True, ("cat", "dog"))
    assert [item.labels for item in source.items] == [("dog",), ("cat",), ("cat",)]
    np.testing.assert_allclose(soft_labels(source, np.arange(3)), [[0.3, 0.7], [0.4, 0.6], [1, 0]], rtol=1e-6)


def test_shares_are_read_from_objects_of_a_jsonl_file(manifest):
    rows = [{"path": "a.png", "labels": {"cat": 0.25, "dog": 0.75}}, {"path": "b.png", "labels": {"cat": 1}}]
    source = open_source(manifest("pets.jsonl", "\n".join(map(json.dumps, rows))))
    assert [item.labels for item in source.items] == [("dog",), ("cat",)]
    np.testing.assert_allclose(soft_labels(source, np.arange(2)), [[0.25, 0.75], [1, 0]])


def test_a_class_that_is_never_the_most_likely_is_a_class(manifest):
    rows = "a.png,,,0.9,0.1,0\nb.png,,,0.1,0.9,0\n"
    assert open_source(manifest("pets.csv", HEADER.strip() + ",p:eel\n" + rows)).classes == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("0.3,0.3", "line 2: the shares of the classes must sum to 1, but sum to 0.6"),
        ("1.2,-0.2", "line 2: expected a number of 0 to 1 as the share of 'cat', got '1.2'"),
        ("0.5,", "line 2: expected a number of 0 to 1 as the share of 'dog', got ''"),
    ],
)
def test_invalid_shares_are_reported_with_their_line(manifest, shares: str, message: str):
    path = manifest("pets.csv", HEADER + f"a.png,cat,,{shares}\nb.png,dog,,,\n")
    with pytest.raises(DataError) as caught:
        open_source(path)
    assert message in str(caught.value)


def test_shares_are_for_one_class_per_image(manifest):
    path = manifest("pets.csv", HEADER + "a.png,,,0.5,0.5\n")
    with pytest.raises(DataError, match="soft labels need the task 'multiclass', not 'multilabel'"):
        open_source(path, "multilabel")


def test_a_batch_holds_the_shares_where_its_targets_can(manifest):
    source = open_source(manifest("pets.csv", HEADER + "a.png,,,0.3,0.7\nb.png,,,0.8,0.2\n"))
    image = Image(size=[4, 4])
    soft, hard = (
        next(iter(batches(source, [0, 1], image, batch_size=2, targets=targets, cache="off")))[1].numpy()
        for targets in ("one_hot", "sparse")
    )
    np.testing.assert_allclose(soft, [[0.3, 0.7], [0.8, 0.2]], rtol=1e-6)
    assert hard.tolist() == [1, 0]


@pytest.fixture
def half_sure(images: Any, tmp_path: Path) -> Path:
    """Red images that are red by 0.7, and blue ones likewise; `red-`, an image each for validation and test."""
    root = images(tmp_path / "data", {"red": 12, "blue": 12})
    path = root / "shares.csv"
    lines = ["path,split,p:blue,p:red"]
    for number in range(12):
        split = {10: "validation", 11: "test"}.get(number, "train")
        lines += [f"red/{number:02}.png,{split},0.3,0.7", f"blue/{number:02}.png,{split},0.7,0.3"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_model_learns_the_shares_and_not_the_most_likely_class(tiny: Any, half_sure: Path, tmp_path: Path):
    fit = {"batch_size": 10, "stages": [{"epochs": 60, "learning_rate": 0.02}]}
    run = kerasimg.train(tiny(fit=fit), data=half_sure, out=tmp_path / "runs", verbose=0)
    assert run.scores["accuracy"] == 1
    found = Classifier.open(run).probabilities(np.full((1, 8, 8, 3), (220, 30, 30), np.float32))
    assert found[0] == pytest.approx([0.3, 0.7], abs=0.06)


def test_a_loss_that_takes_a_single_class_is_refused(tiny: Any, half_sure: Path, tmp_path: Path):
    spec = tiny(compile={"loss": "SparseCategoricalCrossentropy"})
    with pytest.raises(SpecError, match="the data has shares of classes, and SparseCategoricalCrossentropy takes a si"):
        kerasimg.train(spec, data=half_sure, out=tmp_path / "runs", verbose=0)


@pytest.mark.parametrize(
    ("column", "before", "after", "message"),
    [
        ("p:blue,p:red", "0.3,0.7", "0.2,0.8", "the shares of the classes have changed"),
        ("label,care", "red,7", "red,9", r"the sample weights have changed"),
    ],
)
def test_a_run_does_not_go_on_with_other_columns(
    tiny: Any, half_sure: Path, tmp_path: Path, column: str, before: str, after: str, message: str
):
    fit = {"batch_size": 10, "stages": [{"epochs": 1}]}
    if "care" in column:
        text = half_sure.read_text().replace("p:blue,p:red", column).replace("0.3,0.7", before)
        half_sure.write_text(text.replace("0.7,0.3", "blue,1"))
        fit["sample_weight"] = "care"
    spec = tiny(fit=fit)
    run = kerasimg.train(spec, data=half_sure, out=tmp_path / "runs", verbose=0)
    noted = run.folder / "training.json"
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "finished": None}))
    half_sure.write_text(half_sure.read_text().replace(before, after))
    with pytest.raises(DataError, match=message):
        kerasimg.resume(run, verbose=0)
