from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kerasimg.cache_folder import VARIABLE, cache_folder


def test_the_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.skipif("sys.platform != 'linux'", reason="the place is the system's")
def test_without_the_variable_it_is_the_systems_place_for_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kerasimg"


@pytest.mark.skipif("sys.platform != 'linux'", reason="the place is the system's")
def test_without_a_home_it_is_a_temporary_place(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() == Path(tempfile.gettempdir()) / "kerasimg"
