from typing import Any

import pytest

import kerasimg
from kerasimg.spec.diff import MISSING, Difference, differences

DENSE = {"layer": "Dense", "name": "hidden", "units": 64}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {"b": 1}, [("a", 1, MISSING), ("b", MISSING, 1)]),
        ({"// why": "x", "a": 1}, {"a": 1}, []),
        ({"size": [1, 2]}, {"size": [1, 3]}, [("size", [1, 2], [1, 3])]),
        ({"a": 1}, {"a": True}, [("a", 1, True)]),
        ({"a": None}, {"a": 0}, [("a", None, 0)]),
        ({"model": [DENSE]}, {"model": [DENSE | {"units": 8}]}, [("model.hidden.units", 64, 8)]),
        (
            {"augment": [{"layer": "RandomFlip", "mode": "horizontal"}]},
            {"augment": [{"layer": "RandomFlip", "mode": "vertical"}]},
            [("augment[0] (RandomFlip).mode", "horizontal", "vertical")],
        ),
        (
            {"stages": [{"epochs": 1}]},
            {"stages": [{"epochs": 1}, {"epochs": 2}]},
            [("stages[1]", MISSING, {"epochs": 2})],
        ),
        ({"table": [["t"], [1]]}, {"table": [["t"], [2]]}, [("table", [["t"], [1]], [["t"], [2]])]),
    ],
)
def test_each_difference_is_listed_once_with_its_path(before: Any, after: Any, found: list[Any]):
    assert list(differences(before, after)) == [Difference(*one) for one in found]


def test_a_node_put_in_does_not_shift_the_others():
    nodes = [{"layer": "Conv2D", "filters": 8}, {"layer": "Flatten"}, DENSE]
    put_in = {"layer": "Dropout", "rate": 0.5}
    (one,) = differences({"model": nodes}, {"model": [*nodes[:2], put_in, nodes[2]]})
    assert one == Difference("model[2] (Dropout)", MISSING, put_in)
    (back,) = differences({"model": [*nodes[:2], put_in, nodes[2]]}, {"model": nodes})
    assert back == Difference("model[2] (Dropout)", put_in, MISSING)


def test_another_layer_in_the_same_place_is_one_gone_and_one_come():
    found = list(differences({"model": [{"layer": "Flatten"}]}, {"model": [{"layer": "GlobalMaxPooling2D"}]}))
    assert [str(one)[0] for one in found] == ["-", "+"]


def test_a_spec_differs_from_itself_with_another_param_in_that_param_alone():
    one, other = (dict(kerasimg.load("simple_cnn", num_classes=k).resolved) for k in (3, 4))
    assert [one.path for one in differences(one, other)] == ["params.num_classes"]


def test_long_values_are_cut():
    assert len(str(Difference("a", MISSING, "x" * 500))) < 120
