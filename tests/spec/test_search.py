import pytest

from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.search import find, replace

DOCUMENT = {
    "params": {"units": {"$choice": [64, 128], "default": 128, "// why": "a comment"}, "fixed": 3},
    "model": [
        {"layer": "Conv2D", "name": "stem", "filters": {"$int": [8, 64], "step": 8, "default": 16}},
        {"$choice": {
            "pool": {"layer": "MaxPooling2D", "pool_size": {"$choice": [2, 3], "default": 2}},
            "none": {"layer": "Identity"},
            "// other": "a comment",
        }, "default": "none"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": {"$float": [1e-4, 0.1], "log": True, "default": 1e-3}}},
    "// note": {"$choice": [1]},
}  # fmt: skip


def replaced(document=DOCUMENT, **chosen):
    faults = []
    return replace(document, chosen, lambda path, message: faults.append((path, message))), faults


def test_search_values_are_named_by_param_node_and_label():
    assert [value.name for value in find(DOCUMENT)] == [
        "units", "model.stem.filters", "model.1", "model.1.pool.pool_size", "compile.optimizer.learning_rate",
    ]  # fmt: skip


def test_a_value_inside_an_option_counts_only_while_the_option_is_chosen():
    within = {value.name: value.within for value in find(DOCUMENT)}
    assert within["model.1.pool.pool_size"] == (("model.1", "pool"),)
    assert within["model.1"] == ()


def test_the_options_of_a_choice_are_its_values_or_its_labels_without_comments():
    assert [value.options for value in find(DOCUMENT) if value.kind == "$choice"] == [
        [64, 128],
        ["pool", "none"],
        [2, 3],
    ]


def test_without_a_search_each_value_is_its_default():
    (made, moved, faulty), faults = replaced()
    assert made["params"] == {"units": 128, "fixed": 3}
    assert made["model"] == [{"layer": "Conv2D", "name": "stem", "filters": 16}, {"layer": "Identity"}]
    assert made["compile"]["optimizer"]["learning_rate"] == 1e-3
    assert moved == {("model", 1): ("model", 1, "$choice", "none")}
    assert (faulty, faults) == (set(), [])


def test_chosen_values_replace_search_values_and_open_their_option():
    made = replaced(**{"units": 64, "model.1": "pool", "model.1.pool.pool_size": 3})[0].document
    assert made["params"]["units"] == 64
    assert made["model"][1] == {"layer": "MaxPooling2D", "pool_size": 3}


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"units": 65}, (("params", "units"), "expected one of 64, 128, got 65")),
        ({"units": True}, (("params", "units"), "expected one of 64, 128, got true")),
        ({"model.stem.filters": 7.5}, (("model", 0, "filters"), "expected an integer from 8 to 64, got 7.5")),
        ({"model.1": "poll"}, (("model", 1), 'expected one of "pool", "none", got "poll"')),
        ({"model.1": "// other"}, (("model", 1), 'expected one of "pool", "none", got "// other"')),
        ({"uints": 64}, ((), "no search value 'uints'; did you mean 'units'? (there are: units, model.stem.filters, "
                             "model.1, model.1.pool.pool_size, compile.optimizer.learning_rate)")),
    ],
)  # fmt: skip
def test_a_choice_that_is_none_is_a_fault(chosen, fault):
    assert replaced(**chosen)[1] == [fault]


def test_an_invalid_search_value_is_unknown_and_reported_once():
    (made, _, faulty), faults = replaced({"a": {"$choice": [1, 2]}, "b": {"$int": [3, 1], "default": 2}})
    assert made == {"a": UNKNOWN, "b": UNKNOWN}
    assert faulty == {("a",), ("b",)}
    assert len(faults) == 2


@pytest.mark.parametrize("options", [[1, True], [0, False, None], ["1", 1], [1, 2.5]])
def test_options_that_are_equal_in_python_are_distinct(options):
    assert replaced({"a": {"$choice": options, "default": options[1]}})[1] == []


@pytest.mark.parametrize("options", [[1, 1], [1, 1.0], ["a", "b", "a"], [None, None]])
def test_an_option_is_listed_once(options):
    assert "is listed twice" in replaced({"a": {"$choice": options, "default": options[0]}})[1][0][1]
