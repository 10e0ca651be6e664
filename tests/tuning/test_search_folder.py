import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasimg
from kerasimg.data.sources import open_source
from kerasimg.tuning.search_folder import data_record, digests, rewrite

TEXT = """{
  "kerasimg": 1,
  "// why": "stays in its place",
  "params": {"lr": {"$float": [1e-4, 1e-2], "default": 1e-3},  "n": 3},
  "model": [
    {"layer": "Dense",   "units": {"$choice": {"a": {"$int": [1, 3], "default": 2}, "b": 9}, "default": "a"}},
    {"$choice": {"small": {"layer":  "Dense"}, "large": {"layer": "Conv2D", "filters": 3}}, "default": "small"}
  ],
  "expect": {"params": 3}
}
"""


def test_only_differences_are_rewritten():
    target = {
        "kerasimg": 1,
        "// why": "stays in its place",
        "params": {"lr": 0.003, "n": 3},
        "model": [{"layer": "Dense", "units": 2}, {"layer": "Dense"}],
        "card": {"origin": "a search"},
    }
    assert (
        rewrite(TEXT, target)
        == """{
  "kerasimg": 1,
  "// why": "stays in its place",
  "params": {"lr": 0.003,  "n": 3},
  "model": [
    {"layer": "Dense",   "units": 2},
    {"layer":  "Dense"}
  ],
  "card": {"origin": "a search"}
}
"""
    )


def test_an_equal_document_is_left_unchanged():
    assert rewrite(TEXT, json.loads(TEXT)) == TEXT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@settings(deadline=None)
@given(OBJECTS, OBJECTS, st.sampled_from([None, 2]))
def test_the_new_text_parses_to_the_target(before, target, indent):
    assert json.loads(rewrite(json.dumps(before, indent=indent), target)) == target


def with_column(name, values):
    def change(folder, images, number):
        rows = [f"red/0{row}.png,red,{value}" for row, value in enumerate(values[number])]
        (folder / "list.csv").write_text("\n".join([f"path,label,{name}", *rows, "blue/00.png,blue,1"]) + "\n")

    return change


def with_shares(folder, images, number):
    shares = ("0.2,0.8", "0.3,0.7")[number]
    (folder / "list.csv").write_text(f"path,p:blue,p:red\nred/00.png,{shares}\nblue/00.png,1,0\n")


def with_weights(folder, images, number):
    (folder / "own.weights.h5").write_bytes(b"weights" * (number + 1))


def with_teacher(folder, images, number):
    (folder / "teacher").mkdir(exist_ok=True)
    (folder / "teacher" / "model.keras").write_bytes(b"teacher" * (number + 1))


@pytest.mark.parametrize(
    ("change", "fit", "differs"),
    [
        (with_column("care", ("12", "13")), {"sample_weight": "care"}, {"columns"}),
        (
            with_column("care", ("12", "13")),
            {"sample_weight": {"$choice": [None, "care"], "default": None}},
            {"columns"},
        ),
        (with_column("who", ("ab", "aa")), {"group": {"column": "who"}}, {"columns"}),
        (with_column("note", ("ab", "cd")), {}, set()),
        (with_shares, {}, {"columns"}),
        (with_weights, {}, {"files"}),
        (with_teacher, {"teacher": {"run": "teacher"}}, {"files"}),
    ],
    ids=["sample weights", "chosen sample weights", "groups", "a note", "soft labels", "a weights file", "a teacher"],
)
def test_all_that_a_score_depends_on_belongs_to_the_identity_of_a_search(
    tiny, images, tmp_path, monkeypatch, change, fit, differs
):
    images(tmp_path, {"red": 2, "blue": 1})
    monkeypatch.chdir(tmp_path)
    spec = tiny(fit=fit)
    if change is with_weights:
        spec["model"] = [{"backbone": "MobileNetV2", "weights": "own.weights.h5"}, *spec["model"]]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    with_column("care", ("11", "11"))(tmp_path, images, 0)
    found = []
    for number in (0, 1):
        change(tmp_path, images, number)
        source = open_source(tmp_path / "list.csv")
        loaded = kerasimg.load(tmp_path / "spec.json", num_classes=2)
        found.append(digests(loaded, data_record(source), source))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == differs
