"""Start-up time, memory and shuffling for a folder of 200,000 (or a million) images.

    python benchmarks/many_files.py [--images 200000] [--classes 1000] [--epochs 2] [--work FOLDER]

The images are links to 32 small JPEGs, in a folder per class. Each start is a separate process: the first has an empty
cache and lists the folders, the second uses the cached listings; medians of three each. An epoch is read through
`batches`; sample weights identify the image at each position.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

FEW = 32
STARTS = 3
SETTLE_S = 4
"""Folders that were changed within the last 3 seconds are listed again."""


def make(root: Path, images: int, classes: int) -> None:
    few = root.parent / "few"
    few.mkdir(parents=True, exist_ok=True)
    for number in range(FEW):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((32, 32)).save(few / f"{number}.jpg")
    for name in range(classes):
        folder = root / f"n{name:08}"
        folder.mkdir(parents=True)
        for number in range(name, images, classes):
            os.symlink(few / f"{number % FEW}.jpg", folder / f"n{name:08}_{number:07}.JPEG")


def resident() -> float:
    """Returns the current memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak() -> float:
    """Returns the peak memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def start(root: str) -> dict[str, float]:
    """Measures seconds and megabytes of a start in this process."""
    from kerasimg.data.sources import open_source
    from kerasimg.data.split import split

    before = resident()
    began = time.perf_counter()
    source = open_source(root)
    opened = time.perf_counter()
    parts = split(source)
    drawn = time.perf_counter()
    labels = source.label_ids(parts["train"])
    labelled = time.perf_counter()
    found = {"open, s": opened - began, "split, s": drawn - opened, "labels, s": labelled - drawn}
    found |= {"memory, MB": resident() - before, "peak memory, MB": peak() - before}
    began = time.perf_counter()
    keys = source.keys()
    found["content keys, s"] = time.perf_counter() - began
    if len(labels) != len(parts["train"]) or len(np.unique(keys)) != len(source):
        raise SystemExit("not every image has a label and a key of its own")
    return found


def shuffling(root: str, epochs: int) -> dict[str, float]:
    """Compares the order of each epoch with that of the folder and of the previous epoch."""
    from kerasimg.data.pipeline import batches
    from kerasimg.data.sources import open_source
    from kerasimg.spec.document import Image

    source = open_source(root)
    count = len(source)
    dataset = batches(
        source,
        np.arange(count),
        Image(size=[8, 8]),
        batch_size=500,
        shuffle=True,
        seed=1,
        sample_weight=np.arange(count, dtype=np.float32),
        cache="off",
        exact=False,
        epochs=epochs,
    )
    first = next(iter(dataset.take(1)))
    before, began = resident(), time.perf_counter()
    order = np.concatenate([weights.numpy() for _, _, weights in dataset]).astype(np.int64).reshape(epochs, count)
    seconds = time.perf_counter() - began
    places = np.arange(count)
    labels = source.label_ids(order[0]).reshape(-1, 500) if count % 500 == 0 else None
    found = {
        "images repeated or left out in an epoch": float(sum(count - len(np.unique(epoch)) for epoch in order)),
        "rank correlation with the folder's order": float(np.corrcoef(places, order[0])[0, 1]),
        "the same, expected of chance (1 sd)": 1 / np.sqrt(count - 1),
        "mean displacement, / n": float(np.abs(order[0] - places).mean() / count),
        "the same, expected (1/3)": (count * count - 1) / (3 * count) / count,
        "neighbours in the folder that are neighbours (2 expected)": float((np.abs(np.diff(order[0])) == 1).sum()),
        "memory grown within the epochs, MB": resident() - before,
        "images a second": epochs * count / seconds,
    }
    if labels is not None:
        found["classes in a batch of 500, mean"] = float(np.mean([len(np.unique(row)) for row in labels]))
        kinds = len(source.classes)
        found["the same, expected"] = kinds * (1 - (1 - 1 / kinds) ** 500)
    if epochs > 1:
        found["rank correlation of two epochs"] = float(np.corrcoef(np.argsort(order[0]), np.argsort(order[1]))[0, 1])
        found["images in the same place in two epochs (1 expected)"] = float((order[0] == order[1]).sum())
    if first[0].shape[0] != 500:
        raise SystemExit("a batch is short")
    return found


def in_a_process(command: str, root: Path, cache: Path, *more: str) -> dict[str, float]:
    environment = os.environ | {"KERASIMG_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = [sys.executable, __file__, "--run", command, "--root", str(root), *more]
    done = subprocess.run(arguments, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in found])) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs whose order is measured")
    parser.add_argument("--work", type=Path, help="folder for the images; default: a temporary one")
    parser.add_argument("--run", choices=["start", "shuffling"], help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        found = start(options.root) if options.run == "start" else shuffling(options.root, options.epochs)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        root = work / f"{options.images}"
        if not root.exists():
            make(root, options.images, options.classes)
            time.sleep(SETTLE_S)
        caches = [Path(temporary) / f"cache{number}" for number in range(STARTS)]
        starts = {
            name: median([in_a_process("start", root, cache) for cache in caches])
            for name in ("first start", "second start")
        }
        cache = caches[0]
        print(f"{options.images:,} images in {options.classes:,} folders\n\n| | first start | second start |")
        print("| --- | ---: | ---: |")
        for name in starts["first start"]:
            print(f"| {name} | " + " | ".join(f"{found[name]:.2f}" for found in starts.values()) + " |")
        index_mb = sum(path.stat().st_size for path in (cache / "index").iterdir()) / 1e6
        print(f"| index on disk, MB | | {index_mb:.1f} |")
        if options.epochs:
            print("\n| shuffling | |\n| --- | ---: |")
            for name, value in in_a_process("shuffling", root, cache, "--epochs", str(options.epochs)).items():
                print(f"| {name} | {value:.6g} |")


if __name__ == "__main__":
    main()
