"""What a GPU is used for: time, compilation, images per second and accuracy of whole runs, under JAX.

    python benchmarks/gpu.py [--idx FOLDER] [--small] [--minutes 8] [--only NAME ...]

Needs no network, nor TensorFlow. Each case is `kerasimg train` in a process of its own, first with an empty cache
folder (cold), then again (warm). `plain` is the same model in Keras' `fit` on arrays, without augmentation: the bound
that Keras sets. Prints a Markdown table and, with --json FILE, writes all figures. --idx: the folder with the IDX files
of Fashion-MNIST (Debian package dataset-fashion-mnist); without them the sample of 2,500 images takes its place.
Without a GPU, or with --small, sizes are a fraction of that, so that the script itself can be tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
IDX = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 6
BUSY_INTERVAL_MS = 200


@dataclass
class Case:
    """A run to time."""

    spec: str
    data: str
    """"sample", "fashion" or "jpegs"."""
    overrides: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    plain: bool = True
    """Whether `fit` on arrays is timed, too."""


def cases(small: bool) -> dict[str, Case]:
    """Returns the cases by name, on a GPU or in small."""
    short = {"fit.precision": "auto"}
    if small:
        tiny = {"epochs": 2}
        return {
            "simple_cnn": Case("simple_cnn", "sample", params={"epochs": 2, "size": 28}),
            "from_scratch": Case("recipes/from_scratch", "fashion", params={**tiny, "width": 8}),
            "speedrun": Case("recipes/speedrun", "fashion", params={**tiny, "width": 16}),
            "resnet50": Case("resnet", "jpegs", params={**tiny, "size": 32, "variant": "18"}),
            "transfer": Case("recipes/transfer", "jpegs", params={**tiny, "size": 64, "views": 1}, plain=False),
        }
    resnet = {"fit.batch_size": 128, **short}
    return {
        "simple_cnn": Case("simple_cnn", "sample"),
        "from_scratch": Case("recipes/from_scratch", "fashion", {"fit.batch_size": 512, **short}, {"epochs": 30}),
        "speedrun": Case("recipes/speedrun", "fashion", short),
        "resnet50": Case("resnet", "jpegs", resnet, {"epochs": 4, "size": 224}),
        "transfer": Case("recipes/transfer", "jpegs", plain=False),
    }


# --- Data -------------------------------------------------------------------------------------------------------------


def write_jpegs(folder: Path, count: int) -> None:
    """Writes JPEGs of 500x375, about 40 KB each: smooth noise around the colour of the class."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    hues = draw.uniform(60, 200, (CLASSES, 3))
    for number in range(count):
        name = number % CLASSES
        coarse, fine = (draw.normal(0, scale, (h, w, 3)) for scale, h, w in ((45, 12, 16), (25, 94, 125)))
        pixels = sum(
            np.asarray(
                [np.asarray(Image.fromarray(part[..., c].astype("float32")).resize((500, 375))) for c in range(3)]
            )
            for part in (coarse, fine)
        )
        place = folder / f"class{name}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        img = np.clip(np.moveaxis(pixels, 0, 2) + hues[name], 0, 255).astype("uint8")
        Image.fromarray(img).save(place, quality=88)


def data_of(name: str, folder: Path, idx: Path, small: bool) -> str:
    """Returns where the data of a case is; writes it if it does not exist."""
    if name == "fashion" and not small and (idx / "train-images-idx3-ubyte.gz").exists():
        from fashion_mnist import write_npz

        file = folder / "fashion.npz"
        if not file.exists():
            write_npz(idx, file)
        return str(file)
    if name == "jpegs":
        place = folder / "jpegs"
        if not place.exists():
            write_jpegs(place, 60 if small else 6000)
        return str(place)
    return "sample"


# --- The processes that are timed -------------------------------------------------------------------------------------


def train(case: Case, data: str, out: str) -> dict[str, Any]:
    """Trains in this process; returns the figures that only it knows."""
    import kerasimg
    from kerasimg.run_folder import RunFolder

    run = kerasimg.train(case.spec, data=data, overrides=case.overrides, out=out, verbose=0, **case.params)
    record = RunFolder.of(run).required("training.json")
    images = [image["part"] for image in RunFolder.of(run).required("data.json")["images"]]
    seen = sum(part in ("train", "validation") for part in images)
    seconds = [row["seconds"] for row in run.history]
    later = sorted(seconds[1:] or seconds)
    return {
        "accuracy": kerasimg.evaluate(run, verbose=0).accuracy,
        "compiled": record.get("compiled", {}),
        "features": [stage.get("features") for stage in record["stages"]],
        "first_images_s": seen / seconds[0],
        "later_images_s": seen / later[len(later) // 2],
        "in_epochs_s": sum(seconds),
    }


def plain(case: Case, data: str, out: str) -> dict[str, Any]:
    """Trains the same model by `fit` on random arrays; returns the images per second after the first epoch."""
    import jax
    import keras
    import numpy as np

    import kerasimg

    if case.overrides.get("fit.precision") == "auto" and jax.default_backend() != "cpu":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = kerasimg.build(case.spec, weights=None, num_classes=10, **case.params)
    shape, batch = model.input_shape[1:], case.overrides.get("fit.batch_size", 128 if "scratch" in case.spec else 32)
    count = max(8 * batch, min(50_000, 600_000_000 // (4 * int(np.prod(shape)))) // batch * batch)
    count = count if jax.default_backend() != "cpu" else 8 * batch
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 255, (count, *shape)).astype("float32")
    labels = draw.integers(0, 10, count)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        model.fit(x, labels, batch_size=batch, epochs=1, verbose=0)
        times.append(time.perf_counter() - started)
    return {"images_s": count / min(times[1:])}


# --- Timing ----------------------------------------------------------------------------------------------------------


class Busy:
    """The mean utilization of the first GPU, from nvidia-smi; None without it."""

    def __enter__(self) -> Busy:
        self.samples: list[float] = []
        self.process: subprocess.Popen[str] | None = None
        if tool := shutil.which("nvidia-smi"):
            query = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
            command = [*query, f"-lms={BUSY_INTERVAL_MS}"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        return self

    def _read(self, lines: Any) -> None:
        for line in lines:
            if line.strip().isdigit():
                self.samples.append(float(line))

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()

    @property
    def share(self) -> float | None:
        """Share of the time in which a kernel ran."""
        return sum(self.samples) / len(self.samples) / 100 if self.samples else None


def timed(kind: str, name: str, data: str, out: Path, cache: Path, small: bool, left_s: float) -> dict[str, Any]:
    """Runs a case in a process of its own; returns its figures, the seconds it took and the GPU's busy share."""
    result = out / f"{kind}-{name}.json"
    command = [
        sys.executable,
        __file__,
        "--child",
        kind,
        name,
        data,
        str(out),
        str(result),
        *(["--small"] if small else []),
    ]
    environment = {**os.environ, "KERASIMG_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.perf_counter()
    with Busy() as busy:
        subprocess.run(command, env=environment, check=True, timeout=max(1, left_s), stdout=sys.stderr)
    whole = time.perf_counter() - started
    return {**json.loads(result.read_text()), "whole_s": whole, "busy": busy.share}


def row(name: str, figures: dict[str, dict[str, Any]]) -> str:
    """Returns a case as a row of the table."""
    cold, warm, bound = figures["cold"], figures.get("warm", {}), figures.get("plain", {})
    run = warm or cold

    def text(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    share = run["later_images_s"] / bound["images_s"] if bound else None
    busy = run["busy"]
    cells = [
        name,
        text(cold["whole_s"], ".1f"),
        text(warm.get("whole_s"), ".1f"),
        text(cold["compiled"].get("seconds"), ".1f"),
        text(warm.get("compiled", {}).get("seconds"), ".1f"),
        text(run["first_images_s"], ",.0f"),
        text(run["later_images_s"], ",.0f"),
        text(share, ".0%"),
        text(busy, ".0%"),
        text(run["accuracy"], ".4f"),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    *("case", "whole, cold, s", "warm, s", "compiling, cold, s", "warm, s", "images/s, first epoch", "later"),
    *("of plain `fit`", "busy", "accuracy"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * (len(COLUMNS) - 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idx", type=Path, default=IDX)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if options.child:
        kind, name, data, out, result = options.child
        figures = (plain if kind == "plain" else train)(cases(options.small)[name], data, out)
        Path(result).write_text(json.dumps(figures))
        return
    query = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"
    device = subprocess.run([sys.executable, "-c", query], capture_output=True, text=True, check=True).stdout.strip()
    small = options.small or device.startswith("cpu")
    print(f"{device.partition('|')[2]}, {os.cpu_count()} cores{', small sizes' if small else ''}\n\n{HEAD}", flush=True)
    every: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, case in cases(small).items():
            if options.only and name not in options.only:
                continue
            data = data_of(case.data, folder, options.idx, small)
            figures = every[name] = {}
            for kind in ("cold", "warm", *(["plain"] if case.plain else [])):
                left_s = 60 * options.minutes - (time.perf_counter() - STARTED)
                try:
                    # Warm: what was compiled is known, and so are features; the images are decoded again.
                    figures[kind] = timed(kind, name, data, folder, folder / f"cache-{name}", small, left_s)
                except subprocess.TimeoutExpired:
                    print(f"{name}, {kind}: no time is left of {options.minutes:g} minutes", file=sys.stderr)
                    break
            if "cold" in figures:
                print(row(name, figures), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": device, "cases": every}, indent=2))


if __name__ == "__main__":
    main()
