"""Each measure is scikit-learn's of the same name."""

import numpy as np
import pytest
import sklearn.metrics as sk

from kerasimg.evaluation import measures

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
def test_of_several_labels_a_picture_the_counts_are_those_of_scikit_learn(seed: int):
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
    np.testing.assert_array_equal(measures.confusion_matrix(truth, decision, CLASSES), wanted)


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
    wanted = sk.top_k_accuracy_score(truth, p, k=k, labels=range(CLASSES))
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
