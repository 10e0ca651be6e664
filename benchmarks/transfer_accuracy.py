"""Test accuracy of training on cached and fresh features against training the whole model, paired over seeds.

    python benchmarks/transfer_accuracy.py FOLDER --weights mobilenet_v2.weights.h5 [--size 96] [--epochs 5] [--seeds 5]

FOLDER has a folder per class. For each seed (split, initial weights, order, augmentation) the same spec, a frozen
MobileNetV2 under a new head as in `zoo/mobilenet.json`, is trained in five ways:

    whole           the whole model, no augmentation        cached           the same from cached features
    whole, aug.     the whole model, fresh augmentation     fresh, aug.      the same through the engine
                                                            2 views          from cached features of two views

The script prints the test accuracies, the differences of each from the whole model on the same seed, their mean and its
95 % interval (Student's t over the seeds).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.stats import t as student

import kerasimg

AUGMENT = [
    {"layer": "RandomFlip", "mode": "horizontal"},
    {"layer": "RandomRotation", "factor": 0.055},
    {"layer": "RandomTranslation", "height_factor": 0.2, "width_factor": 0.2},
]
WAYS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "whole": (None, {"augment": [], "fit.features": "off"}),
    "cached": ("whole", {"augment": [], "fit.features": "cached"}),
    "whole, aug.": (None, {"augment": AUGMENT, "fit.features": "off"}),
    "fresh, aug.": ("whole, aug.", {"augment": AUGMENT, "fit.features": "fresh"}),
    "2 views": ("whole, aug.", {"augment": AUGMENT, "fit.features": "cached", "fit.views": 2}),
}
"""Name -> the way it is compared with, and the edits of the spec."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-split", type=float, default=0.5, help="large, for narrow intervals")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    accuracy: dict[str, list[float]] = {way: [] for way in chosen.ways}
    seconds: dict[str, list[float]] = {way: [] for way in chosen.ways}
    with tempfile.TemporaryDirectory() as runs:
        for seed in range(chosen.seeds):
            for way in chosen.ways:
                edits: dict[str, Any] = {
                    "fit.seed": seed,
                    "fit.stages": [{"epochs": chosen.epochs}],
                    "compile.metrics": ["accuracy"],
                }
                edits |= {"fit.validation_split": 0.05, "fit.test_split": chosen.test_split}
                started = time.perf_counter()
                run = kerasimg.train(
                    "zoo/mobilenet.json",
                    data=chosen.folder,
                    out=runs,
                    weights=chosen.weights,
                    overrides={**edits, **WAYS[way][1]},
                    size=chosen.size,
                    verbose=0,
                )
                seconds[way].append(time.perf_counter() - started)
                accuracy[way].append(run.scores["accuracy"])
                images = run.scores["n"]
                print(f"seed {seed}  {way:12} {accuracy[way][-1]:.4f}  {seconds[way][-1]:.0f} s", flush=True)
    print(f"\n{images} test images, {chosen.epochs} epochs at {chosen.size} pixels, {chosen.seeds} seeds")
    for way in chosen.ways:
        line = f"{way:12} {np.mean(accuracy[way]):.4f}"
        if (other := WAYS[way][0]) in chosen.ways:
            line += "  minus {:12} {:+.4f} [{:+.4f}, {:+.4f}]".format(other, *interval(accuracy[way], accuracy[other]))
        print(line)
    if chosen.json:
        chosen.json.write_text(json.dumps({"accuracy": accuracy, "seconds": seconds}, indent=2) + "\n")


def interval(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Returns the mean of the paired differences, and its 95 % interval."""
    differences = np.subtract(one, other)
    count = len(differences)
    if count < 2:
        return float(differences.mean()), float("nan"), float("nan")
    half = student.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half)


if __name__ == "__main__":
    main()
