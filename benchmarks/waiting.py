"""Share of `fit` that is spent waiting for images, on the backend in KERAS_BACKEND.

    python benchmarks/waiting.py [SPEC] [--data sample] [--epochs 4] [--augment]
    python benchmarks/waiting.py --iterators 25

Times every request for the next batch: `train_function`, which `fit` calls for each step, gets an iterator that
measures time. (TensorFlow fetches batches inside its graph, so the step gets a batch that was fetched before. On
PyTorch, `fit` fetches between two steps, and that time is measured.) The first epoch, which compiles everything, does
not count. Exit code 1 if the median is 5 % or more.

--iterators N, under TensorFlow: how long the end of an iterator takes, N times with tf.data's autotuner and N times
without it, in turn, while the process multiplies matrices; three batches, 0.4 s apart. Exit code 1 if the batches of
the two differ, or the end without takes longer than 0.1 s.
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


def time_iterators(data: str, repeats: int) -> int:
    """Prints how long iterators take to end, with and without autotuning."""
    import tensorflow as tf

    source = open_source(data)
    indices, image = np.arange(min(96, len(source))), load("simple_cnn", num_classes=len(source.classes)).image
    matrix = tf.random.normal((1500, 1500))
    multiply = tf.function(lambda: tf.reduce_sum(tf.linalg.matmul(matrix, matrix)))

    def end_s(autotuned: bool) -> tuple[float, float]:
        """Seconds that the end took, and the sum of the pixels."""
        dataset = batches(source, indices, image, batch_size=32, cache="off")
        options = tf.data.Options()
        options.autotune.enabled = autotuned
        iterator, total = iter(dataset.with_options(options)), 0.0
        for pixels, _ in iterator:
            total += float(tf.reduce_sum(pixels))
            until = time.perf_counter() + 0.4
            while time.perf_counter() < until:
                multiply()
        started = time.perf_counter()
        del iterator
        return time.perf_counter() - started, total

    rows = [(end_s(True), end_s(False)) for _ in range(repeats)]
    for place, name in enumerate(("autotuned", "not autotuned")):
        seconds = np.array([row[place][0] for row in rows])
        print(
            f"{name}: the end of an iterator took {np.mean(seconds):.3f} s on average, {np.median(seconds):.3f} in the "
            f"median, at most {seconds.max():.2f}; over 0.1 s in {(seconds > 0.1).sum()} of {repeats}"
        )
    return 0 if len({row[place][1] for row in rows for place in (0, 1)}) == 1 and seconds.max() < 0.1 else 1


def main() -> int:
    """Prints the share of each epoch; returns 1 if the median exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="simple_cnn")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--augment", action="store_true", help="flip and rotate instead of the spec's augmentation")
    parser.add_argument("--iterators", type=int, default=0, metavar="N")
    options = parser.parse_args()
    if options.iterators:
        return time_iterators(options.data, options.iterators)
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
