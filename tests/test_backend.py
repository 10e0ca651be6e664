"""A backend that cannot be loaded is a clear error, in Python and on the command line."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from kerasimg import backend
from kerasimg.errors import CallError


def run(tmp_path: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that can import neither JAX nor PyTorch."""
    hide = (
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in ('jax', 'torch') else find(name, *rest)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", hide + command[0], *command[1:]],
        env={"PATH": "", "HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_backend_that_is_not_installed_names_the_command_that_installs_it(tmp_path: Path):
    called = "import sys; sys.argv = ['kerasimg', 'spec', 'build', 'small_resnet']; import kerasimg.cli as c; c.main()"
    done = run(tmp_path, called, KERAS_BACKEND="jax")
    assert (done.returncode, "fault of kerasimg" in done.stderr) == (2, False)
    assert "the backend 'jax' of Keras (KERAS_BACKEND) is not installed: pip install jax" in done.stderr


def test_a_python_call_raises_the_same_message(tmp_path: Path):
    done = run(tmp_path, "import kerasimg; kerasimg.build", KERAS_BACKEND="torch")
    assert "CallError: the backend 'torch' of Keras (KERAS_BACKEND) is not installed: pip install torch" in done.stderr


def test_loading_a_spec_needs_no_backend(tmp_path: Path):
    assert run(tmp_path, "import kerasimg; kerasimg.load('small_resnet')", KERAS_BACKEND="jax").returncode == 0


def test_the_backend_comes_from_the_environment_then_from_keras_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert backend.chosen_backend() == ("tensorflow", "the default")
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    assert backend.chosen_backend() == ("jax", f"'{tmp_path / 'keras.json'}'")
    monkeypatch.setenv("KERAS_BACKEND", "jaxx")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(CallError, match=r"no backend 'jaxx' \(KERAS_BACKEND\); did you mean 'jax'\?"):
        backend.check_backend()


def test_versions_find_a_module_of_a_distribution_with_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "engine_cpu-9.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-cpu\nVersion: 9.1\n")
    (folder / "top_level.txt").write_text("engine\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert backend.versions(["kerasimg", "engine", "no-such"]) == {
        "kerasimg": version("kerasimg"),
        "engine": "9.1 (engine-cpu)",
    }
