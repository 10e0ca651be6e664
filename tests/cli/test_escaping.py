"""Names of classes, files and specs from outside are harmless in whatever the commands print and write."""

import ast
import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kerasimg.cli import app
from kerasimg.data.sources import open_source
from kerasimg.deploy import hub
from kerasimg.deploy.croissant import data_card
from kerasimg.escaping import csv_cell, deep, from_csv_cell, json_text, markdown, one_line, tracker_key
from kerasimg.evaluation.score_table import print_scores
from kerasimg.files import to_json
from kerasimg.reporting.epochs import print_stages
from kerasimg.run_folder import RunFolder, read_history
from kerasimg.spec.pack import Pack
from kerasimg.tuning.journal import as_csv
from tests.checkpoints import seeded

HOSTILE = ("\x1b[31mred", "=1+1\nFORGED blue", "@\u202eneerg", "<b>x<script>alert(1)[y](z)|`w`")
"""Names of classes. Each is a formula, a control sequence, markup or a forged line in one of the media."""
FILES = ("=cmd().png", "\x1b[31m.png", "<script>alert(2)<b>.png", "a|`b`[y](z).png", "x\nFORGED.png", "\u2066gnp.png")
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r")


def harmless(text: str) -> bool:
    """Whether a terminal obeys nothing in a text, and no name begins a line of it."""
    return not any(character in text for character in OBEYED) and not re.search("^FORGED", text, re.MULTILINE)


def is_harmless_csv(text: str) -> bool:
    rows = csv.reader(text.splitlines(keepends=True))
    return not any(re.match(r"[=+@\t\r]|-(?![\d.])", cell) for row in rows for cell in row)


def is_harmless_markdown(text: str) -> bool:
    front, _, body = text.partition("\n---\n") if text.startswith("---\n") else ("", "", text)
    outside = re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    markup = re.search(r"<script|<b>|(?<!\\)\]\(z\)|(?<!\\)\|`|(?<!\\)`w", outside)
    return harmless(outside) and harmless(front) and not markup


def is_harmless_html(text: str) -> bool:
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(text)
    return len(tags) > 10 and "b" not in tags and "<script>alert" not in text  # a web bundle has scripts of its own


def is_json(text: str) -> bool:
    return json.loads(text) is not None


def is_json_lines(text: str) -> bool:
    return all(is_json(line) for line in text.splitlines())


def is_python(text: str) -> bool:
    return bool(ast.parse(text).body) and harmless(text)


MEDIA: dict[str, Callable[[str], bool]] = {
    ".csv": is_harmless_csv,
    ".md": is_harmless_markdown,
    ".html": is_harmless_html,
    ".json": is_json,
    ".jsonl": is_json_lines,
    ".py": is_python,
    "": harmless,
    ".h": harmless,
    ".cc": harmless,
    ".js": harmless,
    ".c": harmless,
    ".css": harmless,
}
"""Suffix of a file -> whether nothing in it is obeyed. No suffix: what a command prints, and a Dockerfile."""
BINARY = {".png", ".npy", ".keras", ".tflite", ".safetensors", ".npz", ".h5", ".wasm"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Any) -> tuple[Path, Path, list[str]]:
    """A run on a folder of such classes, its image folder, and what training printed."""
    folder = tmp_path_factory.mktemp("escaping")
    photos = images(folder / "photos", {"red": 8, "blue": 8, "green": 8, "grey": 8})
    for plain, name in zip(("red", "blue", "green", "grey"), HOSTILE, strict=True):
        for number, file in enumerate(FILES):
            (photos / plain / f"{number:02}.png").rename(photos / plain / file)
        (photos / plain).rename(photos / name)
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
        invoke("run", "label-errors", folder),
        invoke("run", "calibrate", folder),
        invoke("explain", folder, image, "--method", "occlusion", "--out", folder / "explained"),
    ]
    for text in said:
        assert harmless(text), repr(text)
    assert "=1+1\\nFORGED blue" in said[1]


def test_json_reads_back_as_the_names_were(run: Any):
    folder, photos, _ = run
    image = next(photos.rglob("*.png"))
    (row,) = json.loads(invoke("predict", folder, image, "--json"))
    assert set(row["probabilities"]) == set(HOSTILE)


def test_a_fix_list_reads_back_as_the_names_were(run: Any, tmp_path: Path):
    _, photos, _ = run
    invoke("data", "check", photos, "--fix-list", tmp_path / "fixed.csv")
    fixed = open_source(tmp_path / "fixed.csv")
    assert set(fixed.classes) == set(HOSTILE)
    assert {Path(item.id).name for item in fixed.items} >= set(FILES)


def test_no_written_file_holds_what_its_reader_would_obey(run: Any):
    folder, photos, _ = run
    invoke("evaluate", folder)
    invoke("data", "check", photos, "--html", folder / "check.html", "--fix-list", folder / "fixed.csv")
    invoke("data", "check", photos, "--fix-list", folder / "fixed.jsonl")
    invoke("run", "compare", folder, folder, "--out", folder / "compared.json")
    invoke("run", "report", folder)
    targets = ["litert", "web", *(["embedded"] if find_spec("tflite_micro") else [])]
    invoke("run", "sets", folder)
    invoke("export", folder, *(word for target in targets for word in ("--to", target)))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"predictions.csv", "history.csv", "README.md", "report.html", "fixed.csv"}
    assert {path.suffix for path in files} - BINARY <= set(MEDIA)
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in MEDIA}
    assert [path.name for path, text in texts.items() if not MEDIA[path.suffix](text)] == []


def test_commands_that_add_measure_and_pass_on_print_and_write_nothing_that_is_obeyed(run: Any, tmp_path: Path):
    folder, photos, _ = run
    shutil.copytree(folder, tmp_path / "run")
    few = tmp_path / "\x1b[31mfew"
    few.mkdir()
    for file in FILES[:3]:
        shutil.copy(photos / HOSTILE[0] / file, few / file)
    checkpoint = write_checkpoint(tmp_path / "checkpoint\x1b[31m")
    pack = tmp_path / "a.kerasimg"
    for words in (
        ["run", "robustness", tmp_path / "run", "--corruption", "contrast", "--images", 4],
        ["run", "similar", tmp_path / "run", few / FILES[1]],
        ["run", "add", tmp_path / "run", "=2+2\nFORGED\u202e<b>", few],
        ["predict", tmp_path / "run", few, "--out", tmp_path / "rows.csv"],
        ["predict", tmp_path / "run", few, "--out", tmp_path / "rows.jsonl"],
        ["run", "pack", tmp_path / "run", "--out", pack],
        ["spec", "show", pack],
        ["import", checkpoint, "--out", tmp_path / "imported"],
        ["spec", "show", tmp_path / "imported" / "checkpoint_31m.json"],
    ):
        text = invoke(*words)
        assert harmless(text), (words, text)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in MEDIA and path.parent != few]
    assert {"rows.csv", "rows.jsonl", "robustness.json"} <= {path.name for path in files}
    assert [path.name for path in files if not MEDIA[path.suffix](path.read_text(encoding="utf-8"))] == []
    opened = Pack(pack)
    assert is_harmless_markdown(hub.readme(opened, "o/n"))
    assert is_harmless_markdown(hub.space_readme(opened, "o/n"))
    assert json.loads(to_json(data_card(RunFolder(tmp_path / "run"))))


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint whose labels and licence are hostile, as far as it can be imported at all."""
    seeded.write("vgg", folder)
    config = json.loads((folder / "config.json").read_text())
    names = [f"{name}{number}" for number in range(4) for name in ("=1+1 FORGED", "@cmd()", HOSTILE[3])][:10]
    config["pretrained_cfg"] |= {"license": "\x1b[31m\u202emit\nFORGED", "label_names": names}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_search_and_its_page_hold_nothing_that_is_obeyed(run: Any, tmp_path: Path):
    folder, photos, _ = run
    spec = json.loads((folder.parents[1] / "tiny.json").read_text())
    spec["params"]["width"] = {"$choice": ["<b>x<script>alert(1)", "@cmd()", "\x1b[31m"], "default": "@cmd()"}
    spec["tune"] = {"tuner": "random", "max_trials": 2}
    spec["compile"] = {"optimizer": {"type": "Adam", "learning_rate": {"$float": [0.01, 0.1], "default": 0.05}}}
    (tmp_path / "search.json").write_text(json.dumps(spec))
    assert harmless(invoke("tune", tmp_path / "search.json", "--data", photos, "--out", tmp_path / "runs"))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in MEDIA]
    assert {"trials.csv", "report.html"} <= {path.name for path in files}
    written = {path: path.read_text(encoding="utf-8") for path in files}
    assert [path.name for path, text in written.items() if not MEDIA[path.suffix](text)] == []


def test_a_table_of_trials_and_a_history_have_no_formula(tmp_path: Path):
    rows = [{"trial": 1, "reason": "=cmd()", "=name": "@x"}, {"trial": 2, "reason": "-1.5", "=name": "\t"}]
    assert is_harmless_csv(as_csv(rows))
    (tmp_path / "history.csv").write_text(as_csv([{"epoch": 1, "=cmd()": -0.5}]))
    assert read_history(tmp_path / "history.csv") == [{"epoch": 1.0, "=cmd()": -0.5}]


def test_the_name_of_a_metric_or_column_is_no_markup_of_the_terminal(capsys: pytest.CaptureFixture[str]):
    print_stages([{"stage": 1, "epoch": 1, "loss": 1.0, "val_loss": 0.5, "val_[/red]\x1b": 0.25}])
    figures: dict[str, Any] = {"figures": {"accuracy": 1.0}, "intervals": {}}
    print_scores(
        {
            "task": "multiclass",
            "n": 1,
            "classes": ["[/x]"],
            "accuracy": 1.0,
            "per_class": {"[/x]": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}},
            "slices": [{"column": "[/site]", "rows": [{"value": "[/a]", "n": 1, "small": True, **figures}]}],
        }
    )
    printed = capsys.readouterr().out
    assert harmless(printed)
    assert [name in printed for name in ("[/red]", "[/x]", "[/site]", "[/a]")] == [True] * 4


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra", "'=1", "''@", "'a", "", "a=1", "cat"])
def test_a_csv_cell_is_no_formula_and_reads_back(text: str):
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_csv_cell(cell) == text


NO_KEYS = ("", ".", "..", "../x", "/x", "a//b", "a/../b", "_step", "x\n", "m" * 400, "a,b", "a|b")
"""Names that some tracker refuses, or takes for its own."""


def test_a_key_of_a_tracker_is_one_of_its_characters_and_its_own():
    names = [*HOSTILE, *FILES, *NO_KEYS]
    keys = [tracker_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert [key for key in keys if not re.fullmatch(r"[\w.]{1,250}", key)] == []
    for name in ("val_loss", "fit.stages.0.epochs", "test accuracy", "Genauigkeit ü"):
        assert tracker_key(name) == name


def test_each_medium_has_one_function():
    assert one_line("a\x1b[1m\nb\u202e") == "a\\x1b[1m\\nb\\u202e"
    assert deep({"a\n": ["\x07", 1, None]}) == {"a\\n": ["\\x07", 1, None]}
    assert json.loads(json_text(json.dumps("a\x9b\u202e", ensure_ascii=False))) == "a\x9b\u202e"
    assert markdown("# a\n| <b> [x](y) `z`") == "\\# a \\| &lt;b&gt; \\[x\\](y) \\`z\\`"
    assert markdown("snake_case name") == "snake\\_case name"
