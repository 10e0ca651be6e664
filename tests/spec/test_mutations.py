"""Whatever is done to a spec, the loader ends with a spec or with a SpecError; and what it resolves loads again."""

import copy
import json
import os
import random
import string
from pathlib import Path

import pytest

from kerasimg import catalog
from kerasimg.errors import SpecError
from kerasimg.spec.document import KEYS

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("KERASIMG_MUTATIONS", "150"))
RIGHT = [item["document"] for item in json.loads(Path(__file__).with_name("right_forms.json").read_text())]
SEEDS = [json.loads(catalog.locate(name).path.read_text()) for name in catalog.zoo_names()[:8]] + RIGHT
NAMES = sorted({*KEYS, "layer", "block", "backbone", "reuse", "name", "inputs", "when", "repeat", "table", "type"})
VALUES = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 10**15, 10**17, "", "=", "=1", "=i", "=x", "=in_channels", "=1/0",
    "in", "prev", "relu", "Dense", "Conv2D", "auto", "imagenet", "//", "$choice", "a" * 70, "é", "\x00", "\n", "💧",
    "../x.json", "zoo/simple_cnn.json", [], {}, [[]], [{}], [None], {"": 1}, {"//": 1}, {"$choice": [1]},
    {"type": "SGD"},
    {"$choice": [1, "=x"], "default": 1}, {"$int": [1, 2], "default": 1}, {"$float": [0, 1], "default": 2}, {"$": 1},
    {"$choice": {"a": [], "b": {"$int": [1, 2], "default": 1}}, "default": "b"}, {"layer": "Flatten"}, {"block": "a"},
    {"layer": "Dense", "table": [["units"], [1]]}, {"reuse": "a"}, [["units", "name"], [1, "a"], ["=i", {}]],
    {"args": {"a": None}, "nodes": [{"layer": "ReLU"}]}, {"module": "os", "class_name": "system", "config": {}},
]  # fmt: skip
SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True
)


def places(value, path=()):
    """Every (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from places(item)


def mutate(document, chance):
    """Replace, delete, insert, rename, swap or copy something, somewhere."""
    everywhere = list(places(document))
    container, key = chance.choice(everywhere)
    other, there = chance.choice(everywhere)
    value = copy.deepcopy(chance.choice(VALUES))
    match chance.randrange(7):
        case 0 | 1:
            container[key] = value
        case 2:
            del container[key]
        case 3 if isinstance(container, list):
            container.insert(key, value)
        case 3:
            container[chance.choice(NAMES)] = value
        case 4 if isinstance(container, dict):
            container[chance.choice([*NAMES, "".join(chance.choices(string.printable, k=3))])] = container.pop(key)
        case 5:
            container[key], other[there] = copy.deepcopy((other[there], container[key]))
        case _:
            container[key] = copy.deepcopy(other[there])
    return document


def loaded(ref, **how):
    """The spec, or None when it is reported to be wrong, in words that can be printed."""
    try:
        return catalog.load(ref, partial=True, **how)
    except SpecError as error:
        reported = error
    assert str(reported).encode("utf-8")
    assert reported.faults
    return None


def same_when_loaded_again(spec):
    again = catalog.load(spec.resolved, partial=True)
    return again.resolved == spec.resolved and again.search == ()


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_mutated_spec_loads_or_is_refused_and_what_loads_loads_again(seed, times):
    chance = random.Random(seed)
    document = copy.deepcopy(chance.choice(SEEDS))
    for _ in range(times):
        if document:
            document = mutate(document, chance)
    spec = loaded(document)
    assert spec is None or same_when_loaded_again(spec)


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_mutated_bytes_load_or_are_refused(tmp_path_factory, seed, times):
    chance = random.Random(seed)
    content = bytearray(json.dumps(chance.choice(SEEDS)).encode())
    for _ in range(times):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.randrange(6))
        piece = chance.choice(
            [b"", bytes([chance.randrange(256)]), content[end : end + 9], b'"', b"\\", b"[", b"}", b"1e9"]
        )
        content[start:end] = piece
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_bytes(content)
    spec = loaded(path)
    assert spec is None or same_when_loaded_again(spec)


@SETTINGS
@given(
    st.sampled_from(SEEDS),
    st.dictionaries(
        st.sampled_from(["units", "num_classes", "size", "lr", "variant", "alpha", "x"]),
        st.sampled_from(VALUES),
        max_size=2,
    ),
    st.dictionaries(
        st.lists(st.sampled_from([*NAMES, "0", "1", "hidden", "units", "stages", ""]), max_size=4).map(".".join),
        st.sampled_from(VALUES),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["units", "lr", "model.0", "task"]), st.sampled_from(VALUES), max_size=2),
)
def test_whatever_the_caller_gives_a_spec_loads_or_is_refused(document, params, edits, chosen):
    spec = loaded(document, overrides=edits, chosen=chosen, **params)
    assert spec is None or same_when_loaded_again(spec)


def test_every_right_spec_is_the_same_when_what_it_resolves_to_is_loaded():
    for document in SEEDS:
        spec = catalog.load(document, partial=True)
        again = catalog.load(spec.resolved, partial=True)
        assert again.resolved == spec.resolved
        for part in ("name", "task", "params", "image", "compile", "fit", "tune", "expect", "augment", "features"):
            assert getattr(again, part) == getattr(spec, part), part
