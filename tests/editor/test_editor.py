"""What an editor says of a half-written spec, by the language service of VS Code: `npm ci` in this folder first."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kerasimg import catalog

HERE = Path(__file__).parent
SCHEMA = json.loads((catalog.ZOO / catalog.SCHEMA).read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and (HERE / "node_modules" / "vscode-json-languageservice").is_dir()),
    reason="needs Node.js, and `npm ci` in tests/editor",
)


def ask(text: str) -> dict[str, Any]:
    """The answers for a text in which | is where the cursor stands."""
    offset = max(text.find("|"), 0)
    asked = json.dumps({"schema": SCHEMA, "text": text.replace("|", "", 1), "offset": offset})
    done = subprocess.run(["node", "ask.mjs"], cwd=HERE, input=asked, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_sections_are_offered_with_their_meaning():
    offered = ask('{"kerasimg": 1, |}')["completions"]
    assert {"image", "augment", "model", "compile", "fit", "tune", "params", "extends"} <= set(offered)
    hover = ask('{"kerasimg": 1, "ima|ge": {}, "model": []}')["hover"]
    assert "the model" in json.dumps(hover).lower()


def test_the_four_kinds_of_node_and_the_names_of_layers_are_offered():
    assert {"layer", "block", "backbone", "reuse"} <= set(ask('{"kerasimg": 1, "model": [{|}]}')["completions"])
    names = ask('{"kerasimg": 1, "model": [{"layer": |}]}')["completions"]
    assert {'"Conv2D"', '"Dense"', '"SqueezeExcite"'} <= set(names)
    assert '"Lambda"' not in names


def test_the_arguments_of_the_layer_at_the_cursor_are_offered_and_not_those_of_others():
    offered = ask('{"kerasimg": 1, "model": [{"layer": "Conv2D", |}]}')["completions"]
    assert {"filters", "kernel_size", "strides", "name", "inputs", "when", "repeat"} <= set(offered)
    assert "units" not in offered


def test_values_from_closed_lists_are_offered():
    offered = ask('{"kerasimg": 1, "image": {"resize": |}, "model": []}')["completions"]
    assert {'"stretch"', '"crop"', '"pad"'} <= set(offered)
    assert (
        '"relu"'
        in ask('{"kerasimg": 1, "model": [{"layer": "ReLU"}, {"layer": "Dense", "activation": |}]}')["completions"]
    )


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_no_spec_of_the_zoo_is_marked(name: str):
    text = catalog.zoo_file(name).path.read_text(encoding="utf-8")
    assert ask(text)["diagnostics"] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"kerasimg": 1,\n"model": [{"layer": "Conv2D",\n"fliters": 3, "kernel_size": 3}]}', 3),
        ('{"kerasimg": 1,\n"imgae": {}, "model": [{"layer": "Flatten"}]}', 2),
        ('{"kerasimg": 1, "model": [{"layer": "Flatten"}],\n"fit": {"batch_size": 0}}', 2),
        ('{"kerasimg": 1, "model": [\n{"layer": "Lambda"}]}', 2),
        ('{"kerasimg": 1, "model": [{"layer": "Flatten"}', 1),
    ],
)
def test_a_fault_is_marked_at_its_line(text: str, line: int):
    assert line in [found["line"] for found in ask(text)["diagnostics"]]
