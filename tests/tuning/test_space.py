import pytest

import kerasimg
from kerasimg.errors import CallError, SpecError
from kerasimg.tuning.space import resolve, space_of

NESTED = {
    "$choice": {
        "small": {"$int": [4, 8], "default": 4},
        "large": {"$choice": {"wide": {"$int": [16, 64], "step": 16, "default": 16}, "fixed": 7}, "default": "fixed"},
    },
    "default": "small",
}


def spec(units=NESTED, **params):
    return kerasimg.load(
        {
            "kerasimg": 1,
            "params": {"num_classes": 3, **params},
            "model": [{"layer": "Flatten"}, {"layer": "Dense", "name": "hidden", "units": units}],
        }
    )


def test_a_value_inside_an_option_is_active_only_if_the_option_is_chosen():
    space = space_of(spec())
    assert space.defaults == {"model.hidden.units": "small", "model.hidden.units.small": 4}
    chosen = {"model.hidden.units": "large", "model.hidden.units.large": "wide", "model.hidden.units.small": 5}
    assert space.complete(chosen) == {
        "model.hidden.units": "large",
        "model.hidden.units.large": "wide",
        "model.hidden.units.large.wide": 16,
    }


def test_the_size_is_the_number_of_different_models():
    assert space_of(spec()).size == 5 + 4 + 1
    assert space_of(spec(d={"$choice": [0.1, 0.2], "default": 0.1})).size == 20


def test_a_range_of_floats_has_no_size_but_has_points():
    space = space_of(spec(lr={"$float": [1e-4, 1e-2], "log": True, "default": 1e-3}))
    assert (space.size, space.points) == (None, 10)


def test_the_last_step_of_a_float_is_one_of_its_values():
    space = space_of(spec(d={"$float": [0, 0.6], "step": 0.1, "default": 0.25}))
    assert space["d"].keys == (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


def test_steps_on_a_logarithmic_scale_multiply():
    space = space_of(spec(d={"$float": [0.001, 1], "step": 10, "log": True, "default": 0.01}))
    assert space["d"].keys == (0.001, 0.01, 0.1, 1.0)


def test_options_of_several_types_are_distinguished_as_text():
    dimension = space_of(spec(b={"$choice": [True, None, 1, 0.5, "x"], "default": 1}))["b"]
    assert dimension.keys == ("true", "null", "1", "0.5", '"x"')
    assert [dimension.value(dimension.key(option)) for option in dimension.options] == [True, None, 1, 0.5, "x"]
    assert dimension.value("true") is True
    with pytest.raises(CallError, match="b: 'y' is none of true, null"):
        dimension.value("y")


def test_a_drawn_number_has_few_digits_and_stays_within_its_bounds():
    dimension = space_of(spec(lr={"$float": [0.1, 0.12345678], "default": 0.11}))["lr"]
    assert dimension.value(0.1111111111) == 0.111111
    assert dimension.value(0.12345678) == 0.12345678
    assert dimension.value(0.123456779) == 0.12345678 or dimension.value(0.123456779) <= 0.12345678


def test_a_param_that_the_caller_gives_is_not_searched():
    document = spec(lr={"$float": [0.1, 0.2], "default": 0.1}).document
    assert next(item.name for item in space_of(kerasimg.load(document, lr=0.5)).dimensions) == "model.hidden.units"


def test_a_search_value_without_effect_is_refused():
    wrong = {"kerasimg": 1, "model": [{"layer": "Flatten"}]}
    wrong["tune"] = {"max_trials": {"$int": [1, 3], "default": 2}}
    with pytest.raises(SpecError, match=r"tune\.max_trials: a search value cannot stand in 'tune'"):
        space_of(kerasimg.load(wrong))


def test_values_of_a_variant_are_active_only_in_it():
    document = {
        "kerasimg": 1,
        "params": {"variant": "s", "units": None},
        "variants": {"s": {"units": {"$int": [1, 2], "default": 1}}, "l": {"units": {"$int": [8, 9], "default": 8}}},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": "=units"}],
    }
    assert [item.name for item in space_of(kerasimg.load(document)).dimensions] == ["variants.s.units"]
    document["params"]["variant"] = {"$choice": ["s", "l"], "default": "s"}
    space = space_of(kerasimg.load(document))
    assert space.size == 4
    assert space.complete({"variant": "l"}) == {"variant": "l", "variants.l.units": 8}


def test_a_resolved_spec_has_the_values_and_defaults_elsewhere():
    made = resolve(spec(), {"model.hidden.units": "large", "model.hidden.units.large": "fixed"})
    assert made.nodes[1].arguments["units"] == 7
    assert resolve(spec(), {}).nodes[1].arguments["units"] == 4


def test_a_space_is_described_in_words_and_in_json():
    space = space_of(spec(lr={"$float": [1e-4, 1e-2], "log": True, "default": 1e-3}))
    assert str(space["lr"]) == "a number from 0.0001 to 0.01, on a logarithmic scale"
    assert str(space["model.hidden.units.large.wide"]) == "an integer from 16 to 64, in steps of 16"
    description = space.describe()
    assert description["values"][-1]["when"] == {"model.hidden.units": "large", "model.hidden.units.large": "wide"}
