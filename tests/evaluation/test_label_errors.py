import json

import numpy as np
import pytest

import kerasimg
from kerasimg.evaluation.label_errors import believed_classes, confident_joint, find_label_errors


def noisy(n=2000, k=5, share=0.08, seed=0):
    """True classes, labels of which a share is wrong, and probabilities of a fair model."""
    random = np.random.default_rng(seed)
    true = random.integers(0, k, n)
    p = random.dirichlet(np.full(k, 0.3), n) + 3 * np.eye(k)[true] * random.beta(4, 1, n)[:, None]
    p /= p.sum(axis=1, keepdims=True)
    wrong = random.random(n) < share
    given = np.where(wrong, (true + random.integers(1, k, n)) % k, true)
    return true, given, p.astype("float32")


def by_definition(given, p):
    """Equation 1 and 2 of the paper, image by image."""
    k = p.shape[1]
    threshold = [np.mean([row[j] for row, label in zip(p, given, strict=True) if label == j]) for j in range(k)]
    joint = np.zeros((k, k), int)
    for row, label in zip(p, given, strict=True):
        confident = [j for j in range(k) if row[j] >= threshold[j] - 1e-6]
        if confident:
            joint[label, max(confident, key=lambda j: row[j])] += 1
    return joint


def test_the_confident_joint_is_that_of_the_paper():
    _, given, p = noisy(300)
    joint = confident_joint(given, p.astype("float64"))
    assert joint.tolist() == by_definition(given, p.astype("float64")).tolist()
    assert joint.sum() <= 300


def test_planted_errors_are_found_and_ranked_before_sound_labels():
    true, given, p = noisy()
    ids = [str(number) for number in range(len(true))]
    rows = find_label_errors(ids, given, p, list("abcde"), "multiclass")
    wrong = set(np.flatnonzero(true != given))
    found = [int(row["file"]) for row in rows]
    assert len(wrong & set(found)) / len(wrong) > 0.75
    assert len(wrong & set(found)) / len(found) > 0.9
    assert len(wrong & set(found[:50])) >= 49
    assert [row["margin"] for row in rows] == sorted(row["margin"] for row in rows)
    first = rows[0]
    assert (first["given"], first["suggested"]) == ("abcde"[given[found[0]]], "abcde"[true[found[0]]])
    assert first["margin"] == first["p_given"] - first["p_suggested"] < 0


def test_labels_that_the_model_agrees_with_are_not_listed():
    assert find_label_errors(["x", "y"], [0, 1], [[0.9, 0.1], [0.2, 0.8]], ["a", "b"], "multiclass") == []


def test_two_classes_and_several_labels_are_evaluated_one_by_one():
    p = np.array([0.9, 0.8, 0.1, 0.2, 0.95], "float32")
    (row,) = find_label_errors(list("vwxyz"), [1, 1, 0, 0, 0], p, ["ok", "bad"], "binary")
    assert (row["file"], row["given"], row["suggested"]) == ("z", "ok", "bad")
    truth = np.stack([[1, 1, 0, 0, 0], [0, 1, 0, 1, 0]], axis=1)
    (row,) = find_label_errors(list("vwxyz"), truth, np.stack([p, truth[:, 1]], axis=1), ["bad", "odd"], "multilabel")
    assert (row["file"], row["given"], row["suggested"]) == ("z", "not bad", "bad")


def test_a_class_without_images_is_believed_of_none():
    assert believed_classes(np.array([0, 0]), np.array([[0.1, 0.9], [0.2, 0.8]])).tolist() == [-1, 0]


def test_cleanlab_finds_the_same():
    filters = pytest.importorskip("cleanlab.filter")
    for seed in range(5):
        _, given, p = noisy(400, seed=seed)
        ids = [str(number) for number in range(400)]
        ours = {int(row["file"]) for row in find_label_errors(ids, given, p, list("abcde"), "multiclass")}
        theirs = filters.find_label_issues(given, p.astype("float64"), filter_by="confident_learning")
        assert ours == set(np.flatnonzero(theirs))


def test_a_runs_held_out_images_are_searched(make_run):
    run = make_run("multiclass")
    result = kerasimg.label_errors(run)
    assert (result["n"], result["found"]) == (120, len(result["rows"]))
    assert {row["part"] for row in result["rows"]} == {"validation", "test"}
    assert json.loads((run.folder / "evaluation" / "label_errors.json").read_text()) == result.to_dict()


def test_other_images_leave_the_run_alone(make_run, lists, tmp_path):
    run = make_run("binary")
    result = kerasimg.label_errors(run, data=lists("binary"), part="test", out=tmp_path / "found.json")
    assert result["n"] == 60
    assert json.loads((tmp_path / "found.json").read_text()) == result.to_dict()
    assert not (run.folder / "evaluation" / "label_errors.json").exists()
