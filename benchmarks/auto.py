"""`kerasimg auto` against `kerasimg train recipes/transfer` on real sets: test accuracy, paired, and seconds.

    python benchmarks/auto.py --minutes 2 10 --seeds 3 [--clipart DIR] [--stamps DIR] [--limit 2500]

Sets: the sample of Fashion-MNIST that ships, scikit-learn's digits, and with their folders clip art by subject (Debian
package openclipart-png: usr/share/openclipart/png; animals, food, transportation) and stamps (tuxpaint-stamps-default:
usr/share/tuxpaint/stamps; folders with 20 images or more). For each seed the images are split again, a quarter for the
test. Both commands run as processes of their own, each with an empty cache, on the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits

import kerasimg

SUBJECTS = ("animals", "food", "transportation")
FEWEST = 20
"""Images of a class of stamps, at least."""


def main() -> None:
    """Runs both commands on each set, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 10.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--limit", type=int, default=2500, help="most images of a set")
    parser.add_argument("--only", nargs="+", help="names of sets")
    parser.add_argument("--keep", type=Path, help="store the runs here")
    options = parser.parse_args()
    columns = (
        "set",
        "seed",
        "minutes",
        "images",
        "transfer",
        "auto",
        "difference, 95 %",
        "step",
        "seconds",
        "transfer, s",
    )
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        work = options.keep or Path(name)
        for data_name, files in sets(options, work):
            if options.only and data_name not in options.only:
                continue
            for seed in range(options.seeds):
                data = work / f"{data_name}-{seed}"
                count = split(files, data, seed, options.limit)
                recipe, recipe_s = run(["train", "recipes/transfer", "--data", str(data)], work)
                for minutes in options.minutes:
                    auto, auto_s = run(["auto", str(data), "--minutes", f"{minutes:g}"], work)
                    row = compared(Path(recipe["run"]), kerasimg.Auto(auto["folder"]))
                    cells = [data_name, seed, f"{minutes:g}", f"{count:,}", *row, f"{auto_s:.0f}", f"{recipe_s:.0f}"]
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def sets(options: argparse.Namespace, work: Path) -> list[tuple[str, dict[str, list[Path]]]]:
    """Returns each set: name, and the images of each class."""
    sample = Path(kerasimg.__file__).parent / "data" / "sample"
    found = [("fashion", by_class([folder for part in ("train", "test") for folder in (sample / part).iterdir()]))]
    digits, target = load_digits(return_X_y=True)
    folder = work / "digits"
    for number, (row, label) in enumerate(zip(digits, target, strict=True)):
        (folder / f"d{label}").mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8)).save(folder / f"d{label}" / f"{number}.png")
    found.append(("digits", by_class(list(folder.iterdir()))))
    if options.clipart:
        found.append(("clipart", by_class([options.clipart / subject for subject in SUBJECTS])))
    if options.stamps:
        stamps = by_class([path for path in options.stamps.iterdir() if path.is_dir()])
        found.append(("stamps", {name: files for name, files in stamps.items() if len(files) >= FEWEST}))
    return found


def by_class(folders: list[Path]) -> dict[str, list[Path]]:
    """Returns the images below each folder, by its name."""
    classes: dict[str, list[Path]] = {}
    for folder in sorted(folders):
        classes.setdefault(folder.name, []).extend(sorted(folder.rglob("*.png")))
    return classes


def split(classes: dict[str, list[Path]], data: Path, seed: int, limit: int) -> int:
    """Links at most `limit` images into train/ and test/; returns their number."""
    draw, count = np.random.default_rng(seed), 0
    share = min(1.0, limit / sum(map(len, classes.values())))
    for name, files in classes.items():
        order = draw.permutation(len(files))[: int(len(files) * share)]
        for place, number in enumerate(order):
            target = data / ("test" if place < len(order) / 4 else "train") / name / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            if readable(files[number]):
                shutil.copyfile(files[number], target)
                count += 1
    return count


def readable(file: Path) -> bool:
    """Whether an image has less than 20 million pixels; one drawing has 623 million."""
    PIL.Image.MAX_IMAGE_PIXELS = None
    with PIL.Image.open(file) as image:
        return image.width * image.height < 20_000_000


def run(arguments: list[str], out: Path) -> tuple[dict[str, Any], float]:
    """Returns the answer of a command and its seconds."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.monotonic()
        command = [sys.executable, "-m", "kerasimg", *arguments, "--out", str(out / "runs"), "--json"]
        command += ["--on-bad-image", "skip"]
        answer = subprocess.run(
            command, env={**os.environ, "KERASIMG_CACHE": cache}, stdout=subprocess.PIPE, check=True
        )
        seconds = time.monotonic() - started
    content = json.loads(answer.stdout)
    return content, seconds


def compared(recipe: Path, auto: kerasimg.Auto) -> list[str]:
    """Returns the test accuracy of both, the paired difference with its interval, and the step that won."""
    comparison = kerasimg.compare(recipe, auto.run).to_dict()
    (other,) = comparison["against_first"]
    difference = other["differences"]["accuracy"]
    low, high = difference["interval"] or [difference["difference"]] * 2
    scores = [kerasimg.Run(recipe).scores.accuracy, auto.run.scores.accuracy]
    shown = f"{difference['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return [f"{scores[0]:.3f}", f"{scores[1]:.3f}", shown, auto.result["step"]]


if __name__ == "__main__":
    main()
