"""What a spec leaves to "auto": precision, batch size, XLA (`jit_compile`) and steps per execution.

The first three are chosen by a short probe before the run begins, except the precision on a GPU, which follows from a
rule. The probe trains copies of the model for a few steps on random pixels. The choice is stored in the run's spec, so
a resumed run has the same, and in its notes with the times.

Steps per execution follow from the size of the model. Between two calls of the compiled function Python takes half a
millisecond or more, which counts if a step is short. The number divides the steps of an epoch, so that the result is
the same. It is small enough for Ctrl-C, the progress bar and checkpoints to be handled about every second.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasimg import log
from kerasimg.callbacks import TimeBudget
from kerasimg.data.memory import free_bytes
from kerasimg.data.pipeline import Targets
from kerasimg.data.source import Source
from kerasimg.errors import CallError, counted
from kerasimg.models.build import construct, leaves
from kerasimg.models.compiled_predict import has_gpu
from kerasimg.models.split_model import split_frozen
from kerasimg.processor import has_bfloat16
from kerasimg.spec.load import Spec, load_again
from kerasimg.training import stages
from kerasimg.training.features import has_features
from kerasimg.training.objective import jit_compile, make_objective
from kerasimg.training.optimizer import make_optimizer
from kerasimg.training.splits import split_shares

Measure = Callable[[int], float]
"""Batch size -> seconds of a step; out of memory, it raises what the backend raises."""

WORTH = 0.9
"""A mixed precision is chosen if a step takes less than this share of the time in float32."""
SLOWER = 1.02
"""A batch size is too large if an image takes more than this times as long as with the best size so far."""
SMALLEST, LARGEST = 16, 1024
STEPS_OF_AN_EPOCH = 16
"""Least number of steps of an epoch if batch_size is "auto"."""
ROUNDS = 4
"""Timed steps, after the first; the fastest counts."""
ROOM = 0.5
"""Share of the free memory that a step may take by estimate; beyond it the system might kill the process."""
TYPICAL = 32
"""The batch size for the probe of precisions if the batch size is open, too."""
CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


def batch_size_of(spec: Spec) -> int:
    """Returns the number of images per step; CallError if it is still to be chosen."""
    size = spec.fit.batch_size
    if not isinstance(size, int):
        raise CallError(
            f"fit.batch_size: expected a number, got {size!r}, which only a training can choose; "
            'give overrides={"fit.batch_size": 32}'
        )
    return size


def precision_of(spec: Spec) -> str:
    """Returns the name of the dtype policy of a spec's models."""
    return spec.fit.precision


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the dtype policy of Keras while the block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def is_open(spec: Spec) -> bool:
    """Whether a probe has to choose something."""
    return "auto" in (spec.fit.precision, spec.fit.batch_size, spec.compile.jit_compile)


class Choices:
    """Replaces every "auto" that a probe decides; specs with the same model share the choice."""

    def __init__(self, limits: Mapping[str, int] | None) -> None:
        self.limits = limits
        self._known: dict[str, Any] = {}

    def settle(self, spec: Spec, source: Source) -> tuple[Spec, dict[str, Any]]:
        """Returns the spec without "auto", and notes on the measurements; logs each choice in one line.

        A spec that leaves nothing open is returned as it is, at no cost.
        """
        probe = Probe(spec, len(source.classes), source.soft, self.limits)
        spec, notes = self.settle_precision(spec, probe)
        if spec.fit.batch_size == "auto":
            most = max(SMALLEST, min(LARGEST, train_images(source, spec) // STEPS_OF_AN_EPOCH))
            spec = self._settle(spec, "batch size: {}", "fit.batch_size", lambda: probe.batch_size(spec, most), notes)
        if spec.compile.jit_compile == "auto":
            spec = self._settle(spec, "XLA: {}", "compile.jit_compile", lambda: probe.compilation(spec), notes)
        return spec, notes

    def settle_precision(self, spec: Spec, probe: Probe) -> tuple[Spec, dict[str, Any]]:
        """The same for the precision alone, which can be chosen without data."""
        notes: dict[str, Any] = {}
        if spec.fit.precision == "auto":
            spec = self._settle(spec, "precision: {}", "fit.precision", probe.precision, notes)
        return spec, notes

    def _settle(
        self, spec: Spec, line: str, key: str, choose: Callable[[], tuple[Any, dict[str, Any]]], notes: dict[str, Any]
    ) -> Spec:
        known = json.dumps([key, dict(spec.params), spec.resolved["model"], spec.resolved["image"]], default=repr)
        if known not in self._known:
            chosen, figures = self._known[known] = choose()
            name = {True: "on", False: "off"}[chosen] if isinstance(chosen, bool) else chosen
            log.once(f"{line.format(name)}, {figures['why']}")
        chosen, figures = self._known[known]
        notes[key.partition(".")[2]] = {"chosen": chosen, **figures}
        return load_again(spec, edits={key: chosen}, other_options=False)


@dataclass(frozen=True)
class Probe:
    """Times a few steps of copies of a spec's model."""

    spec: Spec
    classes: int
    soft: bool
    limits: Mapping[str, int] | None

    def precision(self) -> tuple[str, dict[str, Any]]:
        """Returns the dtype policy with the fastest step, and the measurements; float32 if nothing is faster."""
        size = TYPICAL if self.spec.fit.batch_size == "auto" else self.spec.fit.batch_size
        other = mixed_precision()
        if other is None:
            return "float32", {"why": "the CPU has no instructions for a shorter type"}
        if has_gpu():
            return other, {"why": "which GPUs multiply several times as fast; weights and statistics stay float32"}
        plain = self._subject(self.spec, "float32")
        if plain.cut:
            return "float32", {"why": "since only the end of the model trains; the frozen part has its own precision"}
        times, step_ms = _times({"float32": plain, other: self._subject(self.spec, other)}, size)
        chosen = other if times[other] < WORTH * times["float32"] else "float32"
        measured = ", ".join(f"{value:g} ms under {name}" for name, value in step_ms.items())
        return chosen, {
            "why": f"a step of {counted(size, 'image')} took {measured}",
            "batch_size": size,
            "step_ms": step_ms,
        }

    def batch_size(self, spec: Spec, most: int) -> tuple[int, dict[str, Any]]:
        """Returns the batch size, up to `most`, with the least time per image that fits in memory, and the times."""
        subject = self._subject(spec, spec.fit.precision)
        size, times, why = largest(subject.step_s, candidates(most, subject.bytes_of_image))
        return size, {"why": why, "images_per_s": {k: round(k / s, 1) for k, s in times.items()}}

    def compilation(self, spec: Spec) -> tuple[bool, dict[str, Any]]:
        """Returns whether to compile steps with XLA, and the measurements; probed on TensorFlow if it may help."""
        backend = keras.backend.backend()
        if backend != "tensorflow":
            why = "JAX always uses it" if backend == "jax" else "PyTorch has none, and its own compiler is not tried"
            return backend == "jax", {"why": why}
        size = batch_size_of(spec)
        plain = self._subject(spec, spec.fit.precision, jit=False)
        if plain.convolves and not has_gpu():
            # MobileNetV2 takes 15 times as long, and some minutes to compile.
            return False, {"why": "it makes convolutions slower on a CPU"}
        try:
            subjects = {"with": self._subject(spec, spec.fit.precision, jit=True), "without": plain}
            times, step_ms = _times(subjects, size)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False, {"why": f"it cannot compile the model ({type(error).__name__})"}
        why = (
            f"a step of {counted(size, 'image')} took {step_ms['with']:g} ms with it, {step_ms['without']:g} ms without"
        )
        return times["with"] < WORTH * times["without"], {"why": why, "batch_size": size, "step_ms": step_ms}

    def _subject(self, spec: Spec, precision: str, jit: bool | None = None) -> Subject:
        return Subject(spec, self.classes, self.soft, precision, self.limits, jit)


def _times(subjects: Mapping[str, Subject], size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns seconds and milliseconds of a step of each, the better of two runs on a machine with other load."""
    times = {name: subject.step_s(size) for name, subject in subjects.items()}
    times = {name: min(times[name], subject.step_s(size)) for name, subject in subjects.items()}
    return times, {name: round(1000 * seconds, 2) for name, seconds in times.items()}


def mixed_precision() -> str | None:
    """Returns the mixed precision that the machine supports: bfloat16, else float16, else None."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        if devices:
            capability = tf.config.experimental.get_device_details(devices[0]).get("compute_capability", (0, 0))
            return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else None
    elif has_gpu():
        return "mixed_bfloat16"
    return "mixed_bfloat16" if has_bfloat16() else None


def candidates(most: int, bytes_of_image: int) -> list[int]:
    """Returns the powers of two to try: from SMALLEST to `most`, if they fit in the free memory by estimate."""
    sizes = [size for size in (2**power for power in range(20)) if SMALLEST <= size <= most]
    room = ROOM * free_bytes()
    return [size for size in sizes if size * bytes_of_image <= room] or [SMALLEST]


def largest(step_s: Measure, sizes: Iterable[int]) -> tuple[int, dict[int, float], str]:
    """Returns the largest size that fits and at which an image takes no longer, the seconds of a step, and the reason.

    sizes: ascending. If the first does not fit, halves of it are tried; CallError if 1 does not fit.
    """
    times: dict[int, float] = {}
    best: int | None = None
    for size in sizes:
        try:
            times[size] = step_s(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if best is None:
                return _halved(step_s, size // 2)
            return best, times, f"{counted(size, 'image', 'do')} not fit in memory"
        if best is not None and times[size] / size > SLOWER * times[best] / best:
            return (
                best,
                times,
                f"with {size} an image takes {times[size] / size / (times[best] / best):.2f} times as long",
            )
        best = size
    if best is None:
        raise CallError("no batch size to try")
    return best, times, "the largest that was tried: a larger one gives an epoch too few steps, or may not fit"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a backend means that it ran out of memory."""
    text = str(error).lower()
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind in ("ResourceExhaustedError", "OutOfMemoryError"):
        return True
    # JAX, cuDNN and cuBLAS, TensorFlow inside another error; PyTorch on the CPU
    words = ("resource_exhausted", "out of memory", "oom when allocating", "can't allocate memory")
    return any(word in text for word in words)


class Subject:
    """A copy of a spec's model, as its last stage trains it, with random weights."""

    def __init__(
        self,
        spec: Spec,
        classes: int,
        soft: bool,
        precision: str,
        limits: Mapping[str, int] | None,
        jit: bool | None = None,
    ) -> None:
        with dtype_policy(precision):
            built = construct(spec, weights=None, limits=limits)
        for stage in spec.fit.stages:
            stages.enter(stage, built)
        split = split_frozen(built.model) if has_features(spec) else None
        self.cut = split is not None
        """Whether only the part after the frozen layers is trained and timed."""
        objective = make_objective(spec, built.model, classes, soft=soft)
        self.model = built.model if split is None else split.rest
        self.model.dtype_policy = built.model.dtype_policy  # by it Keras decides whether the loss is scaled
        self.targets, self.classes = objective.targets, classes
        wanted = jit_compile(spec) if jit is None else jit
        self.model.compile(
            optimizer=make_optimizer(spec, None, model=built.model), loss=objective.loss, jit_compile=wanted
        )

    @property
    def bytes_of_image(self) -> int:
        """Estimated memory of an image in training: the activations and their gradients in float32."""
        shapes = (output_shape(layer) for layer in leaves(self.model.layers))
        return 12 * sum(math.prod(side or 1 for side in shape[1:]) for shape in shapes)

    @property
    def convolves(self) -> bool:
        """Whether the trained part has a convolution."""
        return any(isinstance(layer, CONVOLUTIONS) for layer in leaves(self.model.layers))

    def step_s(self, size: int) -> float:
        """Returns the seconds of a training step with `size` images, the fastest of several."""
        draw = np.random.default_rng(0)
        x = [draw.uniform(0, 255, (size, *shape.shape[1:])).astype("float32") for shape in self.model.inputs]
        y = _labels(self.targets, size, self.classes, draw)
        inputs = x if len(x) > 1 else x[0]
        taken = []
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            self.model.train_on_batch(inputs, y)
            taken.append(time.perf_counter() - started)
        return min(taken[1:])


def _halved(step_s: Measure, size: int) -> tuple[int, dict[int, float], str]:
    """Returns the largest half, quarter and so on that fits."""
    while size >= 1:
        try:
            return size, {size: step_s(size)}, f"{counted(2 * size, 'image', 'do')} not fit in memory"
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    raise CallError("not even one image fits in memory; make image.size or the model smaller")


def steps_of_epoch(spec: Spec, images: int) -> int:
    """Returns the steps of an epoch, at least those for which a batch size is chosen if it is still open."""
    return STEPS_OF_AN_EPOCH if spec.fit.batch_size == "auto" else max(1, -(-images // batch_size_of(spec)))


def train_images(source: Source, spec: Spec) -> int:
    """Returns the number of images to train on: those that the data assigns, else about as many as the spec does."""
    return int((source.parts == 0).sum()) or int(len(source) * (1 - sum(split_shares(spec))))


def _labels(targets: Targets, size: int, classes: int, draw: np.random.Generator) -> np.ndarray:
    numbers = draw.integers(0, classes, size)
    forms: dict[Targets, Callable[[], np.ndarray]] = {
        "sparse": lambda: numbers,
        "one_hot": lambda: np.eye(classes, dtype=np.float32)[numbers],
        "binary": lambda: (numbers % 2)[:, None].astype(np.float32),
        "multi_hot": lambda: draw.integers(0, 2, (size, classes)).astype(np.float32),
    }
    return forms[targets]()


OPERATIONS_PER_S = 2e10
"""Multiplications per second of a slow CPU in training; on a faster one the pauses are more frequent."""
TURN_S = 1.0
MOST = 64
SCARCE = 4
"""A number below `MOST` by this factor is small."""


def choose_steps_per_execution(
    model: Any, batch_size: int, steps: int, callbacks: list[Any], most: int | None = None
) -> int:
    """Returns the steps per execution for a model and the steps of its epoch.

    most: an upper limit. The result is 1 if a callback acts on single steps, and on backends other than TensorFlow,
    which gain nothing.
    """
    if keras.backend.backend() != "tensorflow" or any(map(acts_on_steps, callbacks)):
        return 1
    step_s = 3 * batch_size * operations(model) / OPERATIONS_PER_S
    in_time = max(1, int(TURN_S / max(step_s, 1e-9)))
    enough = min(most or MOST, in_time)
    chosen = part_of(steps, enough)
    if chosen * SCARCE < enough:
        # Few numbers divide it: too many per execution are better than next to none.
        chosen = next((number for number in range(enough, min(steps, in_time) + 1) if steps % number == 0), chosen)
    return chosen


def part_of(steps: int, most: int) -> int:
    """Returns the largest divisor of the steps of an epoch, up to `most`.

    The data set is infinite: Keras would start the next epoch with the remaining batches of the last execution.
    """
    return max(number for number in range(1, min(most, steps) + 1) if steps % number == 0)


def operations(model: Any) -> int:
    """Estimates the multiplications per image: those of the kernels at each position of the output."""
    total = 0
    for layer in leaves(model.layers):
        weights = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
        if weights:
            places = [size or 1 for size in output_shape(layer)[1:-1]]
            total += weights * math.prod(places)
    return total


def acts_on_steps(callback: Any) -> bool:
    """Whether a callback acts at each step, for example sets the learning rate."""
    names = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    if isinstance(callback, keras.callbacks.TerminateOnNaN | TimeBudget):
        return False  # they may act a second later
    return any(getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name) for name in names)


def output_shape(layer: Any) -> tuple[int | None, ...]:
    """Returns the output shape of a layer, with the batch; empty if there are several."""
    try:
        return tuple(layer.output.shape)
    except (AttributeError, ValueError):  # called several times, or on several inputs
        return ()
