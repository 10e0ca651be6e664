"""The messages about broken specs, word for word; a changed message is read here before it is accepted."""

import json
from pathlib import Path

import pytest

from kerasimg import catalog
from kerasimg.errors import SpecError

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def message_of(folder, monkeypatch, case):
    """The lines of the error that loading a case's spec.json ends with."""
    monkeypatch.chdir(folder)
    for name, document in {**case.get("files", {}), "spec.json": case["spec"]}.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    how = case.get("how", {})
    with pytest.raises(SpecError) as caught:
        catalog.load("spec.json", overrides=how.get("edits"), chosen=how.get("chosen"), **how.get("params", {}))
    return str(caught.value).split("\n")


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_an_error_names_the_place_the_problem_and_the_remedy(tmp_path, monkeypatch, case):
    assert message_of(tmp_path, monkeypatch, case) == case["message"]


def test_at_least_fifty_broken_specs_are_in_the_table():
    assert len({case["name"] for case in GOLDEN}) == len(GOLDEN) >= 50


def test_no_message_speaks_of_python():
    lines = [line for case in GOLDEN for line in case["message"]]
    for word in ("NoneType", " dict ", "<class", "Traceback", "pydantic", "Error:"):
        assert [line for line in lines if word in line] == []
