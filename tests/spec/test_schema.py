"""The JSON Schema against the loader: it accepts what the loader accepts, and sees the same faults of form."""

import json
from pathlib import Path

import pytest

from kerasimg import catalog
from kerasimg.errors import SpecError
from kerasimg.spec import arguments, schema

jsonschema = pytest.importorskip("jsonschema")

HERE = Path(__file__).parent
WRONG = json.loads((HERE / "wrong_forms.json").read_text())
RIGHT = json.loads((HERE / "right_forms.json").read_text())


def named(documents):
    return pytest.mark.parametrize("document", [pytest.param(item["document"], id=item["name"]) for item in documents])


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(schema.make_schema())


def test_it_is_a_schema_of_the_dialect_that_it_names(validator):
    validator.check_schema(validator.schema)
    assert validator.schema["$schema"] == validator.META_SCHEMA["$id"]


def test_the_file_that_ships_is_the_schema_of_today():
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run: python -m kerasimg.spec.schema"


def test_the_file_that_ships_is_small_enough_for_an_editor():
    assert schema.FILE.stat().st_size < 500_000


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_every_spec_of_the_zoo_is_accepted_and_names_the_schema(validator, name):
    document = json.loads(catalog.locate(name).path.read_text())
    assert [error.message for error in validator.iter_errors(document)] == []
    folder = catalog.locate(name).path.parent
    assert (folder / document["$schema"]).resolve() == schema.FILE.resolve()


@named(RIGHT)
def test_what_the_loader_accepts_the_schema_accepts(validator, document):
    assert catalog.load(document).document["kerasimg"] == 1
    assert [error.message for error in validator.iter_errors(document)] == []


@named(WRONG)
def test_a_wrong_form_is_refused_by_the_loader_and_by_the_schema(validator, document):
    with pytest.raises(SpecError):
        catalog.load(document)
    assert not validator.is_valid(document)


def test_a_hundred_wrong_forms_are_tried_and_no_two_are_the_same():
    written = {json.dumps(item["document"], sort_keys=True) for item in WRONG}
    assert len(written) == len(WRONG) == len({item["name"] for item in WRONG})
    assert len(written) >= 100


def test_every_layer_can_be_completed_and_each_with_its_own_arguments(validator):
    definitions = validator.schema["$defs"]
    offered = definitions["layer_node"]["properties"]["layer"]["anyOf"][0]["enum"]
    assert offered == arguments.known("layers")
    for name in offered:
        assert set(definitions[f"layer.{name}"]["properties"]) == set(arguments.entry("layers", name)["args"]), name


def test_every_key_of_every_section_is_described(validator):
    definitions = validator.schema["$defs"]
    for name in ("Card", "Image", "Compile", "Fit", "Tune", "Expect", "Stage", "EarlyStopping", "Standardize"):
        section = definitions[name]["else"]
        assert section["description"], name
        assert all(field["description"] for field in section["properties"].values()), name


def test_each_kind_of_argument_has_a_definition_of_its_own(validator):
    kinds = {
        argument["kind"]
        for group in arguments.MODULES
        for name in arguments.known(group)
        for argument in arguments.entry(group, name)["args"].values()
    }
    assert len([name for name in validator.schema["$defs"] if name.startswith("kind.")]) == len(kinds)


def test_a_reference_leads_to_a_definition(validator):
    def references(value):
        if isinstance(value, dict):
            yield from (item for key, item in value.items() if key == "$ref")
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(validator.schema))
    for reference in found:
        there = validator.schema
        for step in reference.removeprefix("#/").split("/"):
            there = there[step]
    assert len(found) > 100


def test_a_registered_layer_is_in_the_schema_of_its_program():
    arguments.register_entry("layers", "Sharpen", {"args": {"by": {"kind": "float>0", "required": True}}})
    try:
        ours = jsonschema.Draft202012Validator(schema.make_schema())
        assert ours.is_valid({"kerasimg": 1, "model": [{"layer": "Sharpen", "by": 2}]})
        assert not ours.is_valid({"kerasimg": 1, "model": [{"layer": "Sharpen", "by": 0}]})
    finally:
        arguments._registered["layers"].pop("Sharpen")
