import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kerasimg import cli
from kerasimg.api import Run
from kerasimg.cli.deploy import TARGETS, PrecisionName
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import names, targets

PROGRESS = re.compile(r"\w+ \.\.\. \d+ s\n")
"""On a slow machine the seconds are printed to standard error after 15 s."""


class Said(NamedTuple):
    code: Any
    out: str
    err: str


Say = Callable[..., Said]


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """say("run", "verify", folder) runs the command line in this process."""

    def ask(*arguments: Any) -> Said:
        monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Said(caught.value.code, *capfd.readouterr())

    return ask


def test_the_options_name_every_target_and_precision():
    assert ", ".join(names()) == TARGETS
    known = {precision for target in targets() for precision in target.precisions}
    assert {one.value for one in PrecisionName} == known


def test_export_writes_what_is_asked_for_and_says_how_it_compares(say: Say, run: Run, tmp_path: Path):
    said = say("export", run.folder, "--to", "litert", "--to", "keras", "--out", tmp_path, "--batch", 1)
    assert (said.code, "takes any number of images" in said.err) == (2, True)
    said = say("export", run.folder, "--to", "litert", "--to", "keras", "--out", tmp_path)
    assert said.code == 0
    assert "model_float32.tflite: differs by" in said.out
    assert said.out.splitlines()[-3:] == [
        f"saved in {tmp_path / 'litert'}",
        f"saved in {tmp_path / 'keras'}",
        f"Next: kerasimg run verify {tmp_path / 'litert'}",
    ]
    assert PROGRESS.sub("", said.err) == ""


def test_export_ends_with_4_beyond_the_tolerance(say: Say, run: Run, tmp_path: Path):
    said = say("export", run.folder, "--precision", "int8", "--tolerance", 0.0001, "--out", tmp_path)
    assert said.code == 4
    assert "model_int8.tflite: differs by" in said.err
    assert Bundle.open(tmp_path / "litert").manifest.parity[0].passed is False


def test_verify_tells_every_model_and_ends_with_0_or_not(say: Say, exported: dict[str, Bundle], copy: Any):
    folder = copy("litert")
    said = say("run", "verify", folder)
    assert said.code == 0
    assert said.out.count("differs by") == 4
    assert PROGRESS.sub("", said.err) == ""
    told = json.loads(say("run", "verify", folder, "--json").out)
    assert [row["path"] for row in told["vectors"]] == [model.path for model in exported["litert"].models]
    (folder / "model_int8.tflite").write_bytes(b"")
    said = say("run", "verify", folder)
    assert (said.code, "has 0 bytes, expected" in said.err) == (1, True)
    assert say("run", "verify", folder / "vectors").code == 2


def test_measure_prints_a_table_or_json(say: Say, run: Run):
    said = say("run", "measure", run.folder, "--to", "onnx", "--json")
    assert said.code == 0
    assert [row["target"] for row in json.loads(said.out)["runtimes"]] == ["(the run)", "onnx"]
