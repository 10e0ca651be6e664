"""Transfer learning: a tutorial's code against `kerasimg train`, each a separate process.

    python benchmarks/transfer.py FOLDER --weights mobilenet_v2.weights.h5 [--size 160] [--epochs 10] [--repeats 3]
    python benchmarks/transfer.py FOLDER --weights mobilenet_v2.weights.h5 --engines
    python benchmarks/transfer.py --at-once [--size 224]
    python benchmarks/transfer.py --rows

FOLDER has a folder per class; it is split once into train, validation and test (links) for both. The tutorial
(`transfer_tutorial.py`): ImageDataGenerator with rotation, shifts and flip, a frozen MobileNetV2, pooling, Dense, fit,
evaluate. kerasimg: a spec that extends `zoo/mobilenet.json` with the same head and the same number of epochs. All take
turns; kerasimg starts with an empty cache unless the name says "again". The script prints the wall time of the whole
process (median, minimum and maximum), accuracies, the ratio to the tutorial, and where kerasimg's time goes.

--engines: the frozen part alone, Keras against each inference engine: images per second in turn, medians, and the
difference of the features from Keras'. --at-once: the frozen EfficientNet-Lite0, Keras' forward pass, and the folded
one of a trained classifier on batches of 64, whole and in parts whose values stay small (`images_at_once`), in turn.
--rows: a Dense head on features in memory, rows per second through `fit`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PARTS = ("train", "train", "train", "train", "train", "validation", "test")
"""The part of every seventh image of a class, and so on."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

WAYS: dict[str, dict[str, Any]] = {
    "cached": {"augment": [], "fit": {"features": "cached"}},
    "cached, again": {"augment": [], "fit": {"features": "cached"}},
    "cached, 2 views": {"fit": {"features": "cached", "views": 2}},
    "fresh": {"fit": {"features": "fresh"}},
    "off": {"fit": {"features": "off"}},
}
"""The ways of kerasimg, and what their specs say."""


def lay_out(folder: Path, out: Path) -> None:
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(path for path in label.rglob("*") if path.suffix.lower() in ENDINGS)
        for number, path in enumerate(images):
            link = out / PARTS[number % len(PARTS)] / label.name / f"{number:05}{path.suffix.lower()}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def tutorial(data: Path, chosen: argparse.Namespace, augment: bool) -> dict[str, Any]:
    script = Path(__file__).with_name("transfer_tutorial.py")
    arguments = [data, chosen.weights, chosen.size, chosen.epochs, int(augment)]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    last, best, test = map(float, done.stdout.split("RESULT")[1].split())
    return {"seconds": seconds, "validation": last, "best": best, "test": test}


def own(data: Path, chosen: argparse.Namespace, way: str, work: Path) -> dict[str, Any]:
    spec = {"kerasimg": 1, "name": "bench", "extends": "mobilenet", "params": {"size": chosen.size}}
    fit = {"stages": [{"epochs": chosen.epochs}], **WAYS[way]["fit"]}
    spec |= {**WAYS[way], "fit": fit, "compile": {"metrics": ["accuracy"]}}
    (work / "bench.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "kerasimg", "train", work / "bench.json", "--data", data, "--out", work / "runs"]
    command += ["--weights", chosen.weights]
    if way != "cached, again":
        subprocess.run(["rm", "-rf", str(work / "cache")], check=True)
    environment = {**os.environ, "KERASIMG_CACHE": str(work / "cache"), "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    lines: list[tuple[float, str]] = []
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    for line in process.stdout or ():
        lines.append((time.perf_counter() - began, line.strip()))
    seconds = time.perf_counter() - began
    if process.wait():
        raise SystemExit("\n".join(line for _, line in lines[-20:]))
    run = max((work / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    rows = list(csv.DictReader((run / "history.csv").open()))
    accuracies = [float(row["val_accuracy"]) for row in rows]
    return {
        "seconds": seconds,
        "validation": accuracies[-1],
        "best": max(accuracies),
        "test": json.loads((run / "evaluation" / "metrics.json").read_text())["accuracy"],
        "spans": spans(lines, seconds, sum(float(row["seconds"]) for row in rows)),
        "line": next((line for _, line in lines if line.startswith("features:")), ""),
    }


def spans(lines: list[tuple[float, str]], seconds: float, epochs: float) -> dict[str, float]:
    """Splits the time by the messages that kerasimg prints."""

    def at(word: str, otherwise: float) -> float:
        return next((moment for moment, line in lines if line.startswith(word)), otherwise)

    started = next((moment for moment, line in lines if " images of " in line), 0.0)
    checked = at("training train", started)
    planned = at("features:", checked)
    evaluating = at("evaluating on", planned + epochs)
    writing = at("writing", evaluating)
    return {
        "start: TensorFlow, Keras": started,
        "build the model, check the images": checked - started,
        "features, engine": planned - checked,
        "epochs": epochs,
        "rule for unknown images, save": max(0.0, evaluating - planned - epochs),
        "evaluate": writing - evaluating,
        "report": seconds - writing,
    }


def whole(chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder) / "data", Path(folder)
        lay_out(chosen.folder, data)
        for repeat in range(chosen.repeats):
            for way in ("tutorial", "tutorial, no augmentation", *chosen.ways):
                if way.startswith("tutorial"):
                    if way not in chosen.tutorials:
                        continue
                    result = tutorial(data, chosen, way == "tutorial")
                else:
                    result = own(data, chosen, way, work)
                results.setdefault(way, []).append(result)
                print(
                    f"{repeat + 1}: {way:26} {result['seconds']:7.1f} s  validation {result['validation']:.3f}",
                    flush=True,
                )
                if "line" in result and not repeat:
                    print(f"   {result['line']}")
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    first = next(iter(results))
    base = statistics.median(one["seconds"] for one in results[first])
    print(
        "\n| way | s, median | lowest-highest | ratio | validation | test |\n| --- | ---: | --- | ---: | ---: | ---: |"
    )
    for way, found in results.items():
        seconds = [one["seconds"] for one in found]
        middle = statistics.median(seconds)
        figures = [statistics.mean(one[name] for one in found) for name in ("validation", "test")]
        spread = f"{min(seconds):.1f}-{max(seconds):.1f}"
        print(f"| {way} | {middle:.1f} | {spread} | {base / middle:.1f} | {figures[0]:.3f} | {figures[1]:.3f} |")
    own_ways = [way for way in results if "spans" in results[way][0]]
    names = list(results[own_ways[0]][0]["spans"]) if own_ways else []
    print(f"\n| s | {' | '.join(own_ways)} |\n| --- |{' ---: |' * len(own_ways)}")
    for name in names:
        medians = [statistics.median(one["spans"][name] for one in results[way]) for way in own_ways]
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in medians)} |")


def engines(chosen: argparse.Namespace) -> None:
    import keras
    import numpy as np

    from kerasimg.data.decode import decode
    from kerasimg.models import lowering
    from kerasimg.models.inference import engine
    from kerasimg.models.split_model import split_frozen
    from kerasimg.spec.document import Image

    size, batch = chosen.size, 32
    base = keras.applications.MobileNetV2(weights=chosen.weights, include_top=False, input_shape=(size, size, 3))
    base.trainable = False
    image = keras.Input((size, size, 3))
    x = base(keras.layers.Rescaling(1 / 127.5, -1)(image))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    split = split_frozen(model)
    if split is None:
        raise SystemExit("nothing is frozen")
    paths = sorted(path for path in chosen.folder.rglob("*") if path.suffix.lower() in ENDINGS)
    images = np.stack([decode(str(path), Image(size=[size, size])) for path in paths[:: len(paths) // batch][:batch]])
    made: dict[str, Any] = {form: engine(split, batch, form) for form in ("plain", "folded", "bfloat16")}  # type: ignore[arg-type]
    exact, lowering.EXACT = lowering.EXACT, 0
    made["bfloat16, first layers too"] = engine(split, batch, "bfloat16")
    lowering.EXACT = exact
    if chosen.litert:
        made["litert"] = engine(split, batch, "litert")
    imgs = images.astype("float32")
    features = {name: one.compute(imgs)[0] for name, one in made.items()}
    rates: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(3 + 4 * chosen.repeats):
        for name, one in made.items():
            began = time.perf_counter()
            one.compute(imgs)
            rates[name].append(batch / (time.perf_counter() - began))
    print("| form | images/s, median | best | to Keras, paired median | difference of the features |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(found, rates["plain"], strict=True))
        difference = np.linalg.norm(features[name] - features["plain"]) / np.linalg.norm(features["plain"])
        print(f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} | {ratio:.2f} | {difference:.2g} |")


def at_once(chosen: argparse.Namespace) -> None:
    import numpy as np

    import kerasimg
    from kerasimg.models.compiled_predict import BATCH_SIZE, final_outputs_of, outputs_of
    from kerasimg.models.inference import engine
    from kerasimg.models.split_model import split_frozen

    model = kerasimg.build("recipes/transfer", num_classes=5, overrides={"params.size": chosen.size})
    split = split_frozen(model)
    if split is None:
        raise SystemExit("nothing is frozen")
    images = np.random.default_rng(0).uniform(0, 255, (BATCH_SIZE, *model.input_shape[1:])).astype(np.float32)
    ways: dict[str, list[Any]] = {}
    for name in ("whole", "in parts"):
        frozen: Any = engine(split, BATCH_SIZE, "folded")
        passes: list[Any] = [copy.copy(outputs_of(model)), final_outputs_of(model)]
        if name == "whole":
            for each in (frozen, *passes):
                each.at_once = BATCH_SIZE
        ways[name] = [frozen.compute, *passes]
    print(f"in parts of {frozen.at_once} images")
    computed = {name: [function(images)[0] for function in functions] for name, functions in ways.items()}
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in functions] for name, functions in ways.items()}
    for _ in range(3 + 2 * chosen.repeats):
        for name, functions in ways.items():
            for which, function in enumerate(functions):
                began = time.perf_counter()
                function(images)
                seconds[name][which].append(time.perf_counter() - began)
    print("| | whole, images/s | in parts, images/s | ratio, median of pairs (least, most) | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for which, name in enumerate(("the frozen part, folded", "Keras' forward pass", "the same, folded")):
        one, other = seconds["whole"][which], seconds["in parts"][which]
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        rates = [f"{BATCH_SIZE / statistics.median(times):.0f}" for times in (one, other)]
        difference = np.abs(computed["whole"][which] - computed["in parts"][which]).max()
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        print(f"| {name} | {rates[0]} | {rates[1]} | {spread} | {difference:.2g} |")
    _, plain, folded = seconds["in parts"]
    ratios = [a / b for a, b in zip(plain, folded, strict=True)]
    difference = np.abs(computed["in parts"][1] - computed["in parts"][2]).max()
    print(
        f"Keras' forward pass, folded, in parts: {statistics.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f}, {max(ratios):.2f}), largest difference {difference:.2g}"
    )


def rows(chosen: argparse.Namespace) -> None:
    import keras
    import numpy as np

    from kerasimg.data.pipeline import feed
    from kerasimg.data.shuffling import Order
    from kerasimg.training.feature_rows import FeatureBatches, Rows
    from kerasimg.training.features import PREFETCH

    count, width = 64_000, 1280
    random = np.random.default_rng(0)
    held = Rows([random.random((count, width), np.float32).astype(np.float16)], None, count, 0, 0, 0.0, True)
    labels = random.integers(0, 10, count)
    order = Order(count, 32, shuffle=True)

    def batches(end: int | None) -> Any:
        features = FeatureBatches(held, labels, 10, order, "sparse", None)
        return feed(features, 0, end, features.finish, PREFETCH)

    print("| steps per execution | rows/s through fit, best of the epochs |\n| ---: | ---: |")
    for at_a_time in (1, 10, 50):
        inputs = keras.Input((width,))
        model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(inputs))
        model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=at_a_time)
        data = batches(None)
        clock = Clock()
        model.fit(data, steps_per_epoch=count // 32, epochs=4, verbose=0, shuffle=False, callbacks=[clock.callback()])
        print(f"| {at_a_time} | {count / min(clock.spans):,.0f} |")
    moments = [time.perf_counter() for _ in batches(3 * order.steps)]
    print(
        f"| (the batches alone, read from Python) | {32 * (len(moments) - 200) / (moments[-1] - moments[199]):,.0f} |"
    )


class Clock:
    def __init__(self) -> None:
        self.spans: list[float] = []
        self.began = 0.0

    def callback(self) -> Any:
        import keras

        def begin(epoch: int, logs: Any) -> None:
            self.began = time.perf_counter()

        def end(epoch: int, logs: Any) -> None:
            self.spans.append(time.perf_counter() - self.began)

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["cached", "cached, again", "fresh"])
    parser.add_argument("--tutorials", nargs="*", default=["tutorial"], help="tutorial, 'tutorial, no augmentation'")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--litert", action="store_true", help="include LiteRT, whose conversion is slow")
    parser.add_argument("--rows", action="store_true")
    chosen = parser.parse_args()
    if chosen.rows:
        rows(chosen)
    elif chosen.at_once:
        at_once(chosen)
    elif chosen.folder is None or chosen.weights is None:
        parser.error("expected FOLDER and --weights")
    elif chosen.engines:
        engines(chosen)
    else:
        results = whole(chosen)
        show(results)
        if chosen.json:
            chosen.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
