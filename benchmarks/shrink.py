"""`kerasimg.shrink` on trained runs: from float32 to a fifth of the bytes and half of the time, within one point.

    python benchmarks/shrink.py RUN [RUN ...] [--to litert] [--epochs 5] [--rounds 20]

Each run is exported in float32; a fifth of its bytes is the limit for `shrink`. Then the float32 model and the chosen
one are loaded at once and called in turn, one image at a time, and decide the run's test images. The script prints the
ladder, and for each run one row before and one after: bytes, median time of one image, accuracy, the paired 95 %
interval of the accuracy that was lost, the share of images that are decided alike, and whether the limits were met.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import kerasimg
from kerasimg.deploy.shrink import Shrunk, as_lines
from kerasimg.deploy.targets import open_runtime
from kerasimg.errors import GateError

BYTES, TIME, DROP = 1 / 5, 1 / 2, 0.01
"""Limits: shares of the bytes and the time in float32, and the loss of accuracy."""
CALLS = 20
"""Calls with one image in a round."""
HEADER = (
    "| run | bytes | p50, ms | accuracy | drop, 95 % interval | decided alike | a fifth, half, within a point |",
    "| --- | ---: | ---: | ---: | --- | ---: | --- |",
)


def timed(models: list[Any], shape: tuple[int, ...], rounds: int) -> list[list[float]]:
    """Returns the median seconds of a call in each round, for each model; the models take turns."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    medians: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, found in zip(models, medians, strict=True):
            model(pixels)
            calls = []
            for _ in range(CALLS):
                started = time.perf_counter()
                model(pixels)
                calls.append(time.perf_counter() - started)
            found.append(float(np.median(calls)))
    return medians


def shrunk_within(run: str, to: str, size: int, epochs: int) -> Shrunk | None:
    """Returns the result of `shrink` for a fifth of the bytes; None, with the ladder printed, if no model holds."""
    try:
        return kerasimg.shrink(run, to_kb=size * BYTES / 1000, max_drop=DROP, to=to, epochs=epochs)
    except GateError as error:
        print(error)
        return None


def rows(run: str, to: str, epochs: int, rounds: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        [before] = kerasimg.export(run, to, precision="float32", out=folder)
        [parity] = before.manifest.parity
        shrunk = shrunk_within(run, to, parity.bytes, epochs)
        name = Path(run).name
        first = f"| {name} | {parity.bytes:,} | {{:.3f}} | {parity.accuracy_before:.4f} |  |  |  |"
        if shrunk is None:
            return [first.format(parity.p50_ms), f"| {name}, shrunk |  |  |  |  |  | not met |"]
        print("\n".join(as_lines(shrunk.rungs)))
        models = [open_runtime(bundle, bundle.models[0]) for bundle in (before, shrunk.bundle)]
        times = timed(models, before.shape, rounds)
    chosen, (old, new) = shrunk.chosen, (float(np.median(each)) * 1e3 for each in times)
    ratios = np.asarray(times[1]) / np.asarray(times[0])
    low, ratio, high = np.percentile(ratios, (25, 50, 75))
    between = "" if chosen.interval is None else f" ({chosen.interval[0]:+.4f} to {chosen.interval[1]:+.4f})"
    met = [chosen.bytes <= parity.bytes * BYTES, ratio <= TIME, chosen.drop <= DROP + 1e-9]
    verdict = ", ".join("yes" if each else "no" for each in met)
    after = (
        f"| {chosen.model}, {chosen.precision} | {chosen.bytes:,} ({chosen.bytes / parity.bytes:.2f}) "
        f"| {new:.3f} ({ratio:.2f}, quartiles {low:.2f} to {high:.2f}) | {chosen.accuracy:.4f} "
        f"| {chosen.drop:+.4f}{between} | {chosen.same:.1%} | {verdict} |"
    )
    return [first.format(old), after]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of trained runs; pruned runs are written beside"
    )
    parser.add_argument("--to", default="litert", help="the target; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=5, help="of training after each pruning")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    lines = [line for run in chosen.runs for line in rows(run, chosen.to, chosen.epochs, chosen.rounds)]
    print(f"load {os.getloadavg()[0]:.1f}")
    print("\n".join([*HEADER, *lines]), flush=True)


if __name__ == "__main__":
    main()
