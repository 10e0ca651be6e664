"""predictions.csv alone gives every figure of metrics.json again, to the last digit, through scikit-learn."""

import csv
import json

import numpy as np
import pytest
import sklearn.metrics as sk

import kerasimg

TASKS = ["multiclass", "binary", "multilabel"]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def calibration_error(confidence, right):
    """By the definition of Guo et al. 2017, in a loop."""
    total = 0.0
    for low in range(15):
        inside = (confidence > np.linspace(0, 1, 16)[low]) & (confidence <= np.linspace(0, 1, 16)[low + 1])
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


def areas(truth, p):
    known = 0 < truth.sum() < len(truth)
    return {
        "roc_auc": sk.roc_auc_score(truth, p) if known else None,
        "average_precision": min(sk.average_precision_score(truth, p), 1.0) if truth.any() else None,
    }


def brier(truth, p):
    """The sum over the classes, of two classes that of the second one alone."""
    if p.shape[1] == 2:
        return sk.brier_score_loss(truth, p[:, 1])
    return ((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1).mean()


def averages(truth, said, kind, labels=None):
    found = sk.precision_recall_fscore_support(truth, said, labels=labels, average=kind, zero_division=0)
    return {f"{kind}_{name}": value for name, value in zip(("precision", "recall", "f1"), found[:3], strict=True)}


def each_class(classes, truth, said, columns, labels):
    rows = sk.precision_recall_fscore_support(truth, said, labels=labels, average=None, zero_division=0)
    return {
        name: {"precision": a, "recall": b, "f1": c, "support": d, **areas(*column)}
        for name, a, b, c, d, column in zip(classes, *rows, columns, strict=True)
    }


def of_one_class(found, classes, p, columns):
    truth, said = found["truth"], found["prediction"]
    y = np.array([classes.index(name) for name in truth])
    return {
        "accuracy": sk.accuracy_score(truth, said),
        "balanced_accuracy": sk.recall_score(truth, said, labels=sorted(set(truth)), average="macro"),
        "log_loss": sk.log_loss(truth, p, labels=classes),
        "brier_score": pytest.approx(brier(y, p), rel=1e-12),
        "calibration_error": pytest.approx(calibration_error(p.max(axis=1), p.argmax(axis=1) == y), rel=1e-12),
        "confusion": sk.confusion_matrix(truth, said, labels=classes).tolist(),
        "per_class": each_class(classes, truth, said, columns, classes),
    }


def recomputed(task, found):
    classes = [name.removeprefix("prob:") for name in found if name.startswith("prob:")]
    p = np.array([found[f"prob:{name}"] for name in classes], dtype="float32").T.astype("float64")
    truth, said = found["truth"], found["prediction"]
    if task == "multilabel":
        y, d = (np.array([[name in cell.split("|") for name in classes] for cell in cells]) for cells in (truth, said))
        columns = [(y[:, k], p[:, k]) for k in range(len(classes))]
        rows = each_class(classes, y, d, columns, range(len(classes)))
        sure, right = np.maximum(p, 1 - p).reshape(-1), ((p > 0.5) == y).reshape(-1)
        return {
            "subset_accuracy": sk.accuracy_score(y, d),
            "hamming_loss": sk.hamming_loss(y, d),
            **averages(y, d, "macro"),
            **averages(y, d, "micro"),
            "mean_average_precision": np.mean([row["average_precision"] for row in rows.values()]),
            "log_loss": sk.log_loss(y.reshape(-1), p.reshape(-1)),
            "brier_score": pytest.approx(((p - y) ** 2).mean(), rel=1e-12),
            "calibration_error": pytest.approx(calibration_error(sure, right), rel=1e-12),
            "per_class": rows,
        }
    if task == "binary":
        second = p[:, 1]
        y = np.array(truth) == classes[1]
        both = np.stack([1 - second, second], axis=1)
        rows = of_one_class(found, classes, both, [(~y, both[:, 0]), (y, second)])
        return rows | {name: rows["per_class"][classes[1]][name] for name in ("precision", "recall", "f1", "roc_auc")}
    p = p / p.sum(axis=1, keepdims=True)
    y = np.array([classes.index(name) for name in truth])
    return {
        **of_one_class(found, classes, p, [(y == k, p[:, k]) for k in range(len(classes))]),
        **averages(truth, said, "macro"),
        **averages(truth, said, "weighted"),
        "top_k_accuracy": {"2": sk.top_k_accuracy_score(y, p, k=2)},
    }


@pytest.mark.parametrize("changed", [False, True], ids=["as trained", "calibrated, with thresholds"])
@pytest.mark.parametrize("task", TASKS)
def test_predictions_alone_give_every_figure_again(make_run, task, changed):
    run = make_run(task, tilt=-2.0)
    if changed:
        kerasimg.calibrate(run)
        if task != "multiclass":
            kerasimg.choose_thresholds(run)
    result = run.scores
    found = table(run.folder / "evaluation" / "predictions.csv")
    again = recomputed(task, found)
    assert {name: result[name] for name in again} == again
    left = set(result.to_dict()) - set(again)
    assert left <= {
        *("data", "part", "temperature", "task", "n", "classes", "positive", "thresholds", "average_precision"),
        *("intervals", "intervals_by", "slices", "slices_left_out", "most_confused", "calibration"),
        "model",
    }
    for row in result["slices"][0]["rows"]:
        chosen = [place for place, value in enumerate(found["extra:camera"]) if value == row["value"]]
        part = recomputed(task, {name: [cells[place] for place in chosen] for name, cells in found.items()})
        assert row["n"] == len(chosen)
        assert row["figures"] == {name: part.get(name, row["figures"][name]) for name in row["figures"]}


def test_the_written_figures_are_plain_json(make_run):
    text = (make_run("multilabel").folder / "evaluation" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["n"] == 60
