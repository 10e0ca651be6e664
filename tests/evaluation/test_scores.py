import json
import math
from typing import get_args

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasimg.errors import KerasimgError
from kerasimg.evaluation.scores import _TASKS, reliability, scores
from kerasimg.spec.document import Task

NO_SHARES = {"log_loss", "brier_score", "threshold", "support", "n", "low", "high"}


def random_softmax(seed, n, k):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(k, 0.3), n).astype("float32")
    return random.integers(0, k, n), p


def names(k):
    return [f"class {number}" for number in range(k)]


def numbers(tree, key=""):
    """Every number in a tree of scores, with its key."""
    if isinstance(tree, dict):
        return [pair for name, value in tree.items() for pair in numbers(value, name)]
    if isinstance(tree, list):
        return [pair for value in tree for pair in numbers(value, key)]
    return [(key, tree)] if isinstance(tree, (int, float)) else []


def test_every_task_of_the_spec_has_its_scores():
    assert set(_TASKS) == set(get_args(Task))


def test_three_classes_worked_by_hand():
    p = [[0.8, 0.1, 0.1], [0.3, 0.65, 0.05], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]]
    found = scores([0, 0, 1, 1], p, ["a", "b", "c"], "multiclass")
    assert found.pop("calibration")[9] == pytest.approx(
        {"low": 9 / 15, "high": 10 / 15, "n": 1, "accuracy": 0, "confidence": 0.65}
    )
    assert found.pop("per_class") == {
        "a": pytest.approx(
            {"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "support": 2, "roc_auc": 1, "average_precision": 1}
        ),
        "b": pytest.approx(
            {
                "precision": 2 / 3,
                "recall": 1,
                "f1": 4 / 5,
                "support": 2,
                "roc_auc": 3 / 4,
                "average_precision": (1 + 2 / 3) / 2,
            }
        ),
        "c": {"precision": 0, "recall": 0, "f1": 0, "support": 0, "roc_auc": None, "average_precision": None},
    }
    assert found.pop("most_confused") == [{"truth": "a", "prediction": "b", "n": 1, "share": 0.5}]
    assert found.pop("top_k_accuracy") == {"2": 1}
    assert found.pop("confusion") == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found == {
        "task": "multiclass",
        "n": 4,
        "classes": ["a", "b", "c"],
        "accuracy": 3 / 4,
        "balanced_accuracy": 3 / 4,
        "macro_precision": pytest.approx(5 / 6),
        "macro_recall": 3 / 4,
        "macro_f1": pytest.approx(11 / 15),
        "weighted_precision": pytest.approx(5 / 6),
        "weighted_recall": 3 / 4,
        "weighted_f1": pytest.approx(11 / 15),
        "log_loss": pytest.approx(-math.log(0.8 * 0.3 * 0.7 * 0.5) / 4),
        "brier_score": pytest.approx((0.06 + 0.915 + 0.14 + 0.42) / 4),
        "calibration_error": pytest.approx((0.2 + 0.65 + 0.3 + 0.5) / 4),
    }


def test_two_classes_worked_by_hand():
    found = scores([0, 1, 1, 0], [[0.4], [0.5], [0.9], [0.7]], ["ok", "defect"], "binary")
    expected = {
        "positive": "defect",
        "thresholds": {"defect": 0.5},
        "accuracy": 1 / 2,
        "balanced_accuracy": 1 / 2,
        "precision": 1 / 2,
        "recall": 1 / 2,
        "f1": 1 / 2,
        "roc_auc": 3 / 4,
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
        "log_loss": pytest.approx(-math.log(0.6 * 0.5 * 0.9 * 0.3) / 4),
    }
    assert {name: found[name] for name in expected} == expected
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert [row["support"] for row in found["per_class"].values()] == [2, 2]


def test_labels_worked_by_hand():
    truth = [[1, 0, 0], [1, 1, 0]]
    found = scores(truth, [[0.9, 0.2, 0.6], [0.4, 0.8, 0.1]], ["a", "b", "c"], "multilabel")
    assert found["per_class"] == {
        "a": {"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2, "average_precision": 1, "roc_auc": None},
        "b": {"precision": 1, "recall": 1, "f1": 1, "support": 1, "average_precision": 1, "roc_auc": 1},
        "c": {"precision": 0, "recall": 0, "f1": 0, "support": 0, "average_precision": None, "roc_auc": None},
    }
    expected = {
        "n": 2,
        "subset_accuracy": 0,
        "hamming_loss": 2 / 6,
        "macro_precision": 2 / 3,
        "macro_recall": 1 / 2,
        "macro_f1": pytest.approx(5 / 9),
        "micro_precision": 2 / 3,
        "micro_recall": 2 / 3,
        "micro_f1": 2 / 3,
        "mean_average_precision": 1,
        "log_loss": pytest.approx(-math.log(0.9 * 0.8 * 0.4 * 0.4 * 0.8 * 0.9) / 6),
        "calibration_error": pytest.approx((0.1 + 0.2 + 0.6 + 0.6 + 0.2 + 0.1) / 6),
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("n", "k"), [(5, 3), (80, 6), (300, 12)])
def test_multiclass_equals_scikit_learn(n, k):
    truth, p = random_softmax(n, n, k)
    found = scores(truth, p, names(k), "multiclass")
    decided = p.argmax(axis=1)
    exact = p.astype("float64") / p.astype("float64").sum(axis=1, keepdims=True)
    assert found["accuracy"] == sk.accuracy_score(truth, decided)
    assert found["log_loss"] == sk.log_loss(truth, exact, labels=range(k))
    assert found["confusion"] == sk.confusion_matrix(truth, decided, labels=range(k)).tolist()
    for average in ("macro", "weighted"):
        assert found[f"{average}_f1"] == sk.f1_score(truth, decided, average=average, zero_division=0)
    in_the_five_best = [label in row.argsort()[-5:] for label, row in zip(truth, p, strict=True)]
    assert found.get("top_5_accuracy") == (np.mean(in_the_five_best) if k > 5 else None)


def test_balanced_accuracy_equals_scikit_learn_where_all_classes_occur():
    truth, p = random_softmax(3, 200, 7)
    found = scores(truth, p, names(7), "multiclass")["balanced_accuracy"]
    assert found == sk.balanced_accuracy_score(truth, p.argmax(axis=1))


def test_the_areas_equal_scikit_learn():
    truth, p = random_softmax(4, 100, 2)
    found = scores(truth, p[:, 1], ["a", "b"], "binary")
    assert found["roc_auc"] == sk.roc_auc_score(truth, p[:, 1])
    assert found["average_precision"] == sk.average_precision_score(truth, p[:, 1])
    assert found["f1"] == sk.f1_score(truth, p[:, 1] > 0.5)


def test_a_column_and_a_vector_of_binary_probabilities_score_the_same():
    truth, p = random_softmax(5, 30, 2)
    vector, column = (scores(truth, p[:, 1].reshape(shape), ["a", "b"], "binary") for shape in [-1, (-1, 1)])
    assert vector == column


def test_binary_agrees_with_multiclass_of_two_columns():
    truth, p = random_softmax(6, 50, 2)
    second = p[:, 1].astype("float64")
    binary = scores(truth, second, ["a", "b"], "binary")
    multiclass = scores(truth, np.stack([1 - second, second], 1), ["a", "b"], "multiclass")
    for name in ("accuracy", "balanced_accuracy", "per_class", "confusion"):
        assert binary[name] == multiclass[name]
    for name in ("log_loss", "calibration_error"):
        assert binary[name] == pytest.approx(multiclass[name])


@pytest.mark.parametrize(("label", "area"), [(0, None), (1, 1.0)])
def test_with_one_class_in_the_truth_the_area_under_the_curve_is_undefined(label, area):
    found = scores([label] * 3, [0.2, 0.6, 0.9], ["a", "b"], "binary")
    assert found["roc_auc"] is None
    assert found["average_precision"] == area


def test_a_single_label_is_not_taken_for_a_binary_problem():
    found = scores([[1], [0], [0]], [[0.9], [0.8], [0.1]], ["smoke"], "multilabel")
    assert found["macro_precision"] == found["micro_precision"] == 1 / 2
    assert list(found["per_class"]) == ["smoke"]


def test_a_model_that_predicts_nan_is_named_as_diverged():
    with pytest.raises(KerasimgError, match="diverged; try a lower learning_rate"):
        scores([0], [[math.nan, 1.0]], ["a", "b"], "multiclass")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(get_args(Task)), st.integers(1, 12), st.integers(1, 8), st.integers(0, 10**6))
def test_any_data_give_json_with_shares_in_0_to_1_and_no_warning(task, n, k, seed):
    random = np.random.default_rng(seed)
    k = {"multiclass": max(k, 2), "binary": 2, "multilabel": k}[task]
    # Coarse values make ties, zeros and ones.
    p = random.integers(0, 4, (n, k)).astype("float32") / 3
    truth = random.integers(0, k, n)
    if task == "multiclass":
        p[:, 0] += p.sum(axis=1) == 0
        p /= p.sum(axis=1, keepdims=True)
    elif task == "binary":
        p = p[:, :1]
    else:
        truth = random.integers(0, 2, (n, k)).astype("float32")
    found = scores(truth, p, names(k), task)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    found.pop("confusion", None)
    assert all(0 <= value <= 1 for key, value in numbers(found) if key not in NO_SHARES)
    assert sum(row["support"] for row in found["per_class"].values()) == (truth.sum() if task == "multilabel" else n)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    error, bins = reliability([0.95, 0.95, 0.95, 0.55], [1, 1, 0, 0], bins=10)
    assert error == pytest.approx(3 / 4 * (0.95 - 2 / 3) + 1 / 4 * 0.55)
    assert [each["n"] for each in bins] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert bins[9] == pytest.approx({"low": 0.9, "high": 1.0, "n": 3, "accuracy": 2 / 3, "confidence": 0.95})


def test_a_bin_holds_its_upper_edge():
    _, bins = reliability([0.0, 0.25, 0.5, 0.75, 1.0], [1] * 5, bins=4)
    assert [each["n"] for each in bins] == [2, 1, 1, 1]


def test_a_model_as_sure_as_it_is_right_is_calibrated():
    assert reliability([0.75] * 4, [1, 1, 1, 0])[0] == 0
