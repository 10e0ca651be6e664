import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import f1_score

from kerasimg.metrics import F1


def measured(truth, scores, weight=None, batch=7, **arguments):
    """F1 of all rows, fed in batches, as a Python float."""
    metric = F1(**arguments)
    for start in range(0, len(truth), batch):
        part = slice(start, start + batch)
        metric.update_state(truth[part], scores[part], None if weight is None else weight[part])
    return float(metric.result())


def random_rows(seed, n, k):
    random = np.random.default_rng(seed)
    return random.integers(0, k, n), random.normal(size=(n, k)).astype("float32"), random.random(n)


def test_three_classes_worked_by_hand():
    truth = np.array([0, 0, 1, 2])
    scores = np.eye(3)[[0, 1, 1, 1]]
    # Precision and recall are 1 and 1/2, 1/3 and 1, 0 and 0.
    assert measured(truth, scores, num_classes=3) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert measured(truth, scores, num_classes=3, average="weighted") == pytest.approx((2 * 2 / 3 + 1 / 2) / 4)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize(("n", "k"), [(1, 2), (5, 3), (40, 4), (60, 25)])
def test_it_agrees_with_scikit_learn_for_every_form_of_label(average, n, k):
    for seed in range(5):
        truth, scores, _ = random_rows(seed, n, k)
        expected = f1_score(truth, scores.argmax(axis=1), average=average, zero_division=0)
        for labels in (truth, truth[:, None].astype("float32"), np.eye(k)[truth]):
            found = measured(labels, scores, num_classes=k, average=average)
            assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "weighted", "binary"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_score_a_image_is_the_second_class_above_the_threshold(average, shape):
    truth, scores, _ = random_rows(0, 50, 2)
    logits = scores[:, 1]
    expected = f1_score(truth, logits > 0.25, average=average, zero_division=0)
    for labels in (truth, truth[:, None], np.eye(2)[truth]):
        arguments = {"num_classes": 2, "average": average, "threshold": 0.25}
        assert measured(labels, logits.reshape(shape), **arguments) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_sample_weights_count_as_in_scikit_learn(average):
    truth, scores, weight = random_rows(1, 50, 4)
    expected = f1_score(truth, scores.argmax(axis=1), average=average, sample_weight=weight)
    for weights in (weight, weight[:, None]):
        found = measured(truth, scores, weights, num_classes=4, average=average)
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_image_of_weight_0_does_not_occur():
    truth, scores = np.array([0, 1, 2]), np.eye(3)[[0, 1, 0]]
    assert measured(truth, scores, np.array([1.0, 1.0, 0.0]), num_classes=3) == 1


def test_a_class_that_does_not_occur_is_left_out_of_the_average():
    assert measured(np.array([0, 4]), np.eye(5)[[0, 4]], num_classes=5) == 1


def test_before_the_first_batch_and_after_a_reset_it_is_0():
    metric = F1(num_classes=3)
    assert float(metric.result()) == 0
    metric.update_state(np.array([1]), np.eye(3)[[1]])
    assert float(metric.result()) == 1
    metric.reset_state()
    assert float(metric.result()) == 0


def test_it_survives_being_serialized():
    metric = F1(2, average="binary", threshold=0.0, name="sure", dtype="float64")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is F1
    assert again.get_config() == metric.get_config()


def test_a_compiled_model_reports_it():
    truth, images, _ = random_rows(2, 32, 3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("softmax")])
    # PyTorch would want a C++ compiler.
    jit = keras.backend.backend() != "torch"
    model.compile(loss="sparse_categorical_crossentropy", metrics=[F1(num_classes=3)], jit_compile=jit)
    found = model.evaluate(images, truth, batch_size=10, verbose=0, return_dict=True)["f1"]
    assert found == pytest.approx(f1_score(truth, images.argmax(axis=1), average="macro"), abs=1e-6)


def test_half_precision_predictions_are_counted_exactly():
    truth = np.zeros(5000, "int32")
    scores = ops.cast(ops.ones((5000, 1)), "float16")
    assert measured(truth, scores, num_classes=2, batch=5000) == 0
    assert measured(truth + 1, scores, num_classes=2, average="binary", batch=5000) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, got 1"),
        (
            {"num_classes": 3, "average": "micro"},
            "average must be one of macro, weighted, binary, none, got 'micro'",
        ),
        ({"num_classes": 3, "average": "binary"}, "average='binary' needs num_classes=2, got 3"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"F1: {message}"):
        F1(**arguments)


@pytest.mark.parametrize("shape", [(4, 5), (4, 1)])
def test_predictions_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match="num_classes is 3, but y_pred has shape"):
        F1(num_classes=3).update_state(np.zeros(4), np.zeros(shape))
