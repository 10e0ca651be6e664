import json
import random
from typing import Any

from kerasimg import load
from kerasimg.models.to_spec import has_calls
from kerasimg.models.to_spec.block_arguments import simplify_arguments
from kerasimg.models.to_spec.block_detection import detect_blocks
from kerasimg.models.to_spec.document import document
from kerasimg.models.to_spec.draft import IMAGE, FlatCall, draft_of, inline

DEFAULTS = {("Conv2D", "strides"): 1, ("Conv2D", "use_bias"): True, ("Conv2D", "padding"): "valid"}


class Chain:
    """Calls in the making."""

    def __init__(self) -> None:
        self.calls: list[FlatCall] = []

    def add(self, target: str, *inputs: int, channels: int | None = None, **arguments: Any) -> int:
        sources = inputs or (len(self.calls) - 1,)
        form = "list" if len(sources) > 1 else "one"
        before = 3 if sources[0] == IMAGE else self.calls[sources[0]].channels
        self.calls.append(
            FlatCall("layer", target, arguments, form, (), tuple(sources), arguments.get("filters", channels or before))
        )
        return len(self.calls) - 1

    def conv(self, filters: int, *inputs: int, **arguments: Any) -> int:
        return self.add("Conv2D", *inputs, filters=filters, kernel_size=3, **arguments)

    def unit(self, filters: int, **arguments: Any) -> int:
        """A residual unit of two convolutions, the first of which may differ."""
        entered = len(self.calls) - 1
        self.conv(filters, padding="same", **arguments)
        self.add("BatchNormalization")
        self.add("ReLU")
        self.conv(4 * filters, padding="same")
        last = self.add("BatchNormalization")
        return self.add("Add", entered, last)


def sections_of(chain: Chain) -> dict[str, Any]:
    """The sections that the calls become; they must make the same calls."""
    made = detect_blocks(draft_of(chain.calls, DEFAULTS), DEFAULTS)
    sections = document(simplify_arguments(made, chain.calls, 3), DEFAULTS)
    assert has_calls(load({"kerasimg": 1, "name": "made", **sections}), chain.calls, DEFAULTS)
    return sections


def test_nothing_that_repeats_stays_a_list():
    chain = Chain()
    chain.conv(8)
    chain.add("ReLU")
    chain.add("Flatten")
    assert sections_of(chain) == {
        "model": [
            {"layer": "Conv2D", "filters": 8, "kernel_size": 3},
            {"layer": "ReLU"},
            {"layer": "Flatten"},
        ]
    }


def test_the_same_call_over_and_over_is_one_that_is_repeated():
    chain = Chain()
    for _ in range(4):
        chain.conv(8)
    assert sections_of(chain) == {"model": [{"layer": "Conv2D", "repeat": 4, "filters": 8, "kernel_size": 3}]}


def test_units_that_follow_each_other_are_one_block_repeated_and_what_follows_from_the_input_is_no_argument():
    chain = Chain()
    for filters in (16, 32, 64):
        chain.conv(4 * filters, strides=2)
        for _ in range(3):
            chain.unit(filters)
    sections = sections_of(chain)
    block = sections["blocks"]["residual"]
    assert "args" not in block
    assert block["nodes"][0]["filters"] == "=in_channels // 4"
    assert block["nodes"][-1] == {"layer": "Add", "inputs": ["in", "prev"]}
    assert {"block": "residual", "repeat": 3} in sections["blocks"]["conv_residual"]["nodes"]
    assert [node["filters"] for node in sections["model"]] == [16, 32, 64]


def test_what_differs_from_call_to_call_becomes_an_argument_and_the_usual_value_its_default():
    chain = Chain()
    chain.conv(8)
    for kernel_size in (3, 5, 3, 3):
        entered = len(chain.calls) - 1
        chain.add("Conv2D", filters=8, kernel_size=kernel_size, padding="same")
        chain.add("BatchNormalization")
        last = chain.add("ReLU")
        chain.add("Concatenate", entered, last, channels=8)
        chain.add("MaxPooling2D")
    sections = sections_of(chain)
    (block,) = sections["blocks"].values()
    assert block["args"] == {"kernel_size": 3}
    assert sum(node.get("repeat", 1) for node in sections["model"] if "block" in node and "table" not in node) <= 4


def test_calls_of_a_block_in_a_row_become_a_table():
    chain = Chain()
    for filters, strides in ((16, 1), (24, 2), (32, 2), (64, 2), (128, 1)):
        chain.conv(filters, strides=strides, padding="same", use_bias=False)
        chain.add("BatchNormalization")
        chain.add("ReLU", max_value=6)
    chain.add("Flatten")
    assert sections_of(chain)["model"] == [
        {
            "block": "conv_bn_relu",
            "table": [["filters", "strides"], [16, 1], [24, 2], [32, 2], [64, 2], [128, 1]],
        },
        {"layer": "Flatten"},
    ]


def test_what_is_repeated_takes_the_node_before_it_each_time():
    chain = Chain()
    fork = chain.conv(8)
    chain.add("ReLU")
    chain.add("MaxPooling2D")
    chain.add("Dropout", fork, rate=0.5)
    side = chain.add("Dropout", rate=0.5)
    chain.add("Add", 2, side)
    nodes = sections_of(chain)["model"]
    assert [node.get("repeat", 1) for node in nodes] == [1] * 6


def test_a_block_can_be_opened_again():
    chain = Chain()
    chain.conv(64)
    for _ in range(2):
        for _ in range(2):
            chain.unit(16)
        chain.add("MaxPooling2D")
    made = detect_blocks(draft_of(chain.calls, DEFAULTS), DEFAULTS)
    while made.blocks:
        opened = [inline(made, number) for number in reversed(list(made.blocks))]
        candidates = [one for one in opened if one is not None]
        if not candidates:
            break
        made = candidates[0]
        sections = document(simplify_arguments(made, chain.calls, 3), DEFAULTS)
        assert has_calls(load({"kerasimg": 1, "name": "made", **sections}), chain.calls, DEFAULTS)


def test_whatever_the_graph_folding_keeps_every_call_and_every_input():
    for seed in range(60):
        rng = random.Random(seed)
        chain = Chain()
        chain.conv(16)
        parts = [rng.choice(PARTS) for _ in range(3)]
        for _ in range(rng.randrange(4, 30)):
            rng.choice(parts)(chain, rng)
        sections = sections_of(chain)
        plain = document(draft_of(chain.calls, DEFAULTS), DEFAULTS)
        assert len(json.dumps(sections)) <= len(json.dumps(plain)), seed


def _plain(chain: Chain, rng: random.Random) -> None:
    chain.conv(rng.choice([8, 16]), strides=rng.choice([1, 2]))
    chain.add("BatchNormalization")


def _residual(chain: Chain, rng: random.Random) -> None:
    chain.unit(rng.choice([4, 8]))


def _split(chain: Chain, rng: random.Random) -> None:
    entered = len(chain.calls) - 1
    ends = []
    for _ in range(rng.choice([2, 3])):
        chain.conv(rng.choice([8, 16]), entered)
        for _ in range(rng.choice([1, 2])):
            chain.add("ReLU")
        ends.append(len(chain.calls) - 1)
    chain.add("Add", *ends)


def _skip(chain: Chain, rng: random.Random) -> None:
    """A sum with an output of some time ago."""
    chain.add("Add", rng.randrange(max(0, len(chain.calls) - 12), len(chain.calls)), len(chain.calls) - 1)


def _again(chain: Chain, rng: random.Random) -> None:
    """A layer that is called twice, once on each of two things."""
    first = chain.conv(8)
    source = chain.add("ReLU")
    chain.calls.append(FlatCall("reuse", "", {}, "one", (), (source,), 8, first))


PARTS = (_plain, _residual, _split, _skip, _again)
