"""Errors inside blocks, tables and repeats say where they come from."""

from typing import Any

import pytest

from kerasimg.catalog import load
from kerasimg.errors import SpecError

HEAD = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"}]
BLOCKS = {
    "stage": {"args": {"c": None, "n": 1}, "nodes": [{"block": "bottleneck", "repeat": "=n", "c": "=c"}]},
    "bottleneck": {"args": {"c": None}, "nodes": [{"layer": "Conv2D", "filters": "=c // 8", "kernel_size": 1}]},
}


def faults(**document: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load({"kerasimg": 1, **document})
    return [str(fault) for fault in caught.value.faults]


def test_a_fault_in_a_block_names_row_call_path_and_repeat_once():
    model = [{"layer": "ReLU"}, {"block": "stage", "table": [["c", "n"], [16, 1], [4, 2], [2, 3]]}, *HEAD]
    assert faults(blocks=BLOCKS, model=model) == [
        "spec: blocks.bottleneck.nodes[0] (Conv2D).filters: "
        'model[1] row 2 -> stage -> bottleneck[0]: "=c // 8" gave 0; expected an integer > 0'
    ]


def test_an_expression_without_a_value_in_a_block_says_where_from():
    blocks = {"a": {"args": {"k": 1}, "nodes": [{"layer": "Dense", "units": "=4 // (2 - i)"}]}}
    assert faults(blocks=blocks, model=[{"block": "a", "repeat": 3}, *HEAD]) == [
        "spec: blocks.a.nodes[0] (Dense).units: model[0] -> a[2]: =4 // (2 - i): division by zero"
    ]


def test_a_row_of_a_table_of_layers_and_a_repeat_are_named():
    table = {"layer": "Dense", "units": "=4 - 2 * i", "table": [["use_bias"], [True], [True], [True]]}
    assert faults(model=[table, *HEAD]) == [
        'spec: model[0] (Dense).units: model[0] row 3: "=4 - 2 * i" gave 0; expected an integer > 0'
    ]
    assert faults(model=[{"layer": "Dense", "units": "=1 - i", "repeat": 2}, *HEAD]) == [
        'spec: model[0] (Dense).units: model[0] i = 1: "=1 - i" gave 0; expected an integer > 0'
    ]


def test_a_type_error_in_a_section_shows_the_expression():
    found = faults(params={"b": 3}, model=HEAD, fit={"batch_size": "=b / 2"})
    assert found == ["spec: fit.batch_size: \"=b / 2\" gave 1.5; expected an integer or 'auto'"]


@pytest.mark.parametrize("kind", ["layer", "block"])
def test_a_typo_in_the_header_of_a_table_is_reported_at_the_header_once(kind: str):
    blocks = {"Conv2D": {"args": {"filters": None, "kernel_size": 1}, "nodes": [
        {"layer": "Conv2D", "filters": "=filters", "kernel_size": "=kernel_size"}]}}  # fmt: skip
    node = {kind: "Conv2D", "kernel_size": 1, "table": [["filtres"], [4], [8], [16]]}
    found = faults(blocks=blocks, model=[node, *HEAD])
    assert [fault.split(": ")[1] for fault in found] == ["model[0] (Conv2D).table[0][0]", "model[0] (Conv2D).table[0]"]
    assert "did you mean 'filters'" in found[0]
    assert "missing" in found[1]


def test_a_layer_that_cannot_be_reused_says_why():
    block = {"nodes": [{"layer": "Add", "inputs": ["a", "b"]}, {"reuse": "a"}]}
    dense = {"layer": "Dense", "units": 4, "name": "d"}
    again = {"blocks": {"x": block}, "model": [dense, {"block": "x", "inputs": {"a": "d", "b": "in"}}, *HEAD]}
    assert "'a' is an input of the block, and only a node can be called again" in faults(**again)[0]
    inside = {"blocks": {"y": {"nodes": [{"reuse": "d"}]}}, "model": [dense, {"block": "y"}, *HEAD]}
    assert "'d' is a node outside of the block 'y', and names inside a block are private to it" in faults(**inside)[0]
    assert "no earlier node 'zz' here" in faults(model=[dense, {"reuse": "zz"}, *HEAD])[0]
