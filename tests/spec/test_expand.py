"""What the grammar of nodes means: which calls a list of nodes becomes."""

import pytest

from kerasimg.errors import SpecError
from kerasimg.spec.expand import Expansion, snake_case
from kerasimg.spec.nodes import parse_blocks, parse_nodes


class Recorder:
    """A visitor whose outputs are the calls' names; every output is 8x8 with as many channels as calls so far."""

    def __init__(self):
        self.calls = []

    def visit(self, call):
        self.calls.append(call)
        return call.name

    def shape(self, handle):
        return (8, 8, 3 if handle == "image" else len(self.calls))


def fail(path, message):
    raise AssertionError(f"{path}: {message}")


def expand(*nodes, report=fail, params=None, **blocks):
    recorder = Recorder()
    names = params or {}
    expansion = Expansion(parse_blocks(blocks, ("blocks",), report, names), recorder, report)
    expansion.run(parse_nodes(list(nodes), ("model",), report, names), names, "image", whole=False)
    return recorder.calls


def inputs(calls):
    return [(call.name, call.inputs) for call in calls]


def faults(*nodes, **how):
    found = []
    expand(*nodes, report=lambda path, message: found.append((path, message)), **how)
    return found


RELU = {"layer": "ReLU"}


def test_a_block_that_is_called_again_calls_its_layers_again_in_blocks_within_it_too():
    inner = {"nodes": [{**RELU, "name": "a"}]}
    outer = {"args": {"n": 1}, "nodes": [{"block": "inner", "repeat": "=n"}, {"reuse": "flat"}]}
    outer["nodes"].insert(0, {"layer": "Flatten", "name": "flat"})
    calls = expand({"block": "outer", "name": "x", "n": 2}, {"reuse": "x"}, inner=inner, outer=outer)
    layers = ["x_flat", "x_inner_a", "x_inner_1_a", "x_flat"]
    assert [call.name for call in calls[:3]] == layers[:3]
    assert [(call.kind, call.target) for call in calls[4:]] == [("reuse", layer) for layer in layers]


def test_a_block_that_is_called_again_with_another_shape_must_do_the_same():
    wide = {**RELU, "name": "wide", "when": "=in_channels > 2"}
    found = faults({"block": "x", "name": "x"}, RELU, {"reuse": "x"}, x={"nodes": [wide, {"layer": "Flatten"}]})
    assert [path for path, _ in found] == []
    found = faults(RELU, {"block": "x", "name": "x"}, RELU, RELU, {"reuse": "x"}, x={"nodes": [wide, RELU]})
    assert "is not what the block did when it was called first" in found[0][1]


def test_an_expression_may_use_the_shape_of_the_node_before():
    calls = expand(RELU, {"layer": "Dense", "units": "=prev_channels + prev_height"}, {"block": "x"}, x={
        "nodes": [RELU, {"layer": "Dense", "units": "=10 * in_channels + prev_channels"}]})  # fmt: skip
    assert [call.arguments.get("units") for call in calls] == [None, 9, None, 23]


def test_a_default_of_an_argument_may_use_the_arguments_before_it():
    block = {"args": {"c": None, "mid": "=4 * c", "c_out": "=mid // 2"}, "nodes": [{**RELU, "max_value": "=c_out"}]}
    for given, expected in (({}, 4), ({"mid": 6}, 3)):
        (call,) = expand({"block": "x", "c": 2, **given}, x=block)
        assert call.arguments["max_value"] == expected


def test_a_table_and_the_name_of_a_block_may_be_expressions_of_params():
    params = {"rows": [["c"], [4], [8]], "kind": "a"}
    body = {"args": {"c": None}, "nodes": [{"layer": "Dense", "units": "=c"}]}
    calls = expand({"block": "=kind + 'b'", "table": "=rows"}, params=params, ab=body)
    assert [call.arguments["units"] for call in calls] == [4, 8]
    assert "unknown name 'row'" in faults({"layer": "Dense", "table": "=row"}, params=params)[0][1]
    assert faults({"layer": "Dense", "table": "=kind"}, params=params)[0][0] == ("model", 0, "table")
    assert "no block 'a'" in faults({"block": "=kind"}, params=params, ab=body)[0][1]


def test_a_node_takes_what_the_node_before_gives():
    assert inputs(expand(RELU, RELU, RELU)) == [("re_lu", "image"), ("re_lu_1", "re_lu"), ("re_lu_2", "re_lu_1")]


def test_inputs_are_names_in_is_what_entered_and_prev_the_node_before():
    calls = expand(
        {**RELU, "name": "a"},
        {**RELU, "name": "b", "inputs": "in"},
        {"layer": "Add", "inputs": ["a", "prev", "in"]},
        {"layer": "MultiHeadAttention", "inputs": {"query": "a", "value": "b", "// why": "a comment"}},
    )
    assert [call.inputs for call in calls] == [
        "image", "image", ["a", "b", "image"], {"query": "a", "value": "b"},
    ]  # fmt: skip


def test_names_inside_a_block_are_private_and_in_is_what_the_block_was_given():
    block = {"nodes": [{**RELU, "name": "x"}, {"layer": "Add", "inputs": ["x", "in"]}]}
    calls = expand(
        {**RELU, "name": "x"}, {"block": "b", "name": "one"}, {"block": "b"}, {**RELU, "inputs": "x"}, b=block
    )
    assert inputs(calls) == [
        ("x", "image"),
        ("one_x", "x"), ("one_add", ["one_x", "x"]),
        ("b_x", "one_add"), ("b_add", ["b_x", "one_add"]),
        ("re_lu", "x"),
    ]  # fmt: skip
    assert [call.owner for call in calls] == ["x", "one", "one", "b", "b", "re_lu"]
    assert faults({"block": "b", "name": "one"}, {**RELU, "inputs": "one_x"}, b=block)[0][0] == ("model", 1, "inputs")


def test_a_block_may_be_given_several_inputs_by_name():
    block = {"nodes": [{"layer": "Subtract", "inputs": ["right", "left"]}]}
    calls = expand(
        {**RELU, "name": "a"}, {**RELU, "name": "b"}, {"block": "s", "inputs": {"left": "a", "right": "b"}}, s=block
    )
    assert calls[-1].inputs == ["b", "a"]


def test_a_name_that_its_author_chose_is_never_taken_by_a_node_that_has_none():
    block = {"nodes": [{**RELU, "name": "x"}]}
    calls = expand({"block": "b", "name": "b"}, RELU, {**RELU, "name": "b_x"}, {**RELU, "name": "re_lu"}, b=block)
    assert [call.name for call in calls] == ["b_x_1", "re_lu_1", "b_x", "re_lu"]


def test_a_repeat_counts_from_0_and_its_node_sees_i_and_n():
    calls = expand({"layer": "Dense", "units": "=10 * n + i", "repeat": 3, "name": "d"})
    assert [(call.name, call.arguments["units"]) for call in calls] == [("d", 30), ("d_1", 31), ("d_2", 32)]
    assert expand({"layer": "Dense", "repeat": 0}) == []


def test_the_i_and_n_of_a_call_are_seen_inside_its_block():
    block = {"nodes": [{"layer": "Dense", "units": "=i"}, {"layer": "Dense", "units": "=i", "repeat": 2}]}
    calls = expand({"block": "b", "repeat": "=1 + 1"}, b=block)
    assert [call.arguments["units"] for call in calls] == [0, 0, 1, 1, 0, 1]


def test_a_table_runs_its_node_once_a_row():
    calls = expand({"layer": "Conv2D", "padding": "same", "table": [["filters", "strides"], [8, 1], ["=4 * n + i", 2]]})
    assert [call.arguments for call in calls] == [
        {"padding": "same", "filters": 8, "strides": 1}, {"padding": "same", "filters": 9, "strides": 2},
    ]  # fmt: skip


def test_a_table_may_repeat_skip_and_name_its_rows():
    calls = expand(
        {"layer": "Dense", "table": [["units", "repeat", "when", "name"], [1, 2, True, "a"], [2, None, False, "b"]]}
    )
    assert [(call.name, call.arguments["units"]) for call in calls] == [("a", 1), ("a_1", 1)]


def test_a_skipped_node_is_absent_and_reported_as_skipped():
    assert inputs(expand(RELU, {**RELU, "when": False}, RELU))[-1] == ("re_lu_1", "re_lu")
    (fault,) = faults({**RELU, "name": "a", "when": "=1 > 2"}, {**RELU, "inputs": "a"})
    assert fault == (("model", 1, "inputs"), "node 'a' was left out by its 'when'")


def test_when_is_looked_at_before_the_arguments_that_it_guards():
    assert expand({"layer": "Dense", "units": "=1 / 0", "when": False}) == []


def test_an_argument_of_a_block_goes_before_a_param_and_let_before_both():
    block = {
        "args": {"c": "=width * 2", "d": None},
        "let": {"e": "=c + d", "c": "=e * 10"},
        "nodes": [{"layer": "L", "v": "=c"}],
    }
    assert [call.arguments["v"] for call in expand({"block": "b", "d": 1}, params={"width": 4, "c": 99}, b=block)] == [
        90
    ]
    assert [call.arguments["v"] for call in expand({"block": "b", "d": 1, "c": 3}, params={"width": 4}, b=block)] == [
        40
    ]


def test_a_body_sees_the_params_and_its_arguments_but_not_those_of_the_block_around_it():
    outer = {"args": {"secret": 1}, "nodes": [{"block": "inner"}]}
    inner = {"nodes": [{"layer": "Dense", "units": "=secret"}]}
    (fault,) = faults({"block": "outer"}, outer=outer, inner=inner)
    assert fault[0] == ("blocks", "inner", "nodes", 0, "units")
    assert fault[1].startswith("=secret: unknown name 'secret'")


def test_in_channels_is_of_what_entered_the_enclosing_block():
    block = {"nodes": [RELU, {"layer": "Dense", "units": "=in_channels"}]}
    calls = expand(RELU, RELU, {"block": "b"}, {"layer": "Dense", "units": "=in_channels + in_height"}, b=block)
    assert [call.arguments.get("units") for call in calls] == [None, None, None, 2, 11]


def test_a_reuse_calls_the_layer_again():
    calls = expand(
        {"layer": "Dense", "name": "d"}, RELU, {"reuse": "d", "name": "again"}, {"reuse": "d", "inputs": "again"}
    )
    assert [(call.kind, call.target, call.inputs) for call in calls[2:]] == [
        ("reuse", "d", "re_lu"),
        ("reuse", "d", "again"),
    ]


def test_a_reuse_inside_a_block_finds_the_layer_of_that_call_of_the_block():
    block = {"nodes": [{"layer": "Dense", "name": "d"}, {"reuse": "d"}]}
    calls = expand({"block": "b"}, {"block": "b"}, b=block)
    assert [call.target for call in calls if call.kind == "reuse"] == ["b_d", "b_1_d"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Conv2D", "conv2d"),
        ("BatchNormalization", "batch_normalization"),
        ("ReLU", "re_lu"),
        ("zoo/my-net.json", "my_net"),
    ],
)
def test_a_layer_without_name_is_called_as_keras_would(name, expected):
    assert snake_case(name) == expected


def test_faults_are_pinned_to_the_cell_of_the_table():
    (fault,) = faults({"layer": "Dense", "table": [["units"], [1], ["=x"]]})
    assert fault[0] == ("model", 0, "table", 2, 0)


def test_a_loaded_spec_can_be_walked_by_any_visitor():
    from kerasimg import catalog

    recorder = Recorder()
    output = catalog.load("simple_cnn").walk(recorder, fail, "image")
    assert output == "classes"
    assert [call.target for call in recorder.calls][:2] == ["Conv2D", "MaxPooling2D"]


def test_a_fault_in_the_middle_does_not_hide_one_further_down():
    from kerasimg import catalog

    nodes = [{"layer": "Dense", "unit": 1}, {"block": "x"}, {"layer": "Dense", "units": 0}]
    with pytest.raises(SpecError) as caught:
        catalog.load({"kerasimg": 1, "model": nodes})
    assert len(caught.value.faults) == 4
