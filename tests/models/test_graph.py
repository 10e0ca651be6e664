from typing import Any

import pytest

import kerasimg
from kerasimg.errors import SpecError


def refused(*nodes: dict[str, Any], **sections: Any) -> str:
    document = {"kerasimg": 1, "name": "tiny", "image": {"size": [8, 8]}, "model": list(nodes), **sections}
    with pytest.raises(SpecError) as caught:
        kerasimg.build(document)
    return str(caught.value)


def test_branches_that_do_not_fit_are_named_with_their_shapes():
    message = refused(
        {"layer": "Conv2D", "name": "fine", "filters": 2, "kernel_size": 3},
        {"layer": "Conv2D", "name": "coarse", "inputs": "in", "filters": 2, "kernel_size": 5},
        {"layer": "Concatenate", "inputs": ["fine", "coarse"]},
    )
    assert message.startswith(
        "tiny: model[2] (Concatenate): its inputs do not fit together: 'fine' 6x6x2, 'coarse' 4x4x2 ("
    )


def test_inputs_by_name_that_do_not_fit_are_named_with_their_shapes():
    message = refused(
        {"layer": "Flatten", "name": "flat"},
        {"layer": "Reshape", "name": "tokens", "inputs": "in", "target_shape": [64, 3]},
        {
            "layer": "MultiHeadAttention",
            "inputs": {"query": "tokens", "key": "tokens", "value": "flat"},
            "num_heads": 1,
            "key_dim": 2,
        },
    )
    assert "model[2] (MultiHeadAttention)" in message
    assert "'tokens' 64x3, 'tokens' 64x3, 'flat' 192" in message


def test_a_layer_that_does_not_take_its_input_says_which_shape_and_why():
    message = refused({"layer": "MaxPooling2D", "pool_size": 9})
    assert message.startswith("tiny: model[0] (MaxPooling2D): does not take 8x8x3: no pixel would be left")
    assert "\x1b" not in message


def test_a_layer_that_refuses_its_arguments_says_why():
    message = refused({"layer": "Conv2D", "filters": 3, "kernel_size": 3, "groups": 2})
    assert message.startswith("tiny: model[0] (Conv2D): ")
    assert "groups" in message


def test_an_error_in_a_block_is_reported_at_its_path():
    message = refused(
        {"block": "shrink", "repeat": 4}, blocks={"shrink": {"nodes": [{"layer": "MaxPooling2D", "name": "pool"}]}}
    )
    assert message.startswith(
        "tiny: blocks.shrink.nodes[0] (MaxPooling2D): model[0] -> shrink[3]: does not take 1x1x3: no pixel would be "
        "left; the images are too small for this model: set image.size higher"
    )


def test_an_argument_that_only_the_shapes_show_to_be_wrong_is_refused():
    message = refused({"layer": "Conv2D", "filters": "=in_channels - 3", "kernel_size": 1})
    assert 'filters: "=in_channels - 3" gave 0; expected an integer > 0' in message


def test_a_node_has_one_output():
    message = refused(
        {"layer": "Reshape", "target_shape": [64, 3]},
        {"layer": "LSTM", "units": 2, "return_state": True},
    )
    assert "LSTM" in message


def test_a_node_that_its_when_leaves_out_is_not_in_the_model():
    document = {
        "kerasimg": 1,
        "params": {"deep": False},
        "image": {"size": [8, 8]},
        "model": [
            {"layer": "Dense", "units": 2, "name": "first"},
            {"layer": "Dense", "units": 3, "name": "second", "when": "=deep"},
        ],
    }
    assert kerasimg.build(document).output_shape == (None, 8, 8, 2)
    assert kerasimg.build(document, deep=True).output_shape == (None, 8, 8, 3)
