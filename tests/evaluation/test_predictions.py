import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasimg.evaluation.predictions import decide, read_predictions, write_predictions
from kerasimg.evaluation.scores import scores

NAMES = ["plain", 'a "quoted", name', "two\r\nlines", "bar|red", "naïve 猫", " space ", "", "prob:x", "=1+1"]


def predictions(task, seed=0, n=40, k=9):
    random = np.random.default_rng(seed)
    if task == "multilabel":
        return random.integers(0, 2, (n, k)).astype("float32"), random.random((n, k), dtype="float32")
    if task == "binary":
        return random.integers(0, 2, n), random.random((n, 1), dtype="float32")
    return random.integers(0, k, n), random.dirichlet(np.full(k, 0.3), n).astype("float32")


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_every_score_can_be_computed_again_from_the_file_to_the_last_digit(task, tmp_path):
    classes = NAMES[1:3] if task == "binary" else NAMES
    truth, p = predictions(task)
    ids = [f"folder, {number}/image\n.png" for number in range(len(p))]
    write_predictions(tmp_path / "predictions.csv", ids, truth, p, classes, task)
    again = read_predictions(tmp_path / "predictions.csv", task)
    assert again.ids == ids
    assert again.classes == classes
    assert again.probabilities.dtype == np.float32
    np.testing.assert_array_equal(again.probabilities, p)
    np.testing.assert_array_equal(again.truth, truth)
    assert scores(again.truth, again.probabilities, again.classes, task) == scores(truth, p, classes, task)


def test_the_file_of_one_class_a_image(tmp_path):
    p = np.array([[0.1, 0.7, 0.2], [1 / 3, 1 / 3, 1 / 3]], "float32")
    write_predictions(tmp_path / "p.csv", ["a.png", "b.png"], [1, 2], p, ["x", "y", "z"], "multiclass")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "file,truth,prediction,confidence,prob:x,prob:y,prob:z",
        "a.png,y,y,0.7,0.1,0.7,0.2",
        "b.png,z,x,0.33333334,0.33333334,0.33333334,0.33333334",
    ]


def test_the_file_of_two_classes_has_a_column_for_each(tmp_path):
    p = np.array([0.25, 0.5, 0.75])
    write_predictions(tmp_path / "p.csv", ["a", "b", "c"], [0, 0, 1], p, ["no", "yes"], "binary")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "file,truth,prediction,confidence,prob:no,prob:yes",
        "a,no,no,0.75,0.75,0.25",
        "b,no,no,0.5,0.5,0.5",
        "c,yes,yes,0.75,0.25,0.75",
    ]


def test_the_file_of_labels_joins_them_by_a_bar_and_quotes_a_bar_in_a_name(tmp_path):
    p = [[0.75, 0.875, 0.25], [0.0, 0.5, 0.25]]
    write_predictions(tmp_path / "p.csv", ["a", "b"], [[1, 1, 1], [0, 0, 0]], p, ["x", "y", "z|z"], "multilabel")
    with open(tmp_path / "p.csv", newline="") as file:
        rows = [row[:4] for row in csv.reader(file)]
    assert rows[1:] == [["a", 'x|y|"z|z"', "x|y", "0.75"], ["b", "", "", "0.5"]]


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_predictions(tmp_path / "p.csv", [name], [0], [[1.0, 0.0]], ["x", "y"], "multiclass")
    assert b"caf\xe9.png" in (tmp_path / "p.csv").read_bytes()
    assert read_predictions(tmp_path / "p.csv", "multiclass").ids == [name]


def test_fewer_names_than_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        write_predictions(tmp_path / "p.csv", ["a"], [0, 1], np.eye(2), ["x", "y"], "multiclass")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_every_float32_reads_back_as_itself(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("floats") / "p.csv"
    p = np.array([values], "float32")
    write_predictions(path, ["a"], [0], p, [str(number) for number in range(len(values))], "multiclass")
    np.testing.assert_array_equal(read_predictions(path, "multiclass").probabilities, p)


def test_a_probability_of_one_half_is_not_above_the_threshold():
    half, more = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    for task, shape in (("binary", (2, 1)), ("multilabel", (2, 1))):
        decision, _ = decide(np.array([half, more]).reshape(shape), task)
        assert decision.ravel().tolist() == [0, 1]


def test_labels_are_as_sure_as_the_least_sure_of_them():
    decision, confidence = decide([[0.875, 0.25], [0.0, 1.0]], "multilabel")
    assert decision.tolist() == [[1, 0], [0, 1]]
    assert confidence.tolist() == [0.75, 1.0]
