import pytest

from kerasimg.spec.locations import MAX_FAULTS, Faults, Origins, show_path
from kerasimg.spec.merge import edit, merge

PARENT = {
    "kerasimg": 1,
    "name": "parent",
    "about": "What it is.",
    "card": {"year": 2018},
    "expect": {"params": 3},
    "params": {"units": {"$choice": [1, 2], "default": 1}, "lr": 0.1},
    "model": [{"layer": "Dense", "name": "hidden", "units": "=units"}, {"layer": "Flatten"}],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.1}, "metrics": ["accuracy", "f1"]},
}


def merged(**child):
    return merge(PARENT, {"kerasimg": 1, **child}, Origins("parent.json"), "child.json")


def edited(edits, document=PARENT):
    faults = []
    made = edit(
        document, edits, Origins("spec.json"), "spec.json", lambda path, message: faults.append((path, message))
    )
    return made, faults


def test_objects_merge_key_by_key_and_lists_and_scalars_replace():
    assert merged(params={"lr": 0.2})["params"] == {**PARENT["params"], "lr": 0.2}
    assert merged(compile={"metrics": ["auc"]})["compile"]["metrics"] == ["auc"]
    assert merged(model=[{"layer": "ReLU"}])["model"] == [{"layer": "ReLU"}]


def test_facts_about_a_parent_are_not_inherited():
    assert merged().keys() == {"kerasimg", "params", "model", "compile"}


def test_a_search_value_replaces_whatever_stood_there():
    ranged = {"$int": [1, 9], "default": 3}
    assert merged(params={"units": ranged})["params"]["units"] == ranged
    assert merged(params={"units": {"default": 2}})["params"]["units"] == {"$choice": [1, 2], "default": 2}


def test_an_object_of_another_type_replaces_and_one_of_the_same_type_merges():
    assert merged(compile={"optimizer": {"type": "SGD"}})["compile"]["optimizer"] == {"type": "SGD"}
    expected = {"type": "Adam", "learning_rate": 0.1, "beta_1": 0.8}
    assert merged(compile={"optimizer": {"type": "Adam", "beta_1": 0.8}})["compile"]["optimizer"] == expected
    assert merged(compile={"optimizer": {"beta_1": 0.8}})["compile"]["optimizer"] == expected


def test_an_edit_finds_list_items_by_name_and_by_index():
    made, faults = edited({"model.hidden.units": 64, "model.1.layer": "ReLU", "params.lr": 0.2})
    assert made["model"] == [{"layer": "Dense", "name": "hidden", "units": 64}, {"layer": "ReLU"}]
    assert made["params"]["lr"] == 0.2
    assert faults == []


def test_an_edit_leaves_the_document_that_it_was_given_as_it_was():
    before = str(PARENT)
    edited({"model.hidden.units": 64})
    assert str(PARENT) == before


def test_an_edit_may_name_what_has_only_a_default():
    made, faults = edited({"fit.stages.0.epochs": 3, "tune.max_trials": 5, "task": "binary", "image.scale": "unit"})
    assert made["fit"]["stages"][0]["epochs"] == 3
    assert (made["tune"]["max_trials"], made["task"], made["image"]) == (5, "binary", {"scale": "unit"})
    assert faults == []


def test_an_edit_may_add_an_argument_to_a_node_but_no_param_and_no_block():
    made, faults = edited({"model.hidden.activation": "relu", "params.rate": 1, "blocks.a": {}})
    assert made["model"][0]["activation"] == "relu"
    assert [path for path, _ in faults] == [("set", "params.rate"), ("set", "blocks.a")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.hiden.units", "model has no item \"hiden\"; did you mean 'hidden'? (names: hidden; indices: 0 to 1)"),
        ("model.2.units", 'model has no item "2" (names: hidden; indices: 0 to 1)'),
        ("params.lr.x", "params.lr is a number, with nothing in it to set"),
        ("modle.0", "the spec has no \"modle\"; did you mean 'model'?"),
        ("kerasimg", "kerasimg cannot be set; write it in the file"),
        ("extends", 'the spec has no "extends"'),
        ("compile.optimiser.x", "compile has no \"optimiser\"; did you mean 'optimizer'?"),
        ("", 'the spec has no ""'),
    ],
)
def test_an_edit_that_matches_nothing_says_what_there_is(path, message):
    (fault,) = edited({path: 1})[1]
    assert fault[0] == ("set", path)
    assert fault[1].startswith(message)


def test_every_part_of_a_merged_document_knows_where_it_came_from():
    origins = Origins("parent.json")
    document = merge(PARENT, {"params": {"lr": 1}, "fit": {"seed": 1}}, origins, "child.json")
    edit(document, {"model.hidden.units": 2}, origins, "child.json", lambda path, message: None)
    assert origins.of(("params", "units")) == "parent.json"
    assert origins.of(("params", "lr")) == "child.json"
    assert origins.of(("fit", "seed")) == "child.json"
    assert origins.of(("model", 0, "units")) == "child.json (set)"
    assert origins.of(("model", 0, "layer")) == "parent.json"
    origins.set(("model",), "--set model")
    assert origins.of(("model", 0, "units")) == "--set model"
    assert set(origins.paths()) == {("params", "lr"), ("fit",), ("model",)}


def test_a_path_is_shown_with_what_its_list_items_are():
    document = {"model": [{"layer": "Conv2D"}, {"block": "stage", "table": [[1, 2]]}]}
    assert show_path(document, ("model", 0, "filters")) == "model[0] (Conv2D).filters"
    assert show_path(document, ("model", 1, "table", 0, 1)) == "model[1] (stage).table[0][1]"
    assert show_path(document, ()) == ""
    assert show_path({}, ("a" * 100, "b\nc")) == "a" * 61 + "...." + "b\\nc"


def test_a_fault_is_reported_once_at_the_chosen_option():
    faults = Faults({}, Origins("spec.json"), "spec.json")
    faults.moved = {("model", 0): ("model", 0, "$choice", "a")}
    faults.faulty = {("params", "x")}
    for _ in range(3):
        faults.report(("model", 0, "units"), "wrong")
        faults.report(("params", "x", 0), "not reported: the search value above is wrong")
    assert [str(fault) for fault in faults] == ["spec.json: model[0].$choice.a.units: wrong"]
    assert len(faults) < MAX_FAULTS
