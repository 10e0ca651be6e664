"""Epoch time of `kerasimg train` against the same model in hand-written Keras with `fit` on arrays.

    python benchmarks/fit.py [--npz fashion.npz] [--images 6000] [--rounds 3] [--spec simple_cnn] [--settings all]

Prints a Markdown table: images per second in training and validation, the median over all epochs except the first of
each round, and the ratio to Keras. Both sides take turns, so that other load on the machine affects both. Without
--npz the images are noise. KERAS_BACKEND selects the backend.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg

SIZE = 28
SETTINGS: dict[str, dict[str, Any]] = {
    "as the spec says": {},
    "steps_per_execution 1": {"compile.steps_per_execution": 1},
    "mixed_bfloat16": {"fit.precision": "mixed_bfloat16"},
    "jit_compile": {"compile.jit_compile": True},
}
Data = dict[str, np.ndarray]


def simple_cnn() -> keras.Model:
    """As on the first page of most courses."""
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def branched() -> keras.Model:
    """Two convolutions side by side."""
    image = keras.Input((SIZE, SIZE, 1))
    pixels = keras.layers.Rescaling(1 / 255)(image)
    fine = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(pixels)
    coarse = keras.layers.Conv2D(64, 5, padding="same", activation="relu")(pixels)
    pooled = [keras.layers.MaxPooling2D()(branch) for branch in (fine, coarse)]
    joined = keras.layers.Flatten()(keras.layers.Concatenate()(pooled))
    hidden = keras.layers.Dense(128, activation="relu")(joined)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(hidden))


MODELS: dict[str, Callable[[], keras.Model]] = {"simple_cnn": simple_cnn, "branched": branched}


class Clock(keras.callbacks.Callback):
    """Records the seconds of each epoch, including validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def by_hand(name: str, data: Data, epochs: int) -> list[float]:
    keras.utils.set_random_seed(0)
    model, clock = MODELS[name](), Clock()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    arrays = {key: value.astype("float32") if key.startswith("x") else value for key, value in data.items()}
    validation = (arrays["x_val"][..., None], arrays["y_val"])
    images = arrays["x_train"][..., None]
    model.fit(
        images,
        arrays["y_train"],
        batch_size=32,
        epochs=epochs,
        validation_data=validation,
        callbacks=[clock],
        verbose=0,
    )
    return clock.seconds[1:]


def by_spec(name: str, file: str, epochs: int, out: str, edits: dict[str, Any]) -> list[float]:
    stages = {"fit.stages.0.epochs": epochs, "image.channels": 1, "fit.test_split": 0.0}
    quiet: dict[str, Any] = {"verbose": 0, "out": out}
    run = kerasimg.train(name, data=file, size=SIZE, report=False, overrides={**stages, **edits}, **quiet)
    return [row["seconds"] for row in run.history[1:]]


def make_images(npz: str | None, count: int) -> Data:
    """Returns training images, a fifth as many validation images, and integer labels."""
    total = count * 6 // 5
    if npz is None:
        images, labels = np.random.default_rng(0).integers(0, 256, (total, SIZE, SIZE), "uint8"), np.arange(total) % 10
    else:
        with np.load(npz) as archive:
            images, labels = archive["x_train"][:total], np.unique(archive["y_train"][:total], return_inverse=True)[1]
    return {"x_train": images[:count], "y_train": labels[:count], "x_val": images[count:], "y_val": labels[count:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npz")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--spec", choices=MODELS, action="append")
    parser.add_argument("--settings", choices=[*SETTINGS, "all"], action="append")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: expected 2 or more; the first epoch is not counted")
    data = make_images(options.npz, options.images)
    shown = len(data["x_train"]) + len(data["x_val"])
    wanted = options.settings or ["all"]
    settings = list(SETTINGS) if "all" in wanted else wanted
    print(f"Backend {keras.backend.backend()}, {options.images:,} images of {SIZE}x{SIZE}, batch 32.\n")
    print("| spec | setting | Keras, images/s | kerasimg, images/s | ratio |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASIMG_CACHE"] = f"{folder}/cache"
        file = f"{folder}/data.npz"
        np.savez(file, **data)
        for name in options.spec or MODELS:
            plain: list[float] = []
            seconds_by_setting: dict[str, list[float]] = {setting: [] for setting in settings}
            for _ in range(options.rounds):
                plain += by_hand(name, data, options.epochs)
                for setting in settings:
                    seconds_by_setting[setting] += by_spec(name, file, options.epochs, folder, SETTINGS[setting])
            keras_s = statistics.median(plain)
            for setting, seconds in seconds_by_setting.items():
                ours_s = statistics.median(seconds)
                rates = f"{shown / keras_s:,.0f} | {shown / ours_s:,.0f} | {keras_s / ours_s:.2f}"
                print(f"| {name} | {setting} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
