from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.models.output_kind import as_probabilities, output_kind


def built(*nodes: dict[str, Any], task: str = "multiclass") -> Any:
    nodes = ({"layer": "Flatten"}, *nodes)
    return kerasimg.build({"kerasimg": 1, "image": {"size": [4, 4]}, "task": task, "model": list(nodes)})


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ([{"layer": "Dense", "units": 2, "activation": "softmax"}], "softmax"),
        ([{"layer": "Dense", "units": 2}, {"layer": "Softmax"}], "softmax"),
        ([{"layer": "Dense", "units": 2}, {"layer": "Activation", "activation": "softmax"}], "softmax"),
        ([{"layer": "Dense", "units": 2, "activation": "sigmoid"}], "sigmoid"),
        ([{"layer": "Dense", "units": 2}], "logits"),
        ([{"layer": "Dense", "units": 2, "activation": "log_softmax"}], "logits"),
        (
            [{"layer": "Dense", "units": 2, "activation": "softmax"}, {"layer": "Reshape", "target_shape": [2]}],
            "softmax",
        ),
        ([{"layer": "Dense", "units": 2, "activation": "softmax"}, {"layer": "Dense", "units": 2}], "logits"),
    ],
)
def test_the_last_layer_says_what_the_outputs_are(nodes: list[dict[str, Any]], kind: str):
    assert output_kind(built(*nodes, task="multilabel" if kind == "sigmoid" else "multiclass")) == kind


def test_dropout_does_not_change_the_outputs_of_a_model_from_elsewhere():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Softmax(), keras.layers.Dropout(0.5)])
    assert output_kind(model) == "softmax"


def test_a_layer_that_is_called_again_at_the_end_is_the_last():
    square = {"layer": "Dense", "name": "square", "units": 48, "activation": "softmax"}
    assert output_kind(built(square, {"layer": "ReLU"}, {"reuse": "square"})) == "softmax"


def test_logits_of_classes_that_exclude_each_other_sum_to_one():
    found = as_probabilities(np.array([[0.0, np.log(3.0)], [1000.0, 0.0]]), "logits", "multiclass")
    assert found == pytest.approx(np.array([[0.25, 0.75], [1, 0]]))


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_logits_of_classes_by_themselves_are_each_a_probability(task: str):
    found = as_probabilities(np.array([[0.0, np.log(3.0)]]), "logits", task)
    assert found == pytest.approx(np.array([[0.5, 0.75]]))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_stay_as_they_are(kind: Any):
    given = np.array([[0.25, 0.75]])
    assert as_probabilities(given, kind, "multiclass") == pytest.approx(given)


def test_logits_far_below_zero_are_probabilities_of_zero_without_a_warning():
    assert as_probabilities(np.array([[-1000.0]]), "logits", "binary") == pytest.approx(0)
