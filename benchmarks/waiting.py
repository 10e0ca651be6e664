"""How much of `fit` is spent waiting for images, on the backend of the environment (KERAS_BACKEND).

    python benchmarks/waiting.py [SPEC] [--data sample] [--epochs 4] [--augment]

Every call for the next batch is timed: `train_function`, which `fit` calls for each step, is given an iterator that
keeps the time. (On TensorFlow, which fetches batches within its graph, the step is called with a batch fetched before
it. On PyTorch `fit` fetches it itself, between two steps: that time is taken.) The share is that of the epochs after
the first, in which everything is compiled. Exit code 1 when the median is 5 % or more.
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
    """Time spent in `next`, and in all, since it was last set back."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.begun = time.perf_counter()

    def back(self) -> None:
        self.__init__()

    def fetch(self, iterator: Iterator[Any]) -> Any:
        start = time.perf_counter()
        try:
            return next(iterator)
        finally:
            self.waited += time.perf_counter() - start

    def share(self) -> float:
        return self.waited / (time.perf_counter() - self.begun)


class Timed:
    """An iterator whose `next` is timed."""

    def __init__(self, iterator: Any, clock: Clock):
        self.iterator, self.clock = iterator, clock

    def __iter__(self) -> Timed:
        return self

    def __next__(self) -> Any:
        return self.clock.fetch(self.iterator)


def time_steps(model: keras.Model, clock: Clock) -> None:
    """Have the model's steps of training keep the time that they wait."""
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
    """Prints the share of each epoch, and keeps those after the first."""

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
            f"epoch {epoch + 1}: {time.perf_counter() - self.clock.begun:.2f} s, {share:.1%} of it waiting", flush=True
        )
        if epoch:
            self.shares.append(share)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if keras.backend.backend() == "torch":
            self.clock.waited += time.perf_counter() - self.left

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left = time.perf_counter()


def main() -> int:
    """Print the share of each epoch; 1 when the median is at the limit or above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="simple_cnn")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--augment", action="store_true", help="flip and rotate, whatever the spec says")
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs: expected 2 or more; the first epoch is not counted")
    source = open_source(given.data)
    model = kerasimg.build(given.spec, weights=None, num_classes=len(source.classes))
    model.compile("adam", "sparse_categorical_crossentropy")
    spec = load(given.spec, num_classes=len(source.classes))
    augment = compile_augment(AUGMENT if given.augment else spec.augment, spec.image, 0)
    images = {"batch_size": spec.fit.batch_size, "shuffle": True, "augment": augment, "epochs": None, "exact": False}
    dataset = batches(source, np.arange(len(source)), spec.image, cache=Cache("auto"), **images)
    clock = Clock()
    time_steps(model, clock)
    told = EachEpoch(clock)
    count = steps(len(source), spec.fit.batch_size)
    model.fit(dataset, epochs=given.epochs, steps_per_epoch=count, verbose=0, callbacks=[told], shuffle=False)
    share = float(np.median(told.shares))
    print(f"{keras.backend.backend()}: {share:.1%} of the time of fit is spent waiting for images")
    return 0 if share < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
