"""`kerasimg auto` against `kerasimg train recipes/transfer` on real sets: test accuracy, paired, and seconds.

    python benchmarks/auto.py --minutes 2 10 --seeds 3 [--clipart DIR] [--stamps DIR] [--emoji DIR DIR] [--cores 0 1]

Sets: the sample of Fashion-MNIST that ships, scikit-learn's digits, and with their folders clip art by subject (Debian
package openclipart-png: usr/share/openclipart/png; animals, food, transportation), stamps (tuxpaint-stamps-default:
usr/share/tuxpaint/stamps; folders with 20 images or more) and emoji by category (npm packages emoji-datasource-google
and emoji-datasource-twitter). For each seed the images are split again, a quarter for the test; the emoji of the test
are those that Twitter drew. Both commands run as processes of their own, each with an empty cache, on the same images.
With `--cores`, each split runs on one of these cores, so that several run at once.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits

import kerasimg

SUBJECTS = ("animals", "food", "transportation")
SKIPPED = ("Component",)
"""Category of five parts of emoji."""
FEWEST = 20
"""Images of a class of stamps, at least."""


def main() -> None:
    """Runs both commands on each set, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 10.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--emoji", type=Path, nargs=2, help="the folders package/ of Google's and of Twitter's emoji")
    parser.add_argument("--cores", type=int, nargs="+", help="numbers of cores: one split at a time on each (Linux)")
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
    cores: SimpleQueue[int | None] = SimpleQueue()
    for core in options.cores or [None]:
        cores.put(core)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(cores.qsize()) as pool:
        work = options.keep or Path(name)
        chosen = [item for item in sets(options, work) if not options.only or item[0] in options.only]
        rows = [
            pool.submit(measure, *item, seed, options, work, cores) for seed in range(options.seeds) for item in chosen
        ]
        try:
            for row in as_completed(rows):
                row.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a row that is missing is not noticed an hour later
            raise


def measure(
    name: str,
    files: dict[str, list[Path]],
    seed: int,
    options: argparse.Namespace,
    work: Path,
    cores: SimpleQueue[int | None],
) -> None:
    """Runs both commands on one split of a set, on a free core, and prints a row for each budget."""
    core = cores.get()
    try:
        data = work / f"{name}-{seed}"
        count = split(files, data, seed, options)
        recipe, recipe_s = run(["train", "recipes/transfer", "--data", str(data)], work, core)
        for minutes in options.minutes:
            auto, auto_s = run(["auto", str(data), "--minutes", f"{minutes:g}"], work, core)
            row = compared(Path(recipe["run"]), kerasimg.Auto(auto["folder"]))
            cells = [name, seed, f"{minutes:g}", f"{count:,}", *row, f"{auto_s:.0f}", f"{recipe_s:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    finally:
        cores.put(core)


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
    if options.emoji:
        emoji: dict[str, list[Path]] = {}
        for row in json.loads((options.emoji[0] / "emoji.json").read_text(encoding="utf-8")):
            if row["has_img_google"] and row["has_img_twitter"] and row["category"] not in SKIPPED:
                file = options.emoji[0] / "img" / "google" / "64" / row["image"]
                emoji.setdefault(row["category"], []).append(file)
        found.append(("emoji", emoji))
    return found


def by_class(folders: list[Path]) -> dict[str, list[Path]]:
    """Returns the images below each folder, by its name."""
    classes: dict[str, list[Path]] = {}
    for folder in sorted(folders):
        classes.setdefault(folder.name, []).extend(sorted(folder.rglob("*.png")))
    return classes


def split(classes: dict[str, list[Path]], data: Path, seed: int, options: argparse.Namespace) -> int:
    """Copies at most `limit` images into train/ and test/; returns their number."""
    draw, count = np.random.default_rng(seed), 0
    share = min(1.0, options.limit / sum(map(len, classes.values())))
    for name, files in classes.items():
        order = draw.permutation(len(files))[: int(len(files) * share)]
        for place, number in enumerate(order):
            file, part = files[number], "test" if place < len(order) / 4 else "train"
            if part == "test" and options.emoji and file.is_relative_to(options.emoji[0]):
                file = options.emoji[1] / "img" / "twitter" / "64" / file.name
            target = data / part / name / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            if readable(file):
                shutil.copyfile(file, target)
                count += 1
    return count


def readable(file: Path) -> bool:
    """Whether an image has less than 20 million pixels; one drawing has 623 million."""
    PIL.Image.MAX_IMAGE_PIXELS = None
    with PIL.Image.open(file) as image:
        return image.width * image.height < 20_000_000


def run(arguments: list[str], out: Path, core: int | None) -> tuple[dict[str, Any], float]:
    """Returns the answer of a command, and the seconds that it took on this core (None: on all)."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.monotonic()
        command = [sys.executable, "-m", "kerasimg", *arguments, "--out", str(out / "runs"), "--json"]
        command += ["--on-bad-image", "skip"]
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
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
