"""Whose value a param has: default < parent < file < set < caller < trial; and what follows from it."""

import json

import pytest

from kerasimg import catalog
from kerasimg.errors import SpecError

HEAD = [{"layer": "Flatten"}, {"layer": "Dense", "name": "head", "units": "=units"}]


@pytest.fixture
def family(tmp_path):
    """A parent and two children, each with more to say about `units`."""

    def write(name, **parts):
        (tmp_path / name).write_text(json.dumps({"kerasimg": 1, **parts}))

    write("parent.json", params={"units": 1, "wide": "=units * 10"}, model=HEAD, fit={"batch_size": 1})
    write("child.json", extends="parent.json", params={"units": {"$choice": [2, 20], "default": 2}})
    write("setter.json", extends="child.json", params={"units": 3}, set={"params.units": 4, "fit.batch_size": 4})
    return tmp_path


def test_a_default_holds_until_it_is_overridden(family):
    assert catalog.load({"kerasimg": 1, "model": HEAD[:1]}).fit.batch_size == 32
    assert catalog.load(family / "parent.json").fit.batch_size == 1


def test_the_later_voice_wins(family):
    assert catalog.load(family / "parent.json").params["units"] == 1
    assert catalog.load(family / "child.json").params["units"] == 2
    assert catalog.load(family / "setter.json").params["units"] == 4
    assert catalog.load(family / "setter.json", overrides={"params.units": 5}).params["units"] == 5
    assert catalog.load(family / "setter.json", overrides={"params.units": 5}, units=6).params["units"] == 6
    assert catalog.load(family / "child.json", chosen={"units": 20}).params["units"] == 20


def test_what_follows_from_a_param_follows_its_last_value(family):
    assert catalog.load(family / "child.json", units=7).params == {"units": 7, "wide": 70}
    assert catalog.load(family / "child.json", units=7, wide=1).params == {"units": 7, "wide": 1}
    assert catalog.load(family / "child.json", units="=2 + 3").params == {"units": 5, "wide": 50}


def test_each_value_says_where_it_came_from(family):
    spec = catalog.load(family / "setter.json", overrides={"fit.seed": 1})
    assert spec.origins.of(("model",)) == "parent.json"
    assert spec.origins.of(("params", "units")).endswith("setter.json (set)")
    assert spec.origins.of(("fit", "seed")) == "--set fit.seed"


def test_a_spec_loaded_again_keeps_what_it_was_loaded_with(family):
    spec = catalog.load(family / "child.json", wide=3, chosen={"units": 20})
    again = catalog.load(spec, overrides={"fit.batch_size": 9})
    assert (again.params, again.fit.batch_size) == ({"units": 20, "wide": 3}, 9)
    assert again.file == spec.file
    assert catalog.load(spec) is spec


def test_an_expectation_holds_only_for_the_model_of_the_file(family):
    assert catalog.load("simple_cnn").expect_holds
    assert catalog.load("simple_cnn", num_classes=3).expect_holds
    assert catalog.load("simple_cnn", overrides={"fit.batch_size": 3}).expect_holds
    smaller = catalog.load("simple_cnn", units=64)
    assert not smaller.expect_holds
    # As a file of its own it claims nothing of the other.
    assert smaller.resolved["expect"] == {"params": None, "output": None}
    assert catalog.load(smaller.resolved).resolved == smaller.resolved
    assert catalog.load({**smaller.resolved, "name": "smaller"}).expect.params is None
    edited = catalog.load("simple_cnn", overrides={"model.hidden.units": 5})
    assert not edited.expect_holds
    assert catalog.load(edited, num_classes=3).expect.params is None


def test_an_expectation_of_another_variant_is_that_of_the_variant_or_none():
    zoo = {variant: catalog.load("efficientnet_lite0", variant=variant) for variant in ("lite0", "lite1")}
    assert [spec.expect.params for spec in zoo.values()] == [3413024 + 1281 * 1000, 4189344 + 1281 * 1000]
    variants = {"small": {"units": 2, "without_top": 386}, "large": {"units": 3, "without_top": 579}}
    document = {
        "kerasimg": 1,
        "params": {"variant": "small", "units": None, "without_top": None, "total": "=without_top + 0"},
        "image": {"size": [8, 8]},
        "variants": variants,
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": "=units"}],
    }
    for expected, of_large in ((386, None), ("=without_top", 579), ("=total", 579)):
        spec = {**document, "expect": {"params": expected}}
        assert catalog.load(spec).expect.params == 386
        large = catalog.load(spec, variant="large")
        assert (large.expect.params if large.expect_holds else None) == of_large


def test_a_param_that_must_be_given_is_missed_unless_partial():
    document = {"kerasimg": 1, "params": {"units": None}, "model": HEAD}
    with pytest.raises(SpecError, match=r"params\.units: must be given: units=\.\.\. in Python, --set units="):
        catalog.load(document)
    assert catalog.load(document, units=3).params == {"units": 3}
    assert catalog.load(document, partial=True).resolved["params"] == {"units": None}


def test_a_whole_number_that_an_expression_gives_as_a_float_is_an_integer():
    spec = catalog.load(
        {"kerasimg": 1, "params": {"a": 64, "half": "=a / 2"}, "model": HEAD[:1], "fit": {"batch_size": "=a / 4"}}
    )
    assert spec.params["half"] == spec.fit.batch_size * 2 == 32
    assert isinstance(spec.fit.batch_size, int)


def test_a_variant_gives_the_params_that_the_caller_leaves():
    document = {
        "kerasimg": 1,
        "params": {"variant": "b0", "units": None},
        "variants": {"b0": {"units": 1}, "b1": {"units": 2}, "// note": "a comment"},
        "model": HEAD,
    }
    assert catalog.load(document).params["units"] == 1
    assert catalog.load(document, variant="b1").params["units"] == 2
    assert catalog.load(document, variant="b1", units=9).params["units"] == 9


def test_a_resolved_spec_has_every_default_and_nothing_left_to_choose(family):
    resolved = catalog.load(family / "child.json", chosen={"units": 20}).resolved
    assert resolved["params"]["units"] == 20
    assert resolved["fit"]["stages"][0]["epochs"] == 10
    assert resolved["image"]["size"] == [224, 224]
    assert "extends" not in resolved
    assert "$choice" not in json.dumps(resolved)


def test_the_caller_gives_a_param_a_value_and_edits_one_to_be_searched():
    document = {"kerasimg": 1, "params": {"units": 3}, "model": HEAD}
    ranged = {"$int": [1, 9], "default": 2}
    with pytest.raises(SpecError, match=r"expected a value, got a search value; --set params\.units takes one"):
        catalog.load(document, units=ranged)
    assert catalog.load(document, overrides={"params.units": ranged}).params["units"] == 2
