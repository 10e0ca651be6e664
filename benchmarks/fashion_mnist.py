"""Fashion-MNIST from its IDX files, as folders of PNG or as an .npz file.

    python benchmarks/fashion_mnist.py folders OUT [--per-class N]
    python benchmarks/fashion_mnist.py npz OUT.npz

The data set that ships was made by `folders kerasimg/data/sample --per-class 200`. The IDX files are those of the
Debian package dataset-fashion-mnist, or stand in the folder that --idx names.
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
    """The array in a gzipped IDX file of bytes: two zeros, the type, the number of sizes, the sizes, the values."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes")
    start = 4 + 4 * raw[3]
    return np.frombuffer(raw, np.uint8, offset=start).reshape(np.frombuffer(raw[4:start], ">u4"))


def read_part(idx: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of "train" or "test"."""
    images = read_idx(idx / f"{FILES[part]}-images-idx3-ubyte.gz")
    return images, read_idx(idx / f"{FILES[part]}-labels-idx1-ubyte.gz")


def draw(labels: np.ndarray, per_class: int | None) -> np.ndarray:
    """Indices of `per_class` images of each class, drawn by SEED, ascending; None: of all."""
    if per_class is None:
        return np.arange(len(labels))
    random = np.random.default_rng(SEED)
    groups = [np.flatnonzero(labels == label) for label in range(len(CLASSES))]
    return np.sort(np.concatenate([random.choice(group, per_class, replace=False) for group in groups]))


def write_folders(idx: Path, out: Path, per_class: int | None) -> int:
    """Write out/<part>/<class>/<index in the original>.png; returns how many."""
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
    """Write x_train, y_train, x_test and y_test, as Keras' data sets call them; returns how many images."""
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
    given = parser.parse_args()
    if given.form == "npz":
        written = write_npz(given.idx, given.out)
    else:
        written = write_folders(given.idx, given.out, given.per_class)
    print(f"{written:,} images in {given.out}")


if __name__ == "__main__":
    main()
