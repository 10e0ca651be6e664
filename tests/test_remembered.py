"""Results of this machine in the cache folder."""

import os
from pathlib import Path

import pytest

from kerasimg import remembered


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    return tmp_path / "remembered"


def test_a_result_is_found_by_all_that_it_depends_on():
    about = {"result": "speed", "model": "a", **remembered.circumstances()}
    assert remembered.recall(about) is None
    remembered.remember(about, {"ms": 1.5})
    assert remembered.recall(dict(reversed(about.items()))) == {"ms": 1.5}
    for key in about:
        assert remembered.recall({**about, key: "other"}) is None
    remembered.remember(about, {"ms": 2.5})
    assert remembered.recall(about) == {"ms": 2.5}


def test_a_broken_file_is_no_result(folder: Path):
    remembered.remember({"a": 1}, {"b": 2})
    [file] = folder.iterdir()
    other = file.read_text().replace("2", "3", 1)
    for text in ("", "[1]", "{", "{}", "2", '{"result": {"b": 3}}', other):
        file.write_text(text)
        assert remembered.recall({"a": 1}) is None


def test_the_least_recently_used_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remembered, "MOST", 3)
    for number in range(3):
        remembered.remember({"number": number}, {})
        os.utime(remembered.result_file({"number": number}), (number, number))
    assert remembered.recall({"number": 0}) == {}  # used now
    remembered.remember({"number": 3}, {})
    assert [remembered.recall({"number": number}) is not None for number in range(4)] == [True, False, True, True]
    assert remembered.remove_older(3600) == []
    assert len(remembered.remove_older()) == 3
    assert remembered.remove_older() == []


def test_where_nothing_can_be_written_nothing_is_remembered(folder: Path):
    folder.write_text("a file")
    remembered.remember({"a": 1}, {"b": 2})
    assert remembered.recall({"a": 1}) is None
