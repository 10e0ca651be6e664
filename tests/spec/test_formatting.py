import json

import pytest

from kerasimg import catalog
from kerasimg.spec.formatting import dumps


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_a_written_spec_reads_back_unchanged(name: str):
    document = catalog.read_zoo(name)
    assert json.loads(dumps(document)) == document


def test_a_spec_is_laid_out_as_a_person_would():
    document = {
        "model": [
            {"block": "stage", "table": [["c", "n"], [16, 1], [128, 3]]},
            {"layer": "Dense", "units": 2},
        ],
        "name": "tiny",
        "blocks": {
            "stage": {"args": {"c": None, "n": 1}, "nodes": [{"layer": "Conv2D", "repeat": "=n", "filters": "=c"}]}
        },
        "image": {"size": [8, 8]},
    }
    assert dumps(document) == (
        "{\n"
        '  "name": "tiny",\n'
        '  "blocks": {\n'
        '    "stage": {\n'
        '      "args": {"c": null, "n": 1},\n'
        '      "nodes": [{"layer": "Conv2D", "repeat": "=n", "filters": "=c"}]\n'
        "    }\n"
        "  },\n"
        '  "image": {"size": [8, 8]},\n'
        '  "model": [\n'
        '    {"block": "stage", "table": [\n'
        '      ["c", "n"],\n'
        "      [16,  1],\n"
        "      [128, 3]\n"
        "    ]},\n"
        '    {"layer": "Dense", "units": 2}\n'
        "  ]\n"
        "}\n"
    )


def test_a_table_of_rows_of_unequal_length_is_written_all_the_same():
    document = {"model": [{"layer": "Dense", "table": [["units"], [2, 3], []]}]}
    assert json.loads(dumps(document)) == document


def test_a_comment_stays_before_the_key_that_it_is_about():
    text = dumps(
        {"model": [], "// why so small": "it is tried", "image": {"// size": "square", "size": [8, 8]}, "kerasimg": 1}
    )
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:-1]] == [
        '"kerasimg"',
        '"// why so small"',
        '"image"',
        '"model"',
    ]
