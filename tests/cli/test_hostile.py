"""Wrong, missing, huge and hostile input, for every command: a few lines with the place in them, never a traceback."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import typer

import kerasimg
from kerasimg import cli
from kerasimg.cli.groups import leaves

NOISE = re.compile(r"Traceback|oneDNN|absl|TF-TRT|WARNING|site-packages|unexpected error|Exception ignored")
GARBAGE = np.random.default_rng(0).bytes(5000)
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, images: Any, tiny: Any) -> Path:
    """A folder with a run, its bundle and pack, and what a person or an attacker may put in their place."""
    root: Path = tmp_path_factory.mktemp("world")
    images(root / "colours", {"red": 10, "blue": 10})
    (root / "tiny.json").write_text(json.dumps(tiny()))
    trained = kerasimg.train(root / "tiny.json", data=root / "colours", out=root, verbose=0)
    trained.folder.rename(root / "run")
    kerasimg.pack(root / "run", root / "tiny.kerasimg")
    (root / "empty").mkdir()
    (root / "nothing").write_bytes(b"")
    for ending in ("json", "keras", "kerasimg", "csv", "npz", "png"):
        (root / f"garbage.{ending}").write_bytes(GARBAGE)
    with (root / "sparse.json").open("wb") as file:
        file.truncate(1 << 30)
    (root / "deep.json").write_text(DEEP)
    huge = {"kerasimg": 1, "image": {"size": [100_000, 100_000]}, "model": [{"layer": "Flatten"}]}
    (root / "huge.json").write_text(json.dumps(huge))
    PIL.Image.new("1", (20_000, 10_000)).save(root / "huge.png")
    for name, content in {"deep": DEEP, "bytes": GARBAGE, "number": "3", "nothing": ""}.items():
        for file in ("data.json", "history.csv", "classes.json", "spec.json", "evaluation/metrics.json"):
            folder = root / f"{name}-{Path(file).stem}"
            shutil.copytree(root / "run", folder)
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, content in {"deep": DEEP, "number": "3", "up": _manifest("../../x"), "nothing": ""}.items():
        (root / f"bundle-{name}").mkdir()
        (root / f"bundle-{name}" / "manifest.json").write_text(content)
    with zipfile.ZipFile(root / "tiny.kerasimg") as whole, zipfile.ZipFile(root / "up.kerasimg", "w") as up:
        for member in whole.namelist():
            up.writestr(f"../../{member}", whole.read(member))
    return root


def _manifest(path: str) -> str:
    return json.dumps({"kerasimg_bundle": 1, "files": [{"path": path, "bytes": 1, "sha256": "0" * 64}], "models": []})


CASES: list[tuple[str, int, str]] = [
    # specs
    ("check garbage.json", 2, "garbage.json: not UTF-8 text"),
    ("check sparse.json", 2, "sparse.json: larger than 1,000,000 bytes"),
    ("check deep.json", 2, "deep.json: nested deeper than 64"),
    ("check nothing", 2, "nothing: line 1, column 1: not JSON"),
    ("check empty", 2, '"empty" is a folder, and no spec; name a .json file'),
    ("check run", 2, 'it holds one: "run/spec.json"'),
    ("check C:\\Users\\me\\spec.json", 2, "no file"),
    ("check /dev/zero", 2, "no file"),
    ("check \u202etxt.nosj", 2, "\\u202etxt"),
    ("spec show garbage.json", 2, "garbage.json"),
    ("spec build huge.json", 2, "huge.json: image.size: 30,000,000,000 values in one tensor"),
    ("train huge.json --data colours", 2, "or --limit tensor=30000000000"),
    ("data bench huge.json --data colours", 2, "image.size: "),
    ("data preview huge.json --data colours --out x.png", 2, "draw fewer rows"),
    ("spec diff garbage.json simple_cnn", 2, "garbage.json"),
    ("train tiny.json --data colours --limit params=x", 2, "--limit params: expected a whole number"),
    # images
    ("data check gone", 3, "gone: no such file or folder"),
    ("train run", 2, "'run' is a run; name the folder of the images (to continue an unfinished one: kerasimg train"),
    ("train tiny.json colours", 2, "images are given by --data DIR"),
    ("export run litert", 2, "the target is given by --to litert"),
    ("auto colours --epochs 5", 2, "--epochs is an option of: train, tune"),
    ("train tiny.json --data colours --set weights=none", 2, "that is an option of its own: --weights none"),
    ("train tiny.json --data colours --out colours/runs", 2, "is among the images in 'colours'"),
    ("predict run empty", 2, "no images to predict in empty"),
    ("data check nothing", 3, "nothing: expected a folder or a file"),
    ("init empty", 3, "empty: holds no folders"),
    ("init colours --out empty --force", 2, "'empty' is a folder"),
    ("train tiny.json --data garbage.npz", 3, "garbage.npz: cannot be read as an .npz file (it is not a ZIP file)"),
    ("train tiny.json --data garbage.csv", 3, "garbage.csv: cannot be read as UTF-8"),
    ("train tiny.json --data colours\\red", 3, "no such file or folder; did you mean 'colours'?"),
    ("evaluate run --data empty", 3, "empty: holds no folders"),
    ("spec lr-find tiny.json --data gone", 3, "gone: no such"),
    ("tune tiny.json --data gone", 3, "gone: no such"),
    ("train tiny.json --data colours --out nothing", 2, "nothing' is no folder, and cannot hold a run"),
    ("predict run garbage.png", 3, "garbage.png: is not an image"),
    ("predict run huge.png", 3, "huge.png: has 200 million pixels; the limit is"),
    ("predict run /dev/zero", 3, "/dev/zero: is not a file"),
    ("predict run garbage.png colours", 3, "1 of 21 images cannot be read (below); repair or remove them, or"),
    ("explain run garbage.png", 3, "garbage.png: is not an image"),
    ("explain run colours/red/00.png --method occlusion --out nothing", 1, "'nothing': file exists"),
    # runs
    ("predict gone x.png", 2, "no run, no model file"),
    ("predict run garbage.pgn", 3, "garbage.pgn: does not exist; did you mean 'garbage.png'?"),
    ("predict empty huge.png", 2, "no trained model 'empty/model.keras'"),
    ("predict garbage.keras huge.png", 2, "'garbage.keras' was not written by kerasimg"),
    ("evaluate deep-data", 2, "data.json' is damaged (maximum recursion"),
    ("evaluate bytes-data", 2, "data.json' is damaged ('utf-8'"),
    ("evaluate number-data", 2, "data.json' is damaged (a JSON object was expected)"),
    ("run report number-data", 2, "data.json' is damaged"),
    ("run report nothing-metrics", 2, "metrics.json' is damaged"),
    ("run report number-classes", 2, "classes.json' is damaged (a JSON list was expected)"),
    ("run report bytes-spec", 2, "spec.json: not UTF-8 text"),
    ("run report bytes-history", 2, "history.csv' is damaged"),
    ("run history bytes-history", 2, "history.csv' is damaged"),
    ("run history empty", 2, "'empty' holds no history.csv"),
    ("run history run --tensorboard nothing", 2, "--tensorboard: expected a folder"),
    ("train --resume empty", 2, "'empty' is not the folder of a run"),
    ("tune --resume run", 2, "'run' is not the folder of a search: it is a run; to continue it: kerasimg train"),
    ("spec diff number-data run", 2, "data.json' is damaged (a JSON object was expected)"),
    ("run compare run", 2, "name two runs or more"),
    ("run compare run gone", 2, 'no run, no model file and no spec "gone"'),
    ("run calibrate empty", 2, "no trained model"),
    ("run thresholds rum", 2, "no spec \"rum\"; did you mean 'run'?"),
    ("run label-errors garbage.keras", 2, "was not written by kerasimg"),
    ("run measure empty", 2, "no trained model"),
    ("export nothing", 2, "'nothing' was not written by kerasimg"),
    # bundles and packs
    ("run verify empty", 2, "'empty' is not a bundle"),
    ("run verify bundle-deep", 2, "bundle-deep/manifest.json' is not JSON"),
    ("run verify bundle-number", 2, "expected 1, found None"),
    ("run verify bundle-up", 2, "expected a path below the bundle's folder"),
    ("serve bundle-nothing", 2, "manifest.json' is not JSON"),
    ("serve run --port 99999", 2, "port: expected 0 to 65535"),
    ("serve run --api-key-file gone", 2, "--api-key-file: 'gone' cannot be read"),
    ("run unpack garbage.kerasimg", 2, "is not a valid kerasimg pack"),
    ("run unpack up.kerasimg", 2, "is not a valid kerasimg pack"),
    ("run unpack empty", 2, "'empty' is not a file; expected a .kerasimg file"),
    ("run unpack /dev/zero", 2, "'/dev/zero' is not a file"),
    ("run pack gone", 2, "no run, no model file"),
    ("cache remove --older-than long", 2, "--older-than: expected an age"),
    ("data check colours --spec tiny.json --sheet x.doc", 2, "--sheet: expected a name that ends in .png"),
    ("spec show simple_cnn --set num_classes=3 --svg gone/x.svg", 1, "'gone/"),
]


@pytest.mark.parametrize(("line", "code", "message"), CASES, ids=[line for line, *_ in CASES])
def test_an_error_is_printed_in_a_few_lines_with_its_place(
    world: Path, say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, line: str, code: int, message: str
):
    if line.startswith("serve"):
        pytest.importorskip("fastapi")
    monkeypatch.chdir(world)
    said = say(*line.split(" "))
    assert message in said.err
    assert said.code == code
    assert not NOISE.search(said.err)
    assert len(said.err.splitlines()) < 12


TREE = typer.main.get_command(cli.app)
EVERY = [words for words in leaves(TREE) if words[0] != "cache" and words not in (("zoo", "list"), ("spec", "schema"))]
"""The commands that take arguments."""


def test_a_command_without_its_arguments_says_which(say: Callable[..., Any]):
    for words in EVERY:
        said = say(*words)
        assert (words, said.code, said.out) == (words, 2, "")
        assert re.search("Missing argument|needs", said.err)
        assert say(*words, "--nosuch").code == 2


def test_the_list_of_commands_fits_and_says_how_to_begin(say: Callable[..., Any]):
    shown = say("--help").out
    panels = re.findall(r"^(?!Usage|Options)(\S[^:\n]*):\n((?:  .+\n)+)", shown, re.M)
    listed = {title: re.findall(r"^  (\S+)", rows, re.M) for title, rows in panels}
    assert listed == {
        "Train": ["studio", "init", "check", "import", "train", "tune", "auto"],
        "Use": ["evaluate", "predict", "explain"],
        "Deploy": ["export", "serve"],
        "Command groups": ["spec", "run", "data", "zoo", "cache"],
    }
    assert "..." not in shown.partition("Train:")[2]
    assert "To begin: kerasimg train photos/" in shown
    assert say("--version").out == f"kerasimg {kerasimg.__version__}\n"


def test_a_missing_spec_does_not_keep_the_others_from_being_checked(say: Callable[..., Any]):
    shown = say("check", "gone", "simple_cnn", "--json")
    assert (shown.code, shown.json["ok"], shown.json["faults"][0]["file"]) == (2, False, "gone")
    assert "ok: zoo/simple_cnn.json" in say("check", "gone", "simple_cnn").out


def test_unreadable_images_can_be_passed_over(world: Path, say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(world)
    said = say("predict", "run", "garbage.png", "colours/red", "--on-bad-image", "skip")
    assert (said.code, len(said.out.splitlines())) == (0, 10)
    assert said.err.splitlines()[0] == "left out 1 unreadable: garbage.png"


def test_an_unexpected_error_is_short_and_has_a_traceback_on_request(
    say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("kerasimg.catalog.zoo_names", broken)
    said = say("zoo", "list")
    assert said.code == 1
    assert re.match(r"error: unexpected error in zoo.py, line \d+: ZeroDivisionError: by nothing\n", said.err)
    assert "KERASIMG_TRACEBACK=1 shows the whole traceback" in said.err
    monkeypatch.setenv("KERASIMG_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["kerasimg", "zoo", "list"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_full_disk_is_reported_and_no_partial_file_is_left(
    world: Path, say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def full(path: Path, *_: Any, **__: Any) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    said = say("init", world / "colours", "--out", tmp_path / "first.json")
    assert (said.code, list(tmp_path.iterdir())) == (1, [])
    assert said.err == "error: no room is left on the disk: make some, or write elsewhere (--out)\n"


def test_a_training_that_nobody_watches_tells_a_line_per_epoch(world: Path, say: Callable[..., Any], tmp_path: Path):
    said = say("train", world / "tiny.json", "--data", world / "colours", "--out", tmp_path)
    assert (said.code, said.err) == (0, "")
    assert not re.search(r"[\r\b\x1b]", said.out)
    assert len(re.findall(r"^Epoch \d/3 - \d+s - \d+ms/step - .*loss: ", said.out, re.M)) == 3
    assert "evaluating on 3 images (test)" in said.out


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")
@pytest.mark.parametrize(("where", "code"), [(">&-", 0), ("2>&-", 0), (">/dev/full", 1)])
def test_streams_that_are_closed_or_full_are_no_reason_to_complain_twice(where: str, code: int):
    if "full" in where and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    words = [sys.executable, "-m", "kerasimg", "zoo", "list"]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {where}', "x", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == code
    assert not NOISE.search(done.stderr)
