"""`kerasimg data bench`, `data preview` and `cache`, as a user types them."""

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


def say(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    return tmp_path / "images"


@pytest.fixture
def kept(own_folder: Path) -> Path:
    """A file of five decoded images."""
    source = open_source(
        (np.zeros((5, 8, 8, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None], range(5))
    )
    Loader(source, np.arange(5), Image(size=[6, 4]), Cache("disk")).load(np.arange(5))
    (path,) = own_folder.rglob("*.images")
    return path


def test_what_is_kept_is_listed(kept: Path, own_folder: Path):
    told = say("cache", "list").output
    assert f"{kept.parent.name}/{kept.name}" in told
    assert "5 of 5 images  used 0 m ago  6x4 stretch, exact" in told
    found = json.loads(say("cache", "list", "--json").output)
    assert found["folder"] == str(own_folder)
    assert [row["images"] for row in found["files"]] == [5]
    assert say("cache", "path").stdout == f"{own_folder}\n"


def test_what_is_kept_is_removed_when_it_is_old_enough(kept: Path):
    assert say("cache", "remove", "--older-than", "30d").output.splitlines()[0] == "removed 0 files, 0 MB"
    os.utime(kept, (kept.stat().st_mtime - 31 * 86_400,) * 2)
    found = json.loads(say("cache", "remove", "--older-than", "30d", "--json").output)
    assert found["removed"] == 1
    assert not kept.exists()
    assert say("cache", "remove").output.splitlines()[0] == "removed 0 files, 0 MB"


def test_the_index_and_the_ledger_are_listed_and_removed(own_folder: Path):
    root = own_folder.parent
    for name, size in (("index/a.listing", 1500), ("ledger/1.ledger", 300), ("ledger/2.ledger", 100)):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(bytes(size))
    told = say("cache", "list").output
    assert f"0.0 MB in 1 files of the index, in {root / 'index'}" in told
    found = json.loads(say("cache", "list", "--json").output)
    assert found["notes"] == {"index": {"files": 1, "bytes": 1500}, "ledger": {"files": 2, "bytes": 400}}
    assert say("cache", "remove", "--older-than", "1h").output.splitlines()[0] == "removed 0 files, 0 MB"
    assert json.loads(say("cache", "remove", "--json").output) == {"removed": 3, "bytes": 1900}
    assert not (root / "ledger").exists()


def test_an_age_that_is_none_is_a_wrong_call(own_folder: Path):
    said = say("cache", "remove", "--older-than", "old")
    assert isinstance(said.exception, CallError)
    assert str(said.exception) == "--older-than: expected an age like 12h, 30d or 4w, got 'old'"


def test_nothing_kept_is_an_empty_list(own_folder: Path):
    assert say("cache", "list").output.startswith("0.0 of ")
    assert cache_files.files(own_folder) == []


def test_a_bench_says_what_bounds_and_a_preview_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from kerasimg.data import bench

    monkeypatch.setattr(bench, "LEAST_S", 0.02)
    told = say("data", "bench", "simple_cnn", "--data", "sample", "--images", "40").output
    assert told.startswith("40 of 2,500 images to 64x64, ")
    assert "\nbounded by: " in told
    found = json.loads(say("data", "bench", "simple_cnn", "--data", "sample", "--images", "40", "--json").output)
    assert set(found["parts"]) == {"read", "decode", "resize", "augment", "copy"}
    sheet = tmp_path / "sheet.png"
    said = say("data", "preview", "simple_cnn", "--data", "sample", "--out", sheet, "--rows", "2", "--draws", "1")
    with PIL.Image.open(sheet) as written:
        assert said.output.startswith(f"{sheet}: {written.width} x {written.height}")
