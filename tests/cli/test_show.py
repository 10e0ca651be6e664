"""What `kerasimg spec show` says of a spec's model."""

from pathlib import Path
from typing import Any


def test_the_graph_is_printed_by_node_and_flat_by_layer(say: Any):
    by_node, flat = say("spec", "show", "small_resnet", "--graph"), say("spec", "show", "small_resnet", "--flat")
    assert (by_node.code, flat.code) == (0, 0)
    assert (len(by_node.out.splitlines()), len(flat.out.splitlines())) == (10, 75)


def test_the_graph_is_printed_as_json(say: Any):
    model = say("spec", "show", "simple_cnn", "--graph", "--json", "--set", "num_classes=3").json
    assert model["nodes"][-1]["shape"] == [3]
    assert model["params"] == sum(node["params"] for node in model["nodes"])


def test_it_is_drawn_into_a_file_or_the_output(say: Any, tmp_path: Path):
    assert say("spec", "show", "branched", "--svg", tmp_path / "b.svg").code == 0
    assert say("spec", "show", "branched", "--svg", "-").out == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert say("spec", "show", "branched", "--svg", tmp_path / "none" / "b.svg").code == 1


def test_origins_and_graph_do_not_go_together(say: Any):
    assert say("spec", "show", "branched", "--origins", "--flat").code == 2
