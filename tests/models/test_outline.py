from typing import Any
from xml.etree import ElementTree

import pytest

import kerasimg
from kerasimg.models import drawing
from kerasimg.models.outline import outline

SVG = "{http://www.w3.org/2000/svg}"
NODES = [
    {"layer": "Conv2D", "name": "one", "filters": 4, "kernel_size": 3, "padding": "same"},
    {"block": "twice", "name": "pair"},
    {"layer": "Add", "name": "sum", "inputs": ["one", "prev"]},
    {"reuse": "one_more", "inputs": "sum"},
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dense", "units": 2, "trainable": False},
]


def spec(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    conv = {"layer": "Conv2D", "filters": 4, "kernel_size": 1}
    return {"kerasimg": 1, "image": {"size": [8, 6]}, "blocks": {"twice": {"nodes": [conv, conv]}}, "model": nodes}


@pytest.mark.parametrize("name", ["branched", "mobilenet_v2", "small_resnet", "efficientnet_lite0", "small_vit"])
def test_the_outline_counts_and_shapes_what_build_makes(name: str):
    loaded = kerasimg.load(name)
    seen, model = outline(loaded), kerasimg.build(loaded, weights=None)
    assert (seen.params, seen.calls[-1].shape) == (model.count_params(), model.output_shape[1:])
    assert sum(part.params for part in seen.nodes) == seen.params
    assert sum(part.calls for part in seen.nodes) == len(seen.calls)
    before = {"image"}
    for part in seen.calls:
        assert before.issuperset(part.inputs)
        before.add(part.name)


def test_a_block_is_one_node_and_as_many_calls_as_it_has_layers():
    nodes = [node for node in NODES if "reuse" not in node]
    seen = outline(kerasimg.load(spec(nodes)))
    pair = next(part for part in seen.nodes if part.name == "pair")
    assert (pair.kind, pair.inputs, pair.calls, pair.params, pair.shape) == ("twice", ("one",), 2, 40, (8, 6, 4))
    assert [part.name for part in seen.calls if part.name.startswith("pair")] == ["pair_conv2d", "pair_conv2d_1"]
    assert [part.frozen for part in seen.nodes] == [False, False, False, False, True]


def test_a_layer_called_again_is_listed_and_counted_once():
    twice = [NODES[0] | {"filters": 3}, {"reuse": "one"}, {"layer": "Flatten"}]
    one, again, _ = outline(kerasimg.load(spec(twice))).calls
    assert (one.params, again.params, again.kind, again.inputs) == (84, 0, "one again", ("one",))


def test_nothing_is_allocated_however_large():
    huge = spec([{"layer": "Flatten"}, {"layer": "Dense", "units": 10**9}])
    limits = {"params": 10**13, "tensor": 10**10}
    assert outline(kerasimg.load(huge), limits=limits).params == 145 * 10**9
    with pytest.raises(kerasimg.SpecError, match="the limit is"):
        outline(kerasimg.load(huge))


def test_the_text_names_each_part_with_its_inputs():
    loaded = kerasimg.load("branched", num_classes=3)
    lines = drawing.as_text(loaded.name, seen := outline(loaded), seen.nodes).splitlines()
    assert lines[0] == f"branched: {seen.params:,} parameters"
    assert lines[7].split() == ["concatenate", "Concatenate", "fine_pooled,", "coarse_pooled", "32x32x96"]


@pytest.mark.parametrize("name", ["branched", "small_resnet", "densenet"])
def test_the_image_has_a_box_for_each_part_and_an_edge_for_each_input_and_no_two_boxes_meet(name: str):
    seen = outline(kerasimg.load(name))
    drawn = ElementTree.fromstring(drawing.as_svg(name, seen, seen.calls))
    boxes = [(float(box.get("x", 0)), float(box.get("y", 0))) for box in drawn.iter(f"{SVG}rect")]
    assert len(boxes) == len(seen.calls) + 1
    edges = [path for path in drawn.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(edges) == sum(len(set(part.inputs)) for part in seen.calls)
    for x, y in boxes:
        assert 0 <= x <= float(drawn.get("width", 0)) - drawing.WIDTH
        beside = [other for other, row in boxes if row == y and other != x]
        assert all(abs(other - x) >= drawing.WIDTH for other in beside)


def test_names_are_escaped():
    seen = outline(kerasimg.load("simple_cnn"))
    assert "&lt;b&gt;" in drawing.as_svg("<b>", seen, seen.nodes)
