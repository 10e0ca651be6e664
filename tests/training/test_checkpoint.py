import json
from pathlib import Path

import numpy as np
import pytest

from kerasimg.errors import KerasimgError
from kerasimg.files import replacing
from kerasimg.training import checkpoint

ARRAYS = {
    "matrix": np.arange(6, dtype="float32").reshape(2, 3).T,
    "scalar": np.array(7, dtype="int64"),
    "empty": np.zeros((0, 3), "uint32"),
    "flags": np.array([True, False]),
}


def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path):
    checkpoint.write(tmp_path / "new" / "one.ckpt", {"epoch": 3, "loss": float("inf")}, ARRAYS)
    found = checkpoint.read(tmp_path / "new" / "one.ckpt")
    assert found is not None
    assert found.facts == {"epoch": 3, "loss": float("inf")} == checkpoint.read_facts(tmp_path / "new" / "one.ckpt")
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found.arrays[name], array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one.ckpt"]


def test_there_may_be_none(tmp_path: Path):
    assert checkpoint.read(tmp_path / "one.ckpt") is None
    assert checkpoint.read_facts(tmp_path / "one.ckpt") is None


@pytest.mark.parametrize("cut", [0, 10, 60, -1])
def test_a_damaged_one_is_refused(tmp_path: Path, cut: int):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {}, ARRAYS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(KerasimgError, match=r"one\.ckpt is damaged, or of another version of kerasimg; remove it"):
        checkpoint.read(path)


def test_a_changed_bit_is_noticed(tmp_path: Path):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {}, ARRAYS)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(KerasimgError, match="damaged"):
        checkpoint.read(path)


def test_the_one_before_stays_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {"epoch": 1}, ARRAYS)
    (tmp_path / ".partial-one.ckpt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"epoch": 2}, ARRAYS)
    assert checkpoint.read_facts(path) == {"epoch": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["one.ckpt"]


def test_what_replaces_a_file_is_gone_when_it_fails(tmp_path: Path):
    (tmp_path / "facts.json").write_text("{}")

    def fail() -> None:
        with replacing(tmp_path / "facts.json") as partial:
            partial.write_text("[")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert json.loads((tmp_path / "facts.json").read_text()) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
