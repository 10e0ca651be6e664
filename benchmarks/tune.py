"""The same search by plain KerasTuner, written as in its guide, and by kerasimg, in turns.

    python benchmarks/tune.py cnn --npz fashion.npz [--images 2000] [--trials 12] [--epochs 3] [--rounds 2]
    python benchmarks/tune.py head --npz fashion.npz --weights mobilenet_v2_160.weights.h5 [--trials 12] [--theirs 4]
    python benchmarks/tune.py memory --npz fashion.npz [--trials 200] [--new-graphs]

cnn: the search space of zoo/simple_cnn.json on Fashion-MNIST, 28x28, as PNG files in folders. head: size, dropout and
learning rate of a head on a frozen MobileNetV2 at 160x160. Both sides use random search, train on the same folders and
save their best score; each search is a separate process, and the two take turns. A trial's time is the time between the
ends of two trials; the search includes reading the data, the whole process also the imports. On a busy machine the CPU
time of the whole process is more meaningful than wall time.
The bare loop (cnn only, after kerasimg) is the lower bound for a search that trains all epochs: the steps of kerasimg's
trials, each epoch one compiled function, without data loading, compilation or validation. "epochs" is the number of
trained epochs: halving ends trials early.
memory: the memory of a process after each twentieth of many small trials.

--theirs: number of KerasTuner trials, if all would take too long. --npz: x_train (N, 28, 28) uint8, y_train (N,).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import PIL.Image

CLASSES = 10
VALIDATION = 0.15
BATCH = 32
HEAD_SIZE = 160
OF_HEAD = {"units": [32, 64, 128, 256], "dropout": [0.1, 0.6], "lr": [1e-4, 1e-2]}


def folders(npz: str, count: int, place: Path) -> None:
    """Writes PNG files to train/<class> and validation/<class>, the same for both sides."""
    with np.load(npz) as archive:
        images, labels = archive["x_train"][:count], archive["y_train"][:count]
    held_out = int(VALIDATION * count)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = place / ("validation" if number < held_out else "train") / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(folder / f"{number:05}.png")


def make_images(data: Path, size: int) -> tuple[Any, Any]:
    """Loads images as in the guide to image classification from scratch."""
    import keras

    how: dict[str, Any] = {"image_size": (size, size), "batch_size": BATCH, "seed": 0}
    train = keras.utils.image_dataset_from_directory(data / "train", verbose=False, **how)
    validation = keras.utils.image_dataset_from_directory(data / "validation", verbose=False, shuffle=False, **how)
    return train, validation


def cnn_model(hp: Any) -> Any:
    """Builds the model of zoo/simple_cnn.json in hand-written Keras."""
    import keras

    filters = hp.Choice("filters", [16, 32, 64])
    model = keras.Sequential(
        [
            keras.Input((28, 28, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(2 * filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(hp.Choice("units", [64, 128, 256]), activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    rate = hp.Float("lr", 1e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def head_model(weights: str) -> Any:
    """Returns a function that builds a head on a frozen MobileNetV2, as in the guide to transfer learning."""

    def build(hp: Any) -> Any:
        import keras

        shape = (HEAD_SIZE, HEAD_SIZE, 3)
        base = keras.applications.MobileNetV2(weights=weights, include_top=False, input_shape=shape)
        base.trainable = False
        image = keras.Input(shape)
        x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
        x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
        x = keras.layers.Dense(hp.Choice("units", OF_HEAD["units"]), activation="relu")(x)
        x = keras.layers.Dropout(hp.Float("dropout", *OF_HEAD["dropout"]))(x)
        model = keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(x))
        rate = hp.Float("lr", *OF_HEAD["lr"], sampling="log")
        model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build


def by_keras_tuner(options: argparse.Namespace, data: Path, place: Path) -> dict[str, Any]:
    """Runs random search by KerasTuner; every trial fails unless `_configure_tensorboard_dir` is replaced."""
    import keras_tuner

    ends = [time.perf_counter()]

    class Search(keras_tuner.RandomSearch):
        def _configure_tensorboard_dir(self, callbacks: Any, trial: Any, execution: int = 0) -> None:
            """Does nothing: the original imports tensorboard, which TensorFlow 2.21 does not install."""

        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            ends.append(time.perf_counter())

    import keras  # noqa: F401 - as below

    head = options.what == "head"
    started = time.perf_counter()
    train, validation = make_images(data, HEAD_SIZE if head else 28)
    tuner = Search(
        head_model(options.weights) if head else cnn_model,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=options.theirs or options.trials,
        directory=place,
        project_name="search",
        seed=options.seed,
    )
    ends[0] = time.perf_counter()
    tuner.search(train, validation_data=validation, epochs=options.epochs, verbose=0)
    best = tuner.oracle.get_best_trials(1)[0].score
    epochs = options.epochs * (len(ends) - 1)
    return {"ends": ends, "best": best, "search": time.perf_counter() - started, "epochs": epochs}


def head_spec(weights: str) -> dict[str, Any]:
    """Returns the same head as a spec."""
    return {
        "kerasimg": 1,
        "name": "head",
        "params": {"num_classes": None},
        "image": {"size": [HEAD_SIZE, HEAD_SIZE], "interpolation": "bilinear"},
        "model": [
            {"backbone": "MobileNetV2", "name": "base", "weights": Path(weights).name, "trainable": False},
            {"layer": "GlobalAveragePooling2D"},
            {
                "layer": "Dense",
                "name": "hidden",
                "units": {"$choice": OF_HEAD["units"], "default": OF_HEAD["units"][0]},
                "activation": "relu",
            },
            {"layer": "Dropout", "name": "dropout", "rate": {"$float": OF_HEAD["dropout"], "default": 0.2}},
            {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
        ],
        "compile": {
            "optimizer": {"type": "Adam", "learning_rate": {"$float": OF_HEAD["lr"], "log": True, "default": 1e-3}}
        },
    }


def by_kerasimg(options: argparse.Namespace, data: Path, place: Path) -> dict[str, Any]:
    """Runs random search by kerasimg on the zoo spec; only image size, epochs and sampler side differ."""
    import kerasimg
    from kerasimg.tuning import search, trials  # noqa: F401 - neither side's clock counts its imports

    spec: Any = "simple_cnn"
    params: dict[str, Any] = {"size": 28}
    if options.what == "head":
        shutil.copyfile(options.weights, place / Path(options.weights).name)  # beside the spec, as it names it
        file = place / "head.json"
        file.write_text(json.dumps(head_spec(options.weights)))
        spec, params = file, {}
    tune = {"tuner": "random", "objective": "val_accuracy", "max_trials": options.trials, "seed": options.seed}
    edits: dict[str, Any] = {f"tune.{key}": value for key, value in tune.items()}
    edits |= {"fit.stages": [{"epochs": options.epochs}], "fit.test_split": 0.0}
    if "bfloat16" in options.side:
        edits["fit.precision"] = "mixed_bfloat16"
    if "halving" in options.side:
        edits["tune.stop"] = "halving"
    ends: list[float] = []

    class Times(logging.Handler):
        """Records when trials end; the last message before the first trial marks its start."""

        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            ends[:] = [*ends, time.perf_counter()] if line.startswith("trial ") else ends or [time.perf_counter()]
            options.verbose and print(line, file=sys.stderr)

    logging.getLogger("kerasimg").addHandler(Times())

    workers = 2 if options.side == "kerasimg, 2 workers" else 1
    started = time.perf_counter()
    how: dict[str, Any] = {"data": data, "out": place / "runs", "report": False, "overrides": edits}
    found = kerasimg.tune(spec, workers=workers, **how, **params)
    done = time.perf_counter() - started
    epochs = sum(trial.row["epochs"] for trial in found.trials)
    drawn = [{key: trial.row[key] for key in ("filters", "units", "lr") if key in trial.row} for trial in found.trials]
    return {"ends": ends, "best": found.score, "search": done, "epochs": epochs, "drawn": drawn}


def bare_loop(options: argparse.Namespace, data: Path, place: Path) -> dict[str, Any]:
    """Runs only the training steps of given trials."""
    import keras
    import keras_tuner
    import tensorflow as tf

    train, _ = make_images(data, 28)
    images, labels = (tf.concat(parts, 0) for parts in zip(*train, strict=True))
    ends = [0.0]
    for values in json.loads(options.drawn):
        hp = keras_tuner.HyperParameters()
        hp.values = values
        model = cnn_model(hp)
        loss = keras.losses.SparseCategoricalCrossentropy()
        model.optimizer.build(model.trainable_variables)

        @tf.function
        def epoch(count: Any, model: Any = model, loss: Any = loss) -> None:
            for first in tf.range(0, count, BATCH):
                x, y = images[first : first + BATCH], labels[first : first + BATCH]
                with tf.GradientTape() as tape:
                    value = loss(y, model(x, training=True))
                model.optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

        epoch(tf.constant(BATCH))
        started = time.perf_counter()
        for _ in range(options.epochs):
            epoch(tf.constant(len(images)))
        ends.append(ends[-1] + time.perf_counter() - started)
    return {"ends": ends, "best": float("nan"), "search": ends[-1], "epochs": options.epochs * (len(ends) - 1)}


SIDES = {
    "KerasTuner": by_keras_tuner,
    "kerasimg": by_kerasimg,
    "kerasimg, 2 workers": by_kerasimg,
    "kerasimg, halving": by_kerasimg,
    "kerasimg, bfloat16": by_kerasimg,
    "kerasimg, halving, bfloat16": by_kerasimg,
    "bare loop": bare_loop,
}


def one(side: str, options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Runs one side's search in a separate process with its own cache."""
    own = [f"--{key}={value}" for key, value in vars(options).items() if value is not None and key in PASSED]
    started, before = time.perf_counter(), os.times()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "KERASIMG_CACHE": cache}
        command = [sys.executable, __file__, options.what, "--side", side, "--data", str(data), *own]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {**found, "whole": time.perf_counter() - started, "cpu": cpu}


PASSED = ("npz", "weights", "trials", "theirs", "epochs", "seed", "drawn")


def race(options: argparse.Namespace, data: Path) -> None:
    """Runs both sides in turns; returns their times."""
    sides = [side for side in SIDES if side in options.sides.split(";")]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in sides:
            options.seed = number + 1
            found[side].append(one(side, options, data))
            last = found[side][-1]
            if side == "kerasimg":
                options.drawn = json.dumps(last["drawn"])
            steps = [f"{end - begin:.2f}" for begin, end in zip(last["ends"], last["ends"][1:], strict=False)]
            print(f"{side}: {last['whole']:.1f} s, best {last['best']:.3f}, trials {' '.join(steps)}", flush=True)
    heads = ("a trial, median s", "trials a minute, search", "whole process", "processor s a trial", "epochs", "best")
    print(f"\n| | {' | '.join(heads)} |")
    print("| --- " * (1 + len(heads)) + "|")
    for side in sides:
        steps = [end - begin for run in found[side] for begin, end in zip(run["ends"], run["ends"][1:], strict=False)]
        count = sum(len(run["ends"]) - 1 for run in found[side])
        search = 60 * count / sum(run["search"] for run in found[side])
        whole = 60 * count / sum(run["whole"] for run in found[side])
        best = " ".join(f"{run['best']:.3f}" for run in found[side])
        cpu = sum(run["cpu"] for run in found[side]) / count
        epochs = sum(run["epochs"] for run in found[side])
        figures = [f"{statistics.median(steps):.2f}", *(f"{one:.1f}" for one in (search, whole, cpu)), epochs, best]
        print(f"| {side} | {' | '.join(map(str, figures))} |", flush=True)


def memory(options: argparse.Namespace, data: Path) -> None:
    """Measures one process over many small trials, of the same space or with a new graph for each."""
    from kerasimg.tuning.shared_graph import resident_bytes
    from kerasimg.tuning.trials import Trials

    draw = np.random.default_rng(options.seed)
    edits: dict[str, Any] = {"fit.stages": [{"epochs": 1}], "fit.test_split": 0.0}
    if options.new_graphs:
        edits["params.units"] = {"$int": [8, 512], "default": 64}
    with tempfile.TemporaryDirectory() as place:
        trials = Trials("simple_cnn", data, folder=place, params={"size": 28}, overrides=edits)
        for number in range(options.trials):
            units = int(draw.integers(8, 513)) if options.new_graphs else int(draw.choice([64, 128, 256]))
            filters = 16 if options.new_graphs else int(draw.choice([16, 32, 64]))
            values = {"filters": filters, "units": units, "lr": float(10 ** draw.uniform(-4, -2))}
            outcome = trials.run(values, trial_id=str(number))
            if number % max(1, options.trials // 20) == 0:
                taken = resident_bytes() / 1e6
                print(f"trial {number + 1}: {taken:,.0f} MB, {outcome.seconds:.2f} s, {outcome.status}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cnn", "head", "memory"])
    parser.add_argument("--npz", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--theirs", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sides", default="KerasTuner;kerasimg", help=f"of {'; '.join(SIDES)}")
    parser.add_argument("--new-graphs", action="store_true", help="memory: almost every trial has its own graph")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--drawn", default="[]", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(SIDES[options.side](options, Path(options.data), Path(place))))
        return
    with tempfile.TemporaryDirectory() as place:
        folders(options.npz, options.images, Path(place))
        {"memory": memory}.get(options.what, race)(options, Path(place))


if __name__ == "__main__":
    main()
