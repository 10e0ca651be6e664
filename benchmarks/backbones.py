"""Test accuracy of a linear probe on the backbones of the zoo that have weights offline, paired over seeds.

    pip install "kerasimg[lite]"
    python benchmarks/backbones.py [--seeds 5] [--stamps DIR] [--clipart DIR] [--emoji DIR]

The recipe `transfer` without augmentation: a head on the frozen backbone, whose features are computed once, each
backbone at the image size of its weights. Sets: scikit-learn's digits, and with their folders stamps (Debian package
tuxpaint-stamps-default: usr/share/tuxpaint/stamps), clip art by subject (openclipart-png: usr/share/openclipart/png;
animals, food, transportation) and emoji by category (npm package emoji-datasource-google). For each seed the images are
split again, and every backbone has the same split. The script prints the accuracies, the differences from the first
backbone on the same seed, their mean and its 95 % interval (Student's t over the seeds), and the largest of the CPU
seconds, which a run with features on disk does not need.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import auto
import numpy as np
from transfer_accuracy import interval

import kerasimg

SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""Backbone -> the image size of its weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--emoji", type=Path, nargs=1, help="the folder package/ of the npm package")
    parser.add_argument("--only", nargs="+", help="names of sets")
    parser.add_argument("--backbones", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=1000, help="most images of a set")
    parser.add_argument("--test-split", type=float, default=0.4, help="large, for narrow intervals")
    options = parser.parse_args()
    print("| set | images | backbone | accuracy | minus the first, 95 % | CPU s |\n| --- |" + " ---: |" * 5, flush=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["KERASIMG_CACHE"] = str(work / "cache")
        for data, classes in auto.sets(options, work / "files"):
            if data == "fashion" or (options.only and data not in options.only):
                continue
            count = link(classes, work / data, options.limit)
            accuracy: dict[str, list[float]] = {backbone: [] for backbone in options.backbones}
            for backbone in options.backbones:
                seconds = []
                for seed in range(options.seeds):
                    started = time.process_time()
                    accuracy[backbone].append(probe(work / data, work / "runs", backbone, seed, options))
                    seconds.append(time.process_time() - started)
                mean, low, high = interval(accuracy[backbone], accuracy[options.backbones[0]])
                apart = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if backbone != options.backbones[0] else ""
                cells = [data, f"{count:,}", backbone, f"{np.mean(accuracy[backbone]):.3f}", apart]
                print(f"| {' | '.join([*cells, f'{max(seconds):.0f}'])} |", flush=True)


def link(classes: dict[str, list[Path]], folder: Path, limit: int) -> int:
    """Links at most `limit` images, the same share of each class, into a folder per class; returns their number."""
    share, count = min(1.0, limit / sum(map(len, classes.values()))), 0
    for name, files in classes.items():
        (folder / name).mkdir(parents=True)
        for number in np.random.default_rng(0).permutation(len(files))[: round(len(files) * share)]:
            if auto.readable(files[number]):
                (folder / name / f"{number}.png").symlink_to(files[number].resolve())
                count += 1
    return count


def probe(data: Path, out: Path, backbone: str, seed: int, options: argparse.Namespace) -> float:
    """Returns the test accuracy of a head on a frozen backbone."""
    edits: dict[str, Any] = {"model.base.backbone": f"zoo/{backbone}.json", "augment": [], "fit.views": None}
    edits |= {"fit.features": "cached", "fit.seed": seed, "compile.metrics": ["accuracy"]}
    edits |= {"fit.validation_split": 0.1, "fit.test_split": options.test_split, "expect": {}}
    params = {"size": SIZES[backbone], "epochs": options.epochs}
    run = kerasimg.train(
        "recipes/transfer", data=data, out=out, overrides=edits, params=params, report=False, verbose=0
    )
    return float(run.scores["accuracy"])


if __name__ == "__main__":
    main()
