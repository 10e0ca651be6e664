"""Each measure is scikit-learn's of the same name."""

import numpy as np
import pytest
import sklearn.metrics as sk

from kerasimg.evaluation import measures
from kerasimg.evaluation.intervals import intervals
from kerasimg.evaluation.predictions import decide
from kerasimg.evaluation.scores import scores

CLASSES = 5


def draws(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) classes, of which one may be missing, and (N, K) probabilities with ties."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 4] if seed % 2 else CLASSES, 40)
    p = np.round(random.dirichlet(np.full(CLASSES, 0.5), 40), 1)
    return truth, p


@pytest.mark.parametrize("seed", range(6))
def test_precision_recall_and_f1_of_each_class_are_those_of_scikit_learn(seed: int):
    truth, p = draws(seed)
    decision = p.argmax(axis=1)
    found = measures.counts(truth, decision, CLASSES)
    wanted = sk.precision_recall_fscore_support(truth, decision, labels=range(CLASSES), zero_division=0)
    for one, other in zip((found.precision, found.recall, found.f1, found.true), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_of_several_labels_a_image_the_counts_are_those_of_scikit_learn(seed: int):
    _, p = draws(seed)
    truth, decision = (p > 0.2).astype(int), (np.roll(p, 1, axis=0) > 0.3).astype(int)
    found = measures.counts(truth, decision, CLASSES)
    one = found.together()
    wanted = sk.precision_recall_fscore_support(truth, decision, average="micro", zero_division=0)
    assert (one.precision[0], one.recall[0], one.f1[0]) == pytest.approx(wanted[:3], rel=1e-15)
    np.testing.assert_allclose(found.f1, sk.f1_score(truth, decision, average=None, zero_division=0), rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_the_confusion_matrix_is_that_of_scikit_learn(seed: int):
    truth, p = draws(seed)
    decision = p.argmax(axis=1)
    wanted = sk.confusion_matrix(truth, decision, labels=range(CLASSES))
    cells = measures.confusion_cells(truth, decision, CLASSES)
    np.testing.assert_array_equal(measures.confusion_matrix(cells, CLASSES), wanted)


@pytest.mark.parametrize("seed", range(6))
def test_the_log_loss_is_that_of_scikit_learn_for_what_was_certain_and_wrong_too(seed: int):
    truth, p = draws(seed)
    p = p / p.sum(axis=1, keepdims=True)
    assert (p[np.arange(len(p)), truth] == 0).any()
    wanted = sk.log_loss(truth, p, labels=range(CLASSES))
    assert measures.log_loss(p[np.arange(len(p)), truth]) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_rank_of_the_true_class_gives_the_top_k_accuracy_of_scikit_learn(seed: int, k: int):
    truth, p = draws(seed)
    first = p - 1e-9 * np.arange(CLASSES)  # of equals scikit-learn takes the last class first, its argmax the first
    wanted = sk.top_k_accuracy_score(truth, first, k=k, labels=range(CLASSES))
    assert (measures.ranks(truth, p) < k).mean() == wanted


@pytest.mark.parametrize("seed", range(6))
def test_the_curves_and_the_areas_under_them_are_those_of_scikit_learn(seed: int):
    truth, p = draws(seed)
    truth, p = (truth == 0).astype(int), p[:, 0]
    for found, wanted in (
        (measures.roc_curve(truth, p), sk.roc_curve(truth, p)[:2]),
        (measures.precision_recall_curve(truth, p), sk.precision_recall_curve(truth, p)[:2]),
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-15)
    assert measures.roc_auc(truth, p) == pytest.approx(sk.roc_auc_score(truth, p), rel=1e-14)
    assert measures.average_precision(truth, p) == pytest.approx(sk.average_precision_score(truth, p), rel=1e-14)


def test_of_equal_probabilities_the_first_class_comes_first_everywhere():
    p = np.full((5, 5), 0.2)
    truth = np.arange(5)
    assert measures.ranks(truth, p).tolist() == [0, 1, 2, 3, 4]
    assert measures.most_likely_first(p[0]).tolist() == [0, 1, 2, 3, 4]
    decision, _ = decide(p, "multiclass")
    assert ((measures.ranks(truth, p) == 0) == (decision == truth)).all()
    found = scores(truth, p, list("abcde"), "multiclass")
    assert (found["accuracy"], found["top_k_accuracy"]) == (0.2, {"2": 0.4, "3": 0.6})


def test_the_rank_of_the_truth_is_its_place_in_the_list():
    rng = np.random.default_rng(3)
    p = rng.integers(0, 4, (200, 6)) / 4
    truth = rng.integers(0, 6, 200)
    places = [measures.most_likely_first(row).tolist().index(label) for row, label in zip(p, truth, strict=True)]
    assert measures.ranks(truth, p).tolist() == places


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_brier_score_equals_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    p = rng.dirichlet(np.ones(classes), 50)
    truth = rng.integers(0, classes, 50)
    names = [f"c{k}" for k in range(classes)]
    wanted = sk.brier_score_loss(np.eye(classes)[truth], p, scale_by_half="auto" if classes > 2 else True)
    assert scores(truth, p, names, "multiclass")["brier_score"] == pytest.approx(wanted)
    if classes == 2:
        assert scores(truth, p[:, 1], names, "binary")["brier_score"] == pytest.approx(
            sk.brier_score_loss(truth, p[:, 1])
        )


def test_the_brier_score_of_several_labels_is_the_mean_of_theirs():
    rng = np.random.default_rng(0)
    p, truth = rng.random((40, 3)), rng.integers(0, 2, (40, 3))
    wanted = np.mean([sk.brier_score_loss(truth[:, k], p[:, k]) for k in range(3)])
    assert scores(truth, p, list("abc"), "multilabel")["brier_score"] == pytest.approx(wanted)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_brier_score_has_an_interval(task):
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), 60) if task == "multiclass" else rng.random((60, 1 if task == "binary" else 3))
    truth = rng.integers(0, 3, 60) if task == "multiclass" else rng.integers(0, 2, p.shape)
    found = scores(truth, p, ["no", "yes"] if task == "binary" else list("abc"), task)
    low, high = intervals(found, truth, p, task)["brier_score"]
    assert low < found["brier_score"] < high
