"""Converts Fashion-MNIST from IDX files to folders of PNG files or an .npz file.

    python benchmarks/fashion_mnist.py folders OUT [--per-class N]
    python benchmarks/fashion_mnist.py npz OUT.npz

The data set that ships was made by `folders kerasimg/data/sample --per-class 200`. The IDX files are those of the
Debian package dataset-fashion-mnist, or are in the folder --idx.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

IDX = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    *("t_shirt_top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
"""Names of the labels 0 to 9."""
FILES = {"train": "train", "test": "t10k"}
"""Part -> how its IDX files begin."""
TEST_SHARE = 4
"""Of --per-class N train images, N / 4 test images."""
SEED = 20170825


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes: two zeros, the type, the number of dimensions, the shape, the values."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes")
    start = 4 + 4 * raw[3]
    return np.frombuffer(raw, np.uint8, offset=start).reshape(np.frombuffer(raw[4:start], ">u4"))


def read_part(idx: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 28, 28) and labels (N,) of "train" or "test"."""
    images = read_idx(idx / f"{FILES[part]}-images-idx3-ubyte.gz")
    return images, read_idx(idx / f"{FILES[part]}-labels-idx1-ubyte.gz")


def draw(labels: np.ndarray, per_class: int | None) -> np.ndarray:
    """Returns sorted indices of `per_class` random images of each class; None: of all."""
    if per_class is None:
        return np.arange(len(labels))
    random = np.random.default_rng(SEED)
    groups = [np.flatnonzero(labels == label) for label in range(len(CLASSES))]
    return np.sort(np.concatenate([random.choice(group, per_class, replace=False) for group in groups]))


def write_folders(idx: Path, out: Path, per_class: int | None) -> int:
    """Writes out/<part>/<class>/<original index>.png; returns the number of images."""
    written = 0
    for part in FILES:
        images, labels = read_part(idx, part)
        wanted = per_class if part == "train" or per_class is None else per_class // TEST_SHARE
        for index in draw(labels, wanted):
            path = out / part / CLASSES[labels[index]] / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path, optimize=True)
            written += 1
    return written


def write_npz(idx: Path, out: Path) -> int:
    """Writes x_train, y_train, x_test and y_test, named as in keras.datasets; returns the number of images."""
    parts = {part: read_part(idx, part) for part in FILES}
    arrays = {f"{axis}_{part}": array for part, pair in parts.items() for axis, array in zip("xy", pair, strict=True)}
    np.savez_compressed(out, **arrays)
    return sum(len(labels) for _, labels in parts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["folders", "npz"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, help="train images of each class; default: all")
    parser.add_argument("--idx", type=Path, default=IDX, help=f"folder of the IDX files (default: {IDX})")
    options = parser.parse_args()
    if options.form == "npz":
        written = write_npz(options.idx, options.out)
    else:
        written = write_folders(options.idx, options.out, options.per_class)
    print(f"{written:,} images in {options.out}")


if __name__ == "__main__":
    main()
