import numpy as np
import pytest
import sklearn.metrics as sk

from kerasimg.evaluation.evaluate import POINTS, curves
from kerasimg.evaluation.scores import scores
from kerasimg.figures import curves_figure


def drawn(task, n=400, k=4):
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(k, 0.5), n)
    truth = (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    if task == "binary":
        return (truth > 1).astype(int), 1 - p[:, :1], ["no", "yes"]
    if task == "multilabel":
        return np.eye(k, dtype=int)[truth], p, list("abcd")
    return truth, p, list("abcd")


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_thinned_curves_keep_their_ends_and_their_area(task):
    truth, p, classes = drawn(task)
    found = curves(truth, p, scores(truth, p, classes, task), task)["classes"]
    assert list(found) == (["yes"] if task == "binary" else classes)
    for name, row in found.items():
        k = classes.index(name)
        of_class = truth if task == "binary" else truth[:, k] if task == "multilabel" else truth == k
        assert row["roc_auc"] == sk.roc_auc_score(of_class, p[:, 0 if task == "binary" else k])
        roc, pr = row["roc"], row["precision_recall"]
        assert len(roc["fpr"]) <= POINTS + 1
        assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
        assert (pr["recall"][0], pr["recall"][-1]) == (1, 0)
        assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(row["roc_auc"], abs=0.01)


def test_a_class_without_images_has_no_curve():
    truth, p, classes = drawn("multiclass")
    found = curves(truth % 3, p, scores(truth % 3, p, classes, "multiclass"), "multiclass")
    assert list(found["classes"]) == ["a", "b", "c"]


def test_the_figure_names_each_curve_with_its_area():
    truth, p, classes = drawn("multiclass")
    found = curves(truth, p, scores(truth, p, ["$a$", "b", "c", "d"], "multiclass"), "multiclass")
    left, right = curves_figure(found).axes
    worst = min(found["classes"].items(), key=lambda pair: pair[1]["average_precision"])
    assert left.get_legend().get_texts()[0].get_text().startswith(f"{worst[1]['average_precision']:.3f} ")
    assert len(right.get_legend().get_texts()) == len(classes)


def test_of_many_classes_the_ten_lowest_are_drawn():
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(15), 300)
    truth = np.arange(300) % 15
    names = [str(number) for number in range(15)]
    left, _ = curves_figure(curves(truth, p, scores(truth, p, names, "multiclass"), "multiclass")).axes
    assert len(left.get_legend().get_texts()) == 10
    assert left.get_title() == "Precision and recall (lowest 10 of 15 classes)"
