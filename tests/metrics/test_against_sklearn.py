import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from sklearn import metrics as sklearn

from kerasimg.metrics import (
    BalancedAccuracy,
    ExpectedCalibrationError,
    MatthewsCorrelation,
    SparsePrecision,
    SparseRecall,
)

AVERAGED = {SparsePrecision: sklearn.precision_score, SparseRecall: sklearn.recall_score}
PLAIN = {BalancedAccuracy: sklearn.balanced_accuracy_score, MatthewsCorrelation: sklearn.matthews_corrcoef}


def rows(seed, n=40, k=4):
    random = np.random.default_rng(seed)
    # Every class is labelled: scikit-learn warns of one that is only predicted.
    truth = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    return truth, random.normal(size=(n, k)).astype("float32"), random.random(n)


def measured(metric, truth, scores, weight=None):
    for start in range(0, len(truth), 7):
        part = slice(start, start + 7)
        metric.update_state(truth[part], scores[part], None if weight is None else weight[part])
    return keras.ops.convert_to_numpy(metric.result())


@pytest.mark.parametrize("cls", AVERAGED)
@pytest.mark.parametrize("average", ["macro", "weighted", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_precision_and_recall_agree_with_scikit_learn(cls, average, weighted):
    for seed in range(3):
        truth, scores, weight = rows(seed)
        weight = weight if weighted else None
        how = None if average == "none" else average
        found = measured(cls(4, average=average), truth, scores, weight)
        expected = AVERAGED[cls](truth, scores.argmax(axis=1), average=how, sample_weight=weight, zero_division=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("cls", PLAIN)
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_needs_no_average_agrees_with_scikit_learn(cls, k, weighted):
    for seed in range(3):
        truth, scores, weight = rows(seed, k=k)
        weight = weight if weighted else None
        expected = PLAIN[cls](truth, scores.argmax(axis=1), sample_weight=weight)
        np.testing.assert_allclose(measured(cls(k), truth, scores, weight), expected, atol=1e-6)


@pytest.mark.parametrize("cls", [*AVERAGED, *PLAIN])
def test_one_output_counts_above_the_threshold(cls):
    truth, scores, _ = rows(0, k=2)
    more = {"average": "binary"} if cls in AVERAGED else {}
    expected = {**AVERAGED, **PLAIN}[cls](truth, scores[:, 1] > 0.2)
    for logits in (scores[:, 1], scores[:, 1:]):
        np.testing.assert_allclose(measured(cls(2, threshold=0.2, **more), truth, logits), expected, atol=1e-6)


def test_a_class_that_is_only_predicted_does_not_lower_balanced_accuracy():
    assert measured(BalancedAccuracy(3), np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]]) == pytest.approx(0.75)


def test_predictions_of_one_class_correlate_with_nothing():
    assert measured(MatthewsCorrelation(3), np.array([0, 1, 2]), np.eye(3)[[1, 1, 1]]) == 0
    assert measured(MatthewsCorrelation(3), np.array([0, 1, 2]), np.eye(3)) == pytest.approx(1)


def test_the_correlation_stays_exact_with_millions_of_images():
    metric = MatthewsCorrelation(2)
    metric.confusion.assign(np.array([[9e6, 1e6], [1e6, 9e6]]))
    assert float(metric.result()) == pytest.approx(0.8, abs=1e-5)


def calibration_error(truth, probabilities, bins, weight):
    """By the definition, bin by bin."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            gap = np.average(confidence[inside], weights=weight[inside]) - np.average(
                hit[inside], weights=weight[inside]
            )
            error += abs(gap) * weight[inside].sum() / weight.sum()
    return error


def softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_is_as_defined(bins):
    truth, scores, weight = rows(0, n=200)
    probabilities = softmax(scores)
    for given in (None, weight):
        expected = calibration_error(truth, probabilities, bins, np.ones(200) if given is None else given)
        found = measured(ExpectedCalibrationError(bins), truth, probabilities, given)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        logits = measured(ExpectedCalibrationError(bins, from_logits=True), truth, scores, given)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_calibration_of_one_output_is_that_of_two():
    truth, scores, _ = rows(1, n=100, k=2)
    probabilities = softmax(scores)
    expected = measured(ExpectedCalibrationError(), truth, probabilities)
    np.testing.assert_allclose(measured(ExpectedCalibrationError(), truth, probabilities[:, 1:]), expected, atol=1e-5)
    logit = scores[:, 1] - scores[:, 0]
    found = measured(ExpectedCalibrationError(from_logits=True), truth, logit)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_prophet_is_calibrated_and_a_liar_is_not():
    assert measured(ExpectedCalibrationError(), np.array([0, 1]), np.eye(2)) == 0
    assert measured(ExpectedCalibrationError(), np.array([1, 0]), np.eye(2)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancedAccuracy(1), "BalancedAccuracy: num_classes must be 2 or more, got 1"),
        (lambda: SparseRecall(3, average="binary"), "SparseRecall: average='binary' needs num_classes=2, got 3"),
        (lambda: SparsePrecision(3, average="micro"), "SparsePrecision: average must be one of macro"),
        (lambda: ExpectedCalibrationError(0), "ExpectedCalibrationError: bins must be 1 or more, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
