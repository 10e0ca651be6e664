"""The script that makes the data set that ships, on IDX files of its own."""

import gzip
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fashion_mnist.py"
IMAGES = np.random.default_rng(1).integers(0, 256, (80, 28, 28), dtype=np.uint8)
LABELS = np.arange(80, dtype=np.uint8) % 10


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_folders_hold_the_drawn_images_under_their_number(idx: Path, tmp_path: Path, monkeypatch):
    run(monkeypatch, "folders", tmp_path / "out", "--per-class", 4, "--idx", idx)
    files = sorted((tmp_path / "out").glob("*/*/*.png"))
    assert len([path for path in files if path.parts[-3] == "train"]) == 40
    assert len([path for path in files if path.parts[-3] == "test"]) == 10
    for path in files:
        assert np.array_equal(PIL.Image.open(path), IMAGES[int(path.stem)])
    assert {int(path.stem) % 10 for path in files if path.parent.name == "ankle_boot"} == {9}
    run(monkeypatch, "folders", tmp_path / "again", "--per-class", 4, "--idx", idx)
    again = sorted((tmp_path / "again").glob("*/*/*.png"))
    assert [path.relative_to(tmp_path / "again") for path in again] == [
        path.relative_to(tmp_path / "out") for path in files
    ]


def test_an_npz_file_holds_all_images(idx: Path, tmp_path: Path, monkeypatch):
    run(monkeypatch, "npz", tmp_path / "all.npz", "--idx", idx)
    with np.load(tmp_path / "all.npz") as arrays:
        assert np.array_equal(arrays["x_test"], IMAGES)
        assert np.array_equal(arrays["y_train"], LABELS)
