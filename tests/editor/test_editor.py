"""What an editor offers and marks in a spec, from the language service of VS Code: run `npm ci` here first."""

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


def ask_all(*texts: str) -> list[dict[str, Any]]:
    """The answers for each text, with the cursor at its first |; one process of Node.js for all."""
    questions = [{"text": text.replace("|", "", 1), "offset": max(text.find("|"), 0)} for text in texts]
    asked = json.dumps({"schema": SCHEMA, "questions": questions})
    done = subprocess.run(["node", "ask.mjs"], cwd=HERE, input=asked, capture_output=True, text=True, check=True)
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def ask(text: str) -> dict[str, Any]:
    return ask_all(text)[0]


@pytest.fixture(scope="module")
def zoo_answers() -> dict[str, dict[str, Any]]:
    names = catalog.zoo_names()
    texts = (catalog.zoo_file(name).path.read_text(encoding="utf-8") for name in names)
    return dict(zip(names, ask_all(*texts), strict=True))


def test_sections_are_offered_with_their_description():
    offered = ask('{"kerasimg": 1, |}')["completions"]
    assert {"image", "augment", "model", "compile", "fit", "tune", "params", "extends"} <= set(offered)
    hover = ask('{"kerasimg": 1, "ima|ge": {}, "model": []}')["hover"]
    assert "the model" in json.dumps(hover).lower()


def test_the_four_kinds_of_node_and_layer_names_are_offered():
    assert {"layer", "block", "backbone", "reuse"} <= set(ask('{"kerasimg": 1, "model": [{|}]}')["completions"])
    names = ask('{"kerasimg": 1, "model": [{"layer": |}]}')["completions"]
    assert {'"Conv2D"', '"Dense"', '"SqueezeExcite"'} <= set(names)
    assert '"Lambda"' not in names


def test_only_arguments_of_the_layer_at_the_cursor_are_offered():
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
def test_no_zoo_spec_has_errors(name: str, zoo_answers: dict[str, dict[str, Any]]):
    assert zoo_answers[name]["diagnostics"] == []


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
def test_an_error_is_marked_at_its_line(text: str, line: int):
    assert line in [diagnostic["line"] for diagnostic in ask(text)["diagnostics"]]
