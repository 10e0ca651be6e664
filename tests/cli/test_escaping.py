"""Names of classes, files and specs from outside are harmless in whatever the commands print and write."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kerasimg.cli import app
from kerasimg.escaping import csv_cell, deep, from_csv_cell, json_text, markdown, one_line

HOSTILE = ("\x1b[31mred", "=1+1\nblue", "@\u202eneerg", "<b>x</b>[y](z)")
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r")


def harmless(text: str) -> bool:
    return not any(character in text for character in OBEYED)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Any) -> tuple[Path, Path, list[str]]:
    """A run on a folder of such classes, its image folder, and what training printed."""
    folder = tmp_path_factory.mktemp("escaping")
    photos = images(folder / "photos", {"red": 8, "blue": 8, "green": 8, "grey": 8})
    for plain, name in zip(("red", "blue", "green", "grey"), HOSTILE, strict=True):
        (photos / plain).rename(photos / name.replace("/", "_"))
    spec = {
        "kerasimg": 1,
        "name": "tiny",
        "about": "\x1b]0;title\x07 <script>alert(1)</script> \u202e",
        "params": {"num_classes": None},
        "image": {"size": [8, 8]},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": "=num_classes", "activation": "softmax"}],
        "fit": {"stages": [{"epochs": 1}]},
    }
    (folder / "tiny.json").write_text(json.dumps(spec))
    said = invoke("train", folder / "tiny.json", "--data", photos, "--out", folder / "runs")
    (made,) = (folder / "runs").iterdir()
    return made, photos, [said]


def invoke(*arguments: Any) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_no_command_prints_what_a_terminal_would_obey(run: Any):
    folder, photos, said = run
    image = next(photos.rglob("*.png"))
    said = [
        *said,
        invoke("predict", folder, image),
        invoke("predict", folder, image, "--json"),
        invoke("evaluate", folder),
        invoke("evaluate", folder, "--json"),
        invoke("spec", "show", folder / "spec.json"),
        invoke("spec", "show", folder.parents[1] / "tiny.json"),
        invoke("run", "history", folder),
        invoke("run", "compare", folder, folder),
        invoke("check", folder.parents[1] / "tiny.json"),
        invoke("data", "check", photos),
    ]
    for text in said:
        assert harmless(text), repr(text)
    assert "=1+1\\nblue" in said[1]


def test_json_reads_back_as_the_names_were(run: Any):
    folder, photos, _ = run
    image = next(photos.rglob("*.png"))
    (row,) = json.loads(invoke("predict", folder, image, "--json"))
    assert set(row["probabilities"]) == {name.replace("/", "_") for name in HOSTILE}


def test_predictions_have_no_formula_and_read_back(run: Any):
    folder, _, _ = run
    invoke("evaluate", folder)
    (file,) = folder.rglob("predictions.csv")
    with file.open(encoding="utf-8", newline="") as stream:
        _, *rows = csv.reader(stream)
    assert rows
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    assert invoke("run", "compare", folder, folder)


def test_the_model_card_has_no_markup_of_a_name(run: Any):
    folder, _, _ = run
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    body = card.split("\n---\n", 1)[-1]
    assert "<script>" not in body
    assert "<b>" not in body
    assert "](z)" not in body.replace("\\](z)", "")
    assert harmless(body)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra", "'=1", "''@", "'a", "", "a=1", "cat"])
def test_a_csv_cell_is_no_formula_and_reads_back(text: str):
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_csv_cell(cell) == text


def test_each_medium_has_one_function():
    assert one_line("a\x1b[1m\nb\u202e") == "a\\x1b[1m\\nb\\u202e"
    assert deep({"a\n": ["\x07", 1, None]}) == {"a\\n": ["\\x07", 1, None]}
    assert json.loads(json_text(json.dumps("a\x9b\u202e", ensure_ascii=False))) == "a\x9b\u202e"
    assert markdown("# a\n| <b> [x](y) `z`") == "\\# a \\| &lt;b&gt; \\[x\\](y) \\`z\\`"
    assert markdown("snake_case name") == "snake\\_case name"
