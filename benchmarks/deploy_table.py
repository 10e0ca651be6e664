"""Size, latency and parity of a run's exports beside `model.predict`: the table of docs/export.md.

    python benchmarks/deploy_table.py RUN [--to litert onnx ...] [--precision int8 ...] [--rounds 15]

Every target is exported in all its precisions, or in those of --precision that it has, and compared by the parity gate
on the run's test images. Then all models, and Keras' own `model.predict`, are loaded at once and called in turn: one
image, a few times, then a batch of 32. The script prints the median and the 95th percentile of all single-image calls,
and the median throughput of the batches, from uint8 pixels to probabilities, without decoding. A model that takes
longer than a quarter of a second for an image is called once a round, and not with batches. A web or an embedded bundle
is compared but not timed, because it runs in a browser or on a microcontroller.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
from kerasimg.data.parallel import cores
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import Parity
from kerasimg.deploy.targets import open_runtime, target
from kerasimg.errors import CallError, GateError
from kerasimg.models.classifier import Classifier

TARGETS = ("savedmodel", "litert", "onnx", "openvino")
UNTIMED = ("web", "embedded")
SINGLE = 10
"""Calls with one image in a round."""
BATCH = 32
SLOW_S = 0.25


class Row(NamedTuple):
    name: str
    runtime: str
    size: int | None
    ask: Callable[[np.ndarray], Any] | None
    parity: Parity | None
    accuracy: float | None


def rows(run: str, targets: list[str], asked: list[str], folder: str) -> list[Row]:
    classifier = Classifier.open(run)

    def predict(pixels: np.ndarray) -> Any:
        return classifier.model.predict(pixels.astype(np.float32), verbose=0)

    made: list[Row] = []
    for name in targets:
        precisions = [each for each in target(name).precisions if not asked or each in asked]
        if not precisions:
            continue
        try:
            kerasimg.export(run, name, precision=precisions, out=folder)
        except GateError as error:
            say(f"{name}: {error}")  # the models that passed are in the table
        except CallError as error:
            say(f"{name}: {error}")
            continue
        bundle = Bundle.open(Path(folder) / name)
        parity = {row.path: row for row in bundle.manifest.parity}
        for model in bundle.models:
            found = parity[model.path]
            ask = None if name in UNTIMED else open_runtime(bundle, model)
            title = name if len(bundle.models) == 1 else f"{name}, {model.precision}"
            made.append(Row(title, found.runtime, found.bytes, ask, found, found.accuracy_after))
    size = (Classifier.open(run).folder / "model.keras").stat().st_size  # type: ignore[operator]
    accuracy = made[0].parity.accuracy_before if made and made[0].parity else None
    first = Row("`model.predict`", f"keras {keras.__version__}", size, predict, None, accuracy)
    return [first, *made]


def timed(made: list[Row], shape: tuple[int, int, int], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Returns the seconds of every call, for one image and for a batch, without the first round."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *shape)).astype(np.uint8)
    found: dict[str, tuple[list[float], list[float]]] = {row.name: ([], []) for row in made}
    for number in range(rounds + 1):
        for row in made:
            if row.ask is None:
                continue
            started = time.perf_counter()
            row.ask(pixels[:1])
            slow = time.perf_counter() - started > SLOW_S
            calls = ((1, pixels[:1]),) if slow else ((SINGLE, pixels[:1]), (1, pixels))
            for place, (count, batch) in enumerate(calls):
                row.ask(batch)  # after the others have had the caches
                for _ in range(count):
                    started = time.perf_counter()
                    row.ask(batch)
                    if number:
                        found[row.name][place].append(time.perf_counter() - started)
    return found


def table(made: list[Row], found: dict[str, tuple[list[float], list[float]]]) -> list[str]:
    lines = [
        "| | size, MB | p50, ms | p95, ms | images/s | greatest difference | same decision | accuracy | runtime |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in made:
        single, batches = found[row.name]
        cells = [row.name, "" if row.size is None else f"{row.size / 1e6:.2f}"]
        if single:
            cells += [f"{np.percentile(single, place) * 1e3:.2f}" for place in (50, 95)]
            cells.append(f"{BATCH / np.median(batches):,.0f}" if batches else "")
        else:
            cells += ["", "", ""]
        if row.parity is None:
            cells += ["", ""]
        else:
            cells += [f"{row.parity.greatest_difference:.1e}", f"{row.parity.same_decision:.1%}"]
        cells += ["" if row.accuracy is None else f"{row.accuracy:.3f}", row.runtime]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--to", nargs="+", default=list(TARGETS), help="targets; default: %(default)s")
    parser.add_argument("--precision", nargs="+", default=[], help="only these; default: all of each target")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = rows(chosen.run, chosen.to, chosen.precision, folder)
        image = Classifier.open(chosen.run).spec.image
        found = timed(made, (*image.size, image.channels), chosen.rounds)
    compared = next((row.parity.images for row in made if row.parity), 0)
    print(f"{cores()} cores, {compared:,} test images, {chosen.rounds} rounds")
    print("\n".join(table(made, found)))


if __name__ == "__main__":
    main()
