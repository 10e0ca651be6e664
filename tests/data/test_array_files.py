import os
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.array_files import load_arrays, remove_oldest, save_arrays

ARRAYS = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "none": np.empty((0, 4)), "s": np.array([b"x", b"yz"], "S4")}


def test_arrays_are_read_as_they_were_written(tmp_path: Path):
    path = tmp_path / "deep" / "file"
    assert save_arrays(path, "kind", ARRAYS)
    found = load_arrays(path, "kind")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert not found["a"].flags.writeable
    assert os.listdir(path.parent) == ["file"]


def test_nothing_at_all_can_be_kept(tmp_path: Path):
    assert save_arrays(tmp_path / "file", "kind", {})
    assert load_arrays(tmp_path / "file", "kind") == {}


def test_a_file_that_is_not_there_is_none(tmp_path: Path):
    assert load_arrays(tmp_path / "file", "kind") is None


@pytest.mark.parametrize("place", [0, 5, 20, 60, -30, -1])
def test_a_file_with_one_bit_wrong_is_dropped(tmp_path: Path, place: int):
    path = tmp_path / "file"
    save_arrays(path, "kind", ARRAYS)
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1
    path.write_bytes(whole)
    assert load_arrays(path, "kind") is None
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 3, 16, 40, -1])
def test_a_file_that_is_cut_short_is_dropped(tmp_path: Path, length: int):
    path = tmp_path / "file"
    save_arrays(path, "kind", ARRAYS)
    path.write_bytes(path.read_bytes()[:length])
    assert load_arrays(path, "kind") is None


def test_a_file_of_another_kind_is_dropped(tmp_path: Path):
    save_arrays(tmp_path / "file", "kind", ARRAYS)
    assert load_arrays(tmp_path / "file", "other kind") is None


def test_python_objects_are_neither_written_nor_read(tmp_path: Path):
    path = tmp_path / "file"
    save_arrays(path, "kind", {"a": np.zeros(1, "S1")})
    path.write_bytes(path.read_bytes().replace(b'"|S1"', b'"|O8"'))
    assert load_arrays(path, "kind") is None


def test_what_cannot_be_written_is_not_kept(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert not save_arrays(tmp_path / "file" / "below", "kind", ARRAYS)


def test_the_files_that_were_written_longest_ago_are_removed(tmp_path: Path):
    for number in range(5):
        (tmp_path / f"{number}.x").write_text("")
        os.utime(tmp_path / f"{number}.x", ns=(0, (10 - number) * 10**9))
    (tmp_path / "other").write_text("")
    remove_oldest(tmp_path, "*.x", 2)
    assert sorted(os.listdir(tmp_path)) == ["0.x", "1.x", "other"]
