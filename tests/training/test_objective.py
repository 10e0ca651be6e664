from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.training.objective import WeightedLabels, make_objective
from kerasimg.training.optimizer import make_optimizer

SOFTMAX, SIGMOID, LOGITS = ({"activation": name} for name in ("softmax", "sigmoid", "linear"))
MIXUP = [{"layer": "MixUp"}]


def objective(
    head: dict[str, Any], loss: Any = "auto", metrics: Any = ("accuracy",), task: str = "multiclass", augment: Any = ()
) -> Any:
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "name": "tiny",
            "task": task,
            "image": {"size": [4, 4]},
            "augment": list(augment),
            "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 1 if task == "binary" else 3, **head}],
            "compile": {"loss": loss, "metrics": list(metrics)},
        }
    )
    return make_objective(spec, kerasimg.build(spec), 2 if task == "binary" else 3)


@pytest.mark.parametrize(
    ("task", "augment", "loss", "targets"),
    [
        ("multiclass", [], keras.losses.SparseCategoricalCrossentropy, "sparse"),
        ("multiclass", MIXUP, keras.losses.CategoricalCrossentropy, "one_hot"),
        ("binary", [], keras.losses.BinaryCrossentropy, "binary"),
        ("multilabel", [], keras.losses.BinaryCrossentropy, "multi_hot"),
    ],
)
@pytest.mark.parametrize("logits", [False, True])
def test_auto_is_the_cross_entropy_of_the_task_and_the_output(
    task: str, augment: Any, loss: type, targets: str, logits: bool
):
    found = objective(LOGITS if logits else SOFTMAX if task == "multiclass" else SIGMOID, task=task, augment=augment)
    assert type(found.loss) is loss
    assert found.loss.get_config()["from_logits"] is logits
    assert found.targets == targets


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"head": LOGITS, "loss": "sparse_categorical_crossentropy"},
            "the model gives logits, as its last layer has no softmax or sigmoid, and SparseCategoricalCrossentropy "
            'takes probabilities; write "auto", or set from_logits',
        ),
        (
            {"head": SOFTMAX, "loss": {"type": "CategoricalCrossentropy", "from_logits": True}},
            "the model gives softmax probabilities, and CategoricalCrossentropy takes logits; "
            'write "auto", or set from_logits',
        ),
        (
            {"head": SOFTMAX, "loss": "sparse_categorical_crossentropy", "augment": MIXUP},
            'MixUp blends labels, and SparseCategoricalCrossentropy takes a single class; write "auto"',
        ),
        (
            {"head": SOFTMAX, "loss": "binary_crossentropy"},
            'BinaryCrossentropy treats each class by itself; for one class per image write "auto"',
        ),
        (
            {"head": SIGMOID, "loss": "categorical_crossentropy", "task": "multilabel"},
            'CategoricalCrossentropy takes one class of several per image; for this task write "auto"',
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_with_a_suggestion(given: dict[str, Any], message: str):
    with pytest.raises(SpecError) as caught:
        objective(**given)
    assert f"tiny: compile.loss: {message}" in str(caught.value)


def test_metrics_that_do_not_fit_are_refused_all_at_once():
    with pytest.raises(SpecError) as caught:
        objective(SOFTMAX, metrics=["accuracy", "BinaryAccuracy", "Hinge"])
    assert str(caught.value) == (
        "tiny: compile.metrics[1]: BinaryAccuracy takes each class by itself; for the task 'multiclass' write "
        '"accuracy"\n'
        "tiny: compile.metrics[2]: Hinge takes each class by itself; for the task 'multiclass' write "
        '"CategoricalHinge"'
    )


def test_metrics_of_keras_work_with_a_categorical_loss():
    found = objective(
        SOFTMAX, loss="categorical_crossentropy", metrics=["AUC", {"type": "F1Score", "average": "macro"}]
    )
    assert [type(metric).__name__ for metric in found.metrics] == ["AUC", "F1Score"]


@pytest.mark.parametrize(
    ("task", "head", "metric", "threshold"),
    [
        ("binary", SIGMOID, "BinaryAccuracy", 0.5),
        ("binary", LOGITS, "BinaryAccuracy", 0.0),
        ("multilabel", SIGMOID, "BinaryAccuracy", 0.5),
    ],
)
def test_accuracy_has_the_threshold_of_the_output(task: str, head: Any, metric: str, threshold: float):
    (found,) = objective(head, task=task).metrics
    assert (type(found).__name__, found.threshold, found.name) == (metric, threshold, "accuracy")


def test_accuracy_and_f1_of_exclusive_classes():
    assert [metric.name for metric in objective(SOFTMAX, metrics=["accuracy", "f1"]).metrics] == ["accuracy", "f1"]
    (accuracy,) = objective(SOFTMAX, augment=MIXUP).metrics
    assert type(accuracy) is keras.metrics.CategoricalAccuracy


def test_metrics_have_the_same_names_in_every_training():
    for _ in range(2):
        found = objective(
            SIGMOID, task="binary", metrics=["AUC", "Precision", {"type": "AUC", "curve": "PR", "name": "pr"}]
        )
        assert [metric.name for metric in found.metrics] == ["auc", "precision", "pr"]


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(SpecError, match=r"metrics\[1\]: a second metric called 'auc'; give it another name"):
        objective(SIGMOID, task="binary", metrics=["AUC", {"type": "AUC", "curve": "PR"}])


def test_metrics_of_kerasimg_accept_labels_in_any_form_except_several_per_image():
    own = [{"type": "BalancedAccuracy", "num_classes": 3}, "ExpectedCalibrationError"]
    for augment in ([], MIXUP):
        found = objective(SOFTMAX, metrics=own, augment=augment).metrics
        assert [metric.name for metric in found] == ["balanced_accuracy", "expected_calibration_error"]
    with pytest.raises(SpecError, match=r"metrics\[0\]: BalancedAccuracy takes one class per image, not several"):
        objective(SIGMOID, metrics=own[:1], task="multilabel")


def test_an_optimizer_is_new_and_has_the_rate_of_its_stage():
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "model": [{"layer": "Flatten"}],
            "compile": {"optimizer": {"type": "SGD", "learning_rate": 0.5, "momentum": 0.9}},
        }
    )
    first, second = make_optimizer(spec, None), make_optimizer(spec, 0.25)
    assert first is not second
    assert [float(item.learning_rate) for item in (first, second)] == [0.5, 0.25]
    assert [item.momentum for item in (first, second)] == [0.9, 0.9]


def test_a_stage_may_have_a_schedule():
    spec = kerasimg.load({"kerasimg": 1, "model": [{"layer": "Flatten"}], "compile": {"optimizer": "SGD"}})
    optimizer = make_optimizer(spec, {"type": "CosineDecay", "initial_learning_rate": 0.5, "decay_steps": 10})
    assert isinstance(optimizer._learning_rate, keras.optimizers.schedules.CosineDecay)


def test_label_weights_give_the_weighted_cross_entropy():
    loss = WeightedLabels(np.array([[1.0, 0.5], [2.0, 4.0]]), keras.losses.BinaryCrossentropy(label_smoothing=0.0))
    truth, predicted = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.8, 0.3], [0.1, 0.6]])
    entropies = -np.log(np.where(truth == 1, predicted, 1 - predicted))
    expected = (entropies * [[2.0, 0.5], [1.0, 4.0]]).mean()
    assert float(loss(truth, predicted)) == pytest.approx(expected, rel=1e-5)
    logits = WeightedLabels(loss.weights, keras.losses.BinaryCrossentropy(from_logits=True))
    assert float(logits(truth, np.log(predicted / (1 - predicted)))) == pytest.approx(expected, rel=1e-4)


def test_label_weights_of_one_give_the_cross_entropy_of_keras():
    truth, predicted = np.eye(3), np.random.default_rng(0).uniform(0.1, 0.9, (3, 3))
    for plain in (keras.losses.BinaryCrossentropy(), keras.losses.BinaryCrossentropy(label_smoothing=0.2)):
        assert float(WeightedLabels(np.ones((2, 3)), plain)(truth, predicted)) == pytest.approx(
            float(plain(truth, predicted))
        )


def test_a_loss_that_cannot_weigh_labels_is_refused():
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "name": "tiny",
            "task": "multilabel",
            "image": {"size": [4, 4]},
            "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 3}],
            "compile": {"loss": "mean_squared_error"},
        }
    )
    with pytest.raises(
        SpecError, match=r"fit\.class_weight: weighs each label by itself, which MeanSquaredError cannot"
    ):
        make_objective(spec, kerasimg.build(spec), 3, np.ones((2, 3)))


def test_a_run_has_the_named_class_as_its_positive_one(train: Any, tmp_path: Any):
    labels = np.array(["defect", "ok"] * 12)
    images = (np.ones((24, 4, 4, 3)) * 200 * (labels == "ok")[:, None, None, None]).astype("uint8")
    head = {"layer": "Dense", "units": 1, "activation": "sigmoid"}
    spec = {"kerasimg": 1, "image": {"size": [4, 4]}, "task": "binary", "positive_class": "defect"}
    run = train({**spec, "model": [{"layer": "Flatten"}, head]}, data=(images, labels), out=tmp_path)
    assert list(run.classes) == ["ok", "defect"]
    assert run.scores["positive"] == "defect"
