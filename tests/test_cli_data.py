"""`kerasimg data bench`, `kerasimg data preview` and `kerasimg cache`, as a user types them."""

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from kerasimg import cli
from kerasimg.data import cache_files
from kerasimg.data.cache import Cache
from kerasimg.data.loading import Loader
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    return tmp_path / "images"


@pytest.fixture
def cached(own_folder: Path) -> Path:
    """A file of five decoded images."""
    source = open_source(
        (np.zeros((5, 8, 8, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None], range(5))
    )
    Loader(source, np.arange(5), Image(size=[6, 4]), Cache("disk")).load(np.arange(5))
    (path,) = own_folder.rglob("*.images")
    return path


def test_cached_files_are_listed(cached: Path, own_folder: Path):
    output = invoke("cache", "list").output
    assert f"{cached.parent.name}/{cached.name}" in output
    assert "5 of 5 images  used 0 m ago  6x4 stretch, exact" in output
    result = json.loads(invoke("cache", "list", "--json").output)
    assert result["folder"] == str(own_folder)
    assert [row["images"] for row in result["files"]] == [5]
    assert invoke("cache", "path").stdout == f"{own_folder}\n"


def test_cached_files_are_removed_once_they_are_old_enough(cached: Path):
    assert invoke("cache", "remove", "--older-than", "30d").output.splitlines()[0] == "removed 0 files, 0 bytes"
    os.utime(cached, (cached.stat().st_mtime - 31 * 86_400,) * 2)
    result = json.loads(invoke("cache", "remove", "--older-than", "30d", "--json").output)
    assert result["removed"] == 1
    assert not cached.exists()
    assert invoke("cache", "remove").output.splitlines()[0] == "removed 0 files, 0 bytes"


def test_the_index_and_the_ledger_are_listed_and_removed(own_folder: Path):
    root = own_folder.parent
    for name, size in (("index/a.listing", 1500), ("ledger/1.ledger", 300), ("ledger/2.ledger", 100)):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(bytes(size))
    output = invoke("cache", "list").output
    assert f"1.5 kB in 1 file of the index, in {root / 'index'}" in output
    result = json.loads(invoke("cache", "list", "--json").output)
    assert result["notes"] == {"index": {"files": 1, "bytes": 1500}, "ledger": {"files": 2, "bytes": 400}}
    assert invoke("cache", "remove", "--older-than", "1h").output.splitlines()[0] == "removed 0 files, 0 bytes"
    assert json.loads(invoke("cache", "remove", "--json").output) == {"removed": 3, "bytes": 1900}
    assert not (root / "ledger").exists()


def test_an_invalid_age_is_refused(own_folder: Path):
    outcome = invoke("cache", "remove", "--older-than", "old")
    assert isinstance(outcome.exception, CallError)
    assert str(outcome.exception) == "--older-than: expected an age like 12h, 30d or 4w, got 'old'"


def test_an_empty_cache_gives_an_empty_list(own_folder: Path):
    assert invoke("cache", "list").output.startswith("0 bytes of ")
    assert cache_files.files(own_folder) == []


def test_bench_names_the_bottleneck_and_preview_draws_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from kerasimg.data import bench

    monkeypatch.setattr(bench, "LEAST_S", 0.02)
    output = invoke("data", "bench", "simple_cnn", "--data", "sample", "--images", "40").output
    assert output.startswith("40 of 2,500 images to 64x64, ")
    assert "\nbounded by: " in output
    result = json.loads(invoke("data", "bench", "simple_cnn", "--data", "sample", "--images", "40", "--json").output)
    assert set(result["parts"]) == {"read", "decode", "resize", "augment", "copy"}
    sheet = tmp_path / "sheet.png"
    outcome = invoke("data", "preview", "simple_cnn", "--data", "sample", "--out", sheet, "--rows", "2", "--draws", "1")
    with PIL.Image.open(sheet) as written:
        assert outcome.output.startswith(f"{sheet}: {written.width} x {written.height}")
