"""Share of `fit` that is spent waiting for images, on the backend in KERAS_BACKEND.

    python benchmarks/waiting.py [SPEC] [--data sample] [--epochs 4] [--augment]

Times every request for the next batch: `train_function`, which `fit` calls for each step, gets an iterator that
measures time. (TensorFlow fetches batches inside its graph, so the step gets a batch that was fetched before. On
PyTorch, `fit` fetches between two steps, and that time is measured.) The first epoch, which compiles everything, does
not count. Exit code 1 if the median is 5 % or more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
from kerasimg.catalog import load
from kerasimg.data.augment import compile_augment
from kerasimg.data.cache import Cache
from kerasimg.data.pipeline import batches, steps
from kerasimg.data.sources import open_source

LIMIT = 0.05
AUGMENT: list[tuple[str, dict[str, Any]]] = [
    ("RandomFlip", {"mode": "horizontal"}),
    ("RandomRotation", {"factor": 0.05}),
]


class Clock:
    """Measures the time in `next`, and in total, since the last reset."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.started = time.perf_counter()

    def back(self) -> None:
        self.__init__()

    def fetch(self, iterator: Iterator[Any]) -> Any:
        start = time.perf_counter()
        try:
            return next(iterator)
        finally:
            self.waited += time.perf_counter() - start

    def share(self) -> float:
        return self.waited / (time.perf_counter() - self.started)


class Timed:
    """An iterator whose `next` is timed."""

    def __init__(self, iterator: Any, clock: Clock):
        self.iterator, self.clock = iterator, clock

    def __iter__(self) -> Timed:
        return self

    def __next__(self) -> Any:
        return self.clock.fetch(self.iterator)


def time_steps(model: keras.Model, clock: Clock) -> None:
    """Makes the training steps of a model measure their waiting time."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        step = tf.function(model.train_step)
        model.train_function = lambda iterator: step(clock.fetch(iterator))
        return
    if keras.backend.backend() == "jax":
        model.make_train_function()
        inner = model.train_function
        model.train_function = lambda state, iterator: inner(state, Timed(iterator, clock))


class EachEpoch(keras.callbacks.Callback):
    """Prints the share of each epoch, and stores those after the first."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self.shares: list[float] = []
        self.left = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.clock.back()
        self.left = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        share = self.clock.share()
        print(
            f"epoch {epoch + 1}: {time.perf_counter() - self.clock.started:.2f} s, {share:.1%} of it waiting",
            flush=True,
        )
        if epoch:
            self.shares.append(share)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if keras.backend.backend() == "torch":
            self.clock.waited += time.perf_counter() - self.left

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left = time.perf_counter()


def main() -> int:
    """Prints the share of each epoch; returns 1 if the median exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="simple_cnn")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--augment", action="store_true", help="flip and rotate instead of the spec's augmentation")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: expected 2 or more; the first epoch is not counted")
    source = open_source(options.data)
    model = kerasimg.build(options.spec, weights=None, num_classes=len(source.classes))
    model.compile("adam", "sparse_categorical_crossentropy")
    spec = load(options.spec, num_classes=len(source.classes))
    augment = compile_augment(AUGMENT if options.augment else spec.augment, spec.image, 0)
    images = {"batch_size": spec.fit.batch_size, "shuffle": True, "augment": augment, "epochs": None, "exact": False}
    dataset = batches(source, np.arange(len(source)), spec.image, cache=Cache("auto"), **images)
    clock = Clock()
    time_steps(model, clock)
    output = EachEpoch(clock)
    count = steps(len(source), spec.fit.batch_size)
    model.fit(dataset, epochs=options.epochs, steps_per_epoch=count, verbose=0, callbacks=[output], shuffle=False)
    share = float(np.median(output.shares))
    print(f"{keras.backend.backend()}: {share:.1%} of the time of fit is spent waiting for images")
    return 0 if share < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
