"""Nodes and names that nothing uses."""

from typing import Any

import pytest

from kerasimg.catalog import load, zoo_names
from kerasimg.errors import SpecError

HEAD = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"}]
CONV = {"layer": "Conv2D", "filters": 4, "kernel_size": 3}


def faults(*model: dict[str, Any], **rest: Any) -> list[str]:
    try:
        load({"kerasimg": 1, "model": list(model), **rest})
    except SpecError as error:
        return [fault.path for fault in error.faults if "its output is used by no later node" in fault.message]
    return []


def test_a_stray_input_that_cuts_off_what_is_before_it_is_an_error():
    assert faults(CONV, CONV, {**CONV, "inputs": "in"}, *HEAD) == ["model[1] (Conv2D)"]


def test_a_second_output_is_an_error():
    assert faults({**CONV, "name": "a"}, *HEAD, {**CONV, "inputs": "a"}, *HEAD) == ["model[2] (Dense)"]


def test_a_whole_block_is_reported_at_its_node_and_a_node_of_a_block_at_its_path():
    blocks = {"two": {"nodes": [CONV, {"layer": "ReLU"}]}, "cut": {"nodes": [CONV, {**CONV, "inputs": "in"}]}}
    assert faults({"block": "two"}, {"block": "two", "inputs": "in"}, *HEAD, blocks=blocks) == ["model[0] (two)"]
    assert faults({"block": "cut"}, *HEAD, blocks=blocks) == ["blocks.cut.nodes[0] (Conv2D)"]


def test_a_repeat_that_starts_again_from_the_same_input_is_an_error():
    assert faults({**CONV, "name": "a"}, {**CONV, "inputs": "a", "repeat": 2}, *HEAD) == ["model[1] (Conv2D)"]


def test_what_only_a_node_that_is_left_out_takes_is_no_error():
    nodes = [{**CONV, "name": "a"}, {**CONV, "name": "b", "inputs": "in"}]
    add = {"layer": "Add", "inputs": ["a", "b"]}
    assert faults(*nodes, {**add, "when": "=use"}, *HEAD, params={"use": False}) == []
    assert faults(*nodes, *HEAD) == ["model[0] (Conv2D)"]


def test_a_layer_that_is_called_again_is_used():
    nodes = [{**CONV, "name": "a"}, {"reuse": "a", "inputs": "in"}]
    assert faults(*nodes, *HEAD) == []


def test_branches_of_which_the_shape_chooses_one_are_used():
    blocks = {
        "shortcut": {
            "nodes": [
                {**CONV, "name": "x", "when": "=in_channels == 4"},
                {**CONV, "name": "x", "inputs": "in", "when": "=in_channels != 4"},
            ]
        }
    }
    assert faults(CONV, {"block": "shortcut"}, *HEAD, blocks=blocks) == []


@pytest.mark.parametrize("name", zoo_names())
def test_no_zoo_spec_has_a_name_that_nothing_uses(name: str):
    assert [warning for warning in load(name, partial=True).warnings if "nothing" in warning.message] == []


def warnings(**document: Any) -> list[tuple[str, str]]:
    spec = load({"kerasimg": 1, "model": HEAD, **document}, partial=True)
    return [(warning.path, warning.message) for warning in spec.warnings]


def test_unused_blocks_params_arguments_and_let_names_are_warnings():
    blocks = {
        "used": {"args": {"c": 1, "d": 2}, "let": {"e": "=d"}, "nodes": [{"layer": "ReLU"}]},
        "alone": {"nodes": [{"block": "inner"}]},
        "inner": {"nodes": [{"layer": "ReLU"}]},
    }
    found = warnings(blocks=blocks, params={"a": 1, "b": "=a", "num_classes": 3}, model=[{"block": "used"}, *HEAD])
    assert [path for path, _ in found] == [
        "blocks.alone", "blocks.inner", "blocks.used.args.c", "blocks.used.let.e", "params.b",
    ]  # fmt: skip


def test_names_that_a_table_a_search_value_or_another_section_uses_are_used():
    blocks = {name: {"nodes": [{"layer": "ReLU"}]} for name in ("a", "b", "c", "d")}
    model = [
        {"table": [["block"], ["a"], ["b"]]},
        {"block": {"$choice": ["c", "d"], "default": "c"}},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": 2, "activation": "softmax"},
    ]
    params = {"epochs": 2, "wide": 3}
    fit = {"stages": [{"epochs": "=epochs"}], "batch_size": {"$choice": [1, "=wide"], "default": 1}}
    assert warnings(blocks=blocks, model=model, params=params, fit=fit) == []


def test_what_a_parent_defines_is_no_warning_of_the_child():
    assert warnings(extends="small_resnet") == []


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ({"layer": "CutMix", "factor": 1.0}, "augment[0] (CutMix).factor"),
        ({"layer": "RandomContrast", "factor": 0.2}, "augment[0] (RandomContrast).factor"),
        ({"layer": "RandomSaturation", "factor": 0.2}, "augment[0] (RandomSaturation).factor"),
        ({"layer": "RandomColorJitter", "contrast_factor": 0.2}, "augment[0] (RandomColorJitter).contrast_factor"),
    ],
)
def test_a_factor_that_means_something_else_in_keras_is_a_warning(node: dict[str, Any], path: str):
    assert [where for where, _ in warnings(augment=[node])] == [path]
    pair = {key: value if key == "layer" else [value, value] for key, value in node.items()}
    assert warnings(augment=[pair]) == []
