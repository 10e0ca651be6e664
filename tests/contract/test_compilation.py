"""What JAX compiles for a run, and that another process does not compile it again. For the JAX environment."""

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import keras
import pytest

from kerasimg import compile_cache

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone has a cache of what it compiled")


def test_a_second_process_compiles_nothing_again(tiny: Any, images: Any, tmp_path: Path):
    images(tmp_path / "colours", {"red": 12, "green": 12, "blue": 12})
    (tmp_path / "tiny.json").write_text(json.dumps(tiny(fit={"stages": [{"epochs": 2}]})))
    compiled = []
    for _ in range(2):
        command = [sys.executable, "-m", "kerasimg", "train", "tiny.json", "--data", "colours", "--json"]
        environment = {**os.environ, "KERASIMG_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        run = tmp_path / json.loads(done.stdout)["run"]
        compiled.append(json.loads((run / "training.json").read_text())["compiled"])
    cold, warm = compiled
    assert cold["functions"] < 40  # of which the training and validation steps are four
    assert cold["from_cache"] < cold["functions"] / 2
    assert warm["functions"] == cold["functions"]
    assert warm["functions"] - warm["from_cache"] <= 2  # a function that calls back to Python is not stored
    assert warm["seconds"] < cold["seconds"]
    assert list((tmp_path / "cache" / "compiled").iterdir())


def test_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    folder = compile_cache.folder()
    folder.mkdir()
    for number in range(3):
        path = folder / f"{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    monkeypatch.setattr(compile_cache, "LIMIT", 250)
    compile_cache._make_room()
    assert [path.name for path in compile_cache.files()] == ["1-cache", "2-cache"]
    assert compile_cache.remove_older() == [100, 100]
    assert compile_cache.files() == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    folder = compile_cache.folder()
    folder.mkdir()
    compile_cache.remove_damaged()  # from now on
    now = time.time() + 60
    whole = zlib.compress(bytes(range(256)))
    other = compile_cache.ZSTANDARD + b"of another environment"
    written = {
        "whole": (whole, 30),
        "other": (other, 30),
        "half": (whole[:20], 30),
        "empty": (b"", 30),
        "new": (b"", 0),
    }
    for name, (content, age_s) in written.items():
        (folder / f"{name}-cache").write_bytes(content)
        os.utime(folder / f"{name}-cache", (now - age_s, now - age_s))
    monkeypatch.setattr(time, "time", lambda: now)
    compile_cache.remove_damaged()
    assert {path.name for path in compile_cache.files()} == {"whole-cache", "other-cache", "new-cache"}
    monkeypatch.setattr(time, "time", lambda: now + 60)
    compile_cache.remove_damaged()
    assert {path.name for path in compile_cache.files()} == {"whole-cache", "other-cache"}


def test_the_benchmark_for_gpus_runs_on_a_processor(tmp_path: Path):
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--small", "--only", "simple_cnn", "--json", str(tmp_path / "all.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| simple_cnn |" in done.stdout
    figures = json.loads((tmp_path / "all.json").read_text())["cases"]["simple_cnn"]
    assert figures.keys() == {"cold", "warm", "plain"}
    cold, warm = figures["cold"]["compiled"], figures["warm"]["compiled"]
    assert warm["from_cache"] > 0.9 * warm["functions"] > 0.9 * cold["from_cache"]
