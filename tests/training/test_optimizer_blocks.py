from typing import Any

import pytest

import kerasimg
from kerasimg.models.build import Built, construct
from kerasimg.training.optimizer import blocks, factors

HEAD = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "name": "head", "units": 2}]


def built(*nodes: dict[str, Any], size: int = 32, **sections: Any) -> Built:
    document = {"kerasimg": 1, "name": "tiny", "image": {"size": [size, size]}, "model": [*nodes, *HEAD], **sections}
    return construct(kerasimg.load(document), weights=None)


def names(made: Built) -> list[list[str]]:
    return [[layer.name for layer in layers] for layers in blocks(made)]


def test_a_node_is_a_block_and_a_normalization_belongs_to_the_layer_before_it():
    body = {"nodes": [{"layer": "Conv2D", "filters": 2, "kernel_size": 1}, {"layer": "ReLU"}]}
    nodes = [
        {"layer": "Conv2D", "name": "stem", "filters": 2, "kernel_size": 1},
        {"layer": "BatchNormalization"},
        {"layer": "ReLU"},
        {"block": "body", "name": "body", "repeat": 2},
    ]
    made = built(*nodes, blocks={"body": body})
    assert names(made) == [["stem", "batch_normalization"], ["body_conv2d"], ["body_1_conv2d"], ["head"]]


@pytest.mark.parametrize(
    ("backbone", "count", "last"),
    [
        ("MobileNetV2", 20, ["Conv_1", "Conv_1_bn"]),
        ("ResNet50", 18, ["conv5_block3_1_conv", "conv5_block3_1_bn", "conv5_block3_2_conv"]),
        ("EfficientNetB0", 19, ["top_conv", "top_bn"]),
        ("MobileNet", 15, ["conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn"]),
    ],
)
def test_a_backbone_of_keras_has_the_blocks_of_its_layer_names(backbone: str, count: int, last: list[str]):
    block_names = names(built({"backbone": backbone, "name": "base", "weights": None}))
    assert block_names[-1] == ["head"]
    assert block_names[-2][: len(last)] == last
    assert len(block_names) == count


def test_a_backbone_that_is_a_spec_has_the_blocks_of_its_nodes():
    made = built({"backbone": "wide_resnet.json", "name": "base", "weights": None})
    block_names = names(made)
    assert block_names[-1] == ["head"]
    assert [layers[0] for layers in block_names[:-1]] == [
        "base_conv_conv2d",
        "base_group_wide_active_batch_normalization",
        "base_group_1_wide_active_batch_normalization",
        "base_group_2_wide_active_batch_normalization",
    ]


def test_the_rate_of_each_block_is_that_of_the_next_times_the_decay():
    made = built({"backbone": "MobileNet", "name": "base", "alpha": 0.25, "weights": None})
    shares = factors(made, 0.5)
    base = made.model.get_layer("base")
    assert shares[id(made.model.get_layer("head").kernel)] == 1.0
    assert shares[id(base.get_layer("conv_pw_13").kernel)] == 0.5
    assert shares[id(base.get_layer("conv_dw_13").kernel)] == 0.5
    assert shares[id(base.get_layer("conv_pw_12_bn").gamma)] == 0.25
    assert {id(weight) for weight in made.model.weights} == set(shares)


def test_without_decay_no_weight_has_its_own_rate():
    assert factors(built({"layer": "Conv2D", "filters": 2, "kernel_size": 1}), 1.0) == {}
