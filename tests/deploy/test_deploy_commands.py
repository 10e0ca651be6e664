import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kerasimg import cli
from kerasimg.api import Run
from kerasimg.cli.deploy import TARGETS, PrecisionName
from kerasimg.deploy.bundle import PAGE, Bundle
from kerasimg.deploy.targets import names, targets


class Output(NamedTuple):
    code: Any
    out: str
    err: str


Command = Callable[..., Output]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """command("run", "verify", folder) runs the command line in this process."""

    def run_command(*arguments: Any) -> Output:
        monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Output(caught.value.code, *capfd.readouterr())

    return run_command


def test_options_list_every_target_and_precision():
    assert ", ".join(names()) == TARGETS
    known = {precision for target in targets() for precision in target.precisions}
    assert {precision.value for precision in PrecisionName} == known


def test_export_writes_the_targets_and_prints_the_comparison(command: Command, run: Run, tmp_path: Path):
    output = command("export", run.folder, "--to", "litert", "--to", "keras", "--out", tmp_path, "--batch", 1)
    assert (output.code, "takes any batch size" in output.err) == (2, True)
    output = command("export", run.folder, "--to", "litert", "--to", "keras", "--out", tmp_path)
    assert output.code == 0
    assert "model_float32.tflite: differs by" in output.out
    assert output.out.splitlines()[-3:] == [
        f"saved in {tmp_path / 'litert'}",
        f"saved in {tmp_path / 'keras'}",
        f"Next: kerasimg run verify {tmp_path / 'litert'}",
    ]
    assert output.err == ""


def test_export_exits_with_4_beyond_the_tolerance(command: Command, run: Run, tmp_path: Path):
    output = command("export", run.folder, "--precision", "int8", "--tolerance", 0.0001, "--out", tmp_path)
    assert output.code == 4
    assert "model_int8.tflite: differs by" in output.err
    assert Bundle.open(tmp_path / "litert").manifest.parity[0].passed is False


def test_verify_prints_every_model_and_sets_the_exit_code(command: Command, exported: dict[str, Bundle], copy: Any):
    folder = copy("litert")
    output = command("run", "verify", folder)
    assert output.code == 0
    assert output.out.count("differs by") == len(exported["litert"].models) > 3
    assert output.err == ""
    result = json.loads(command("run", "verify", folder, "--json").out)
    assert [row["path"] for row in result["vectors"]] == [model.path for model in exported["litert"].models]
    (folder / "model_int8.tflite").write_bytes(b"")
    output = command("run", "verify", folder)
    assert (output.code, "has 0 bytes, expected" in output.err) == (1, True)
    folder = copy("keras")  # which is not served
    last = f"Next: read {folder / 'README.md'}, which has code that runs the model"
    assert command("run", "verify", folder).out.splitlines()[-1] == last
    (folder / PAGE).write_text("")  # as a web bundle has it
    assert command("run", "verify", folder).out.splitlines()[-1] == f"Next: open {folder / PAGE} in a browser"
    assert command("run", "verify", folder / "vectors").code == 2


def test_a_model_is_not_to_be_exported_again_where_its_bundle_is_up_to_date(
    command: Command, run: Run, exported: dict[str, Bundle], tmp_path: Path
):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("export")))
    step = command("run", "report", folder).out.splitlines()[-1]
    assert step.startswith(f"Next: kerasimg export {folder} --to litert")
    bundle = Path(shutil.copytree(exported["litert"].folder, folder / "export" / "litert"))
    assert command("run", "report", folder).out.splitlines()[-1] == f"Next: kerasimg run verify {bundle}"
    command("run", "calibrate", folder)
    step = command("run", "report", folder).out.splitlines()[-1]
    assert step.startswith(f"Next: kerasimg export {folder} --to litert")


def test_measure_prints_a_table_or_json(command: Command, run: Run):
    output = command("run", "measure", run.folder, "--to", "onnx", "--json")
    assert output.code == 0
    assert [row["target"] for row in json.loads(output.out)["runtimes"]] == ["(the run)", "onnx", "onnx"]
