"""How fast this machine is with the models of `auto`, measured on a few images, so that it fits into its minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasimg.data.cache import open_cache
from kerasimg.data.loading import Loader
from kerasimg.evaluation.known import images_of_rule
from kerasimg.models.compiled_predict import forward
from kerasimg.models.inference import settle
from kerasimg.models.split_model import split_frozen
from kerasimg.spec.document import Task
from kerasimg.training.engine import compile_model, stage_optimizer
from kerasimg.training.prepare import Experiment

MEASURED = 32
"""Images on which a pace is measured."""
COMPARED = 100
"""Test images on which an export is compared with the model."""


class Pace(NamedTuple):
    """How fast this machine is with the recipe's backbone, measured on some images."""

    size: int
    """Height of the images in px."""
    load_s: float
    """Seconds to read and resize an image."""
    frozen_s: float
    """Seconds that an image takes through the frozen part as an inference engine."""
    keras_s: float
    """The same through the whole model in Keras."""
    start_s: float
    """Seconds to build the model and compile its forward pass."""

    @property
    def rate(self) -> float:
        """Images per second through the frozen part, with reading and resizing."""
        return 1 / (self.load_s + self.frozen_s)

    def features_s(self, images: int, size: int | None = None) -> float:
        """Seconds for the features of images of this height in px; None: that of the measurement."""
        return images * (self.load_s + self.frozen_s * self._share(size))

    def answers_s(self, images: int, size: int | None = None) -> float:
        """Seconds for what Keras predicts for images."""
        return images * (self.load_s + self.keras_s * self._share(size))

    def _share(self, size: int | None) -> float:
        return 1.0 if size is None else (size / self.size) ** 2


class Parts(NamedTuple):
    """Number of images of each part."""

    train: int
    validation: int
    test: int


class Costs(NamedTuple):
    """About how many seconds what `auto` does takes on this machine, with these images."""

    pace: Pace
    parts: Parts
    classes: int

    @property
    def build_s(self) -> float:
        """A model is built and compiled."""
        return 1.5 * self.pace.start_s

    @property
    def recipe_s(self) -> float:
        """The recipe is trained: features of four views of each training image."""
        return 1.1 * self.pace.features_s(4 * self.parts.train + self.parts.validation) + self.build_s

    def plain_s(self, size: int) -> float:
        """A head is trained on features of images of this height in px, without augmentation."""
        return 1.1 * self.pace.features_s(self.parts.train + self.parts.validation, size) + self.build_s

    def smaller_s(self, sizes: Sequence[int]) -> float:
        """A head is trained at each of these sizes, and its model is measured."""
        features_s = sum(self.pace.features_s(self.parts.train + self.parts.validation, size) for size in sizes)
        return 1.5 * features_s + len(sizes) * 2 * self.build_s

    @property
    def backbone_s(self) -> float:
        """A head is trained on another backbone, which may be slower."""
        return 3 * self.pace.features_s(self.parts.train + self.parts.validation) + 2 * self.build_s

    @property
    def flips_s(self) -> float:
        """A test-time flip: images and mirror images of the validation now, and mirror images in the evaluation."""
        return self.pace.start_s + self.pace.answers_s(3 * self.parts.validation + self.parts.test)

    def end_s(self, size: int | None = None, *, export: bool = True) -> float:
        """The end after one trial, with images of this size: the rule for unknown images, the test and the export."""
        rule = images_of_rule(self.parts.train, self.parts.validation, self.classes)
        answers_s = 1.1 * self.pace.answers_s(self.parts.validation + rule + self.parts.test, size)
        return 3 + self.build_s + answers_s + (self.export_s if export else 0.0)

    @property
    def several_s(self) -> float:
        """Several trials are compared before the end, which builds their models."""
        return self.build_s

    @property
    def export_s(self) -> float:
        """A model is converted, and compared with its file."""
        return 5 * self.pace.start_s + self.pace.answers_s(COMPARED)

    @property
    def report_s(self) -> float:
        """The report of a run is written."""
        return 5 + self.pace.start_s


def measure_pace(experiment: Experiment, task: Task, started: float) -> Pace:
    """Measure the frozen part, or the whole model if it has none.  started: `time.perf_counter` before it was made."""
    experiment.enter(0)
    model, split = experiment.built.model, split_frozen(experiment.built.model)
    images = some_images(experiment, MEASURED)
    compute: Callable[[Any], Any] = forward(model)
    if split is not None:
        work = len(experiment.parts["train"])
        compute = settle(model, split, images[:16], batch_size=64, work=work, task=task).compute
    compute(images)
    start_s = time.perf_counter() - started
    forward(model)(images)  # compiles it
    some, load_s = timed(some_images, experiment, MEASURED)
    frozen_s, keras_s = (min(timed(function, some)[1] for _ in range(2)) for function in (compute, forward(model)))
    size = experiment.spec.image.size[0]
    return Pace(size, load_s / MEASURED, frozen_s / MEASURED, keras_s / MEASURED, start_s)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Returns what a function returns, and the seconds that it took."""
    started = time.perf_counter()
    return function(*arguments), time.perf_counter() - started


def measure_epoch(experiment: Experiment, started: float) -> tuple[float, float]:
    """Measure an epoch of the last stage on three steps; return its seconds and those from `started` to the first."""
    last = len(experiment.spec.fit.stages) - 1
    model = experiment.enter(last).built.model
    compile_model(experiment, model, stage_optimizer(experiment, last))
    images = some_images(experiment, experiment.batch_size)
    labels: Any = np.zeros((len(images), model.output_shape[-1]), np.float32)
    if experiment.objective.targets == "sparse":
        labels = np.zeros(len(images), np.int64)
    model.train_on_batch(images, labels)
    start_s = time.perf_counter() - started
    began = time.perf_counter()
    for _ in range(2):
        some_images(experiment, experiment.batch_size)  # reading them takes its time, too
        model.train_on_batch(images, labels)
    step_s = (time.perf_counter() - began) / 2
    tested = len(experiment.parts.get("validation", ())) / experiment.batch_size
    return step_s * (experiment.steps + tested / 3), start_s


def some_images(experiment: Experiment, count: int) -> np.ndarray:
    """Reads training images, evenly taken: (count, H, W, C) float32."""
    train = experiment.parts["train"]
    some = train[np.linspace(0, len(train) - 1, count).astype(np.int64)]
    loader = Loader(experiment.source, some, experiment.spec.image, open_cache("off"), exact=False)
    return np.asarray(loader.load(np.arange(count)).astype(np.float32))
