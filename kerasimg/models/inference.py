"""A frozen part as an inference engine: the fastest form that agrees with the model.

The forms, of which `settle` takes the first that fits and agrees at the seam:

- bfloat16: batch normalizations folded into the kernels, values of 8 binary digits. Where the CPU multiplies
  them by itself (AVX-512 BF16, AMX), and only folded: unfolded it is slower than float32.
- litert: the model as LiteRT runs it, float32. Its conversion takes seconds, so it is tried for much work only, on
  CPUs without bfloat16.
- folded: batch normalizations folded, float32; the same except for rounding.
- plain: Keras' own forward pass.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np

from kerasimg.errors import CallError, counted
from kerasimg.models.compiled_predict import Run, forward, has_gpu, images_at_once, in_parts
from kerasimg.models.flat_graph import flatten
from kerasimg.models.lowering import Program, lower
from kerasimg.models.output_kind import as_probabilities, output_kind
from kerasimg.models.split_model import Split
from kerasimg.processor import has_bfloat16

Form = Literal["plain", "folded", "bfloat16", "litert"]
Precision = Literal["auto", "plain", "folded", "bfloat16", "litert"]

NAMES: dict[Form, str] = {
    "plain": "run by Keras",
    "folded": "float32 with folded batch norm",
    "bfloat16": "bfloat16 with folded batch norm",
    "litert": "LiteRT float32",
}
"""Form -> what the user reads."""

TOLERANCE: dict[Form, float] = {"plain": 1e-6, "folded": 1e-4, "litert": 1e-4, "bfloat16": 0.02}
"""How far the probabilities of an image may be from the unsplit model's: the mean over the images of the largest
difference of a class."""

NEAR_TIE = 5
"""The first class may differ if the unsplit model's first two are closer than this many tolerances."""

NEXT: dict[Form, Form] = {"bfloat16": "folded", "litert": "folded", "folded": "plain"}
"""The fallback of a form that does not agree."""

TRIAL_FROM = 20_000
"""Images to compute from which on the forms are timed against one another; below, a rule is cheaper."""

TRIAL_BATCHES = 3


Whole = Callable[[Any], np.ndarray]
"""Images (N, H, W, C), 0-255 -> the first output of an unsplit model."""


class Agreement(NamedTuple):
    """The split model compared with the unsplit one."""

    probabilities: float
    """Mean over the images of the largest difference of a class."""
    same_first: bool
    """Whether the first class is the same for every image but near-ties."""


@dataclass(eq=False)
class Engine:
    """A frozen part that can be run: images (N, H, W, C) float32 0-255 -> the tensors of the seam, float32.

    On tensors of the backend, too: in a graph of `tf.data`, or in the threads that prepare batches. On JAX and PyTorch
    also of uint8 images, which are a quarter of the bytes to copy to a GPU.
    """

    form: Form
    split: Split
    batch_size: int
    run: Callable[[Any], list[Any]]
    program: Program | None = None
    rates: dict[str, float] = field(default_factory=dict)
    """Form -> images a second, as timed."""
    agreement: Agreement | None = None
    said: tuple[str, ...] = ()
    """The forms that were tried, and why they were rejected."""

    def __call__(self, images: Any) -> list[Any]:
        """The seam as tensors of the backend."""
        return self.run(images)

    def compute(self, images: Any) -> list[np.ndarray]:
        """The seam as arrays."""

        def arrays(part: Any) -> list[np.ndarray]:
            return [keras.ops.convert_to_numpy(tensor) for tensor in self.run(part)]

        return in_parts(arrays, images, self.at_once) if self.at_once else arrays(images)

    @cached_property
    def at_once(self) -> int:
        """How many images `compute` gives it at once; 0: all."""
        own = self.form == "litert" or keras.backend.backend() != "tensorflow"
        return 0 if own else images_at_once(self.split.frozen)

    @property
    def name(self) -> str:
        """The form and what else changes its numbers; part of the keys of cached features."""
        return self.form

    @property
    def line(self) -> str:
        """One line for the user."""
        line = f"frozen part: {counted(self.split.parameters, 'parameter')}, {NAMES[self.form]}"
        if self.form in self.rates:
            line += f", {self.rates[self.form]:,.0f} images/s"
        if self.form != "plain" and "plain" in self.rates:
            line += f" (Keras: {self.rates['plain']:,.0f})"
        if self.split.silenced:
            line += f"; what drops values in it ({counted(len(self.split.silenced), 'layer')}) works as in inference"
        return "; ".join([line, *self.said])

    @property
    def record(self) -> dict[str, Any]:
        """What `engine_of_record` needs; JSON-compatible."""
        agreement = None if self.agreement is None else list(self.agreement)
        return {"form": self.form, "rates": self.rates, "agreement": agreement, "said": list(self.said)}

    @property
    def figures(self) -> dict[str, Any]:
        """For the run's record."""
        found: dict[str, Any] = {"form": self.form, "parameters": self.split.parameters}
        found["images_per_second"] = {name: round(rate, 1) for name, rate in self.rates.items()}
        if self.program is not None:
            found["folded_normalizations"] = self.program.folded
            found["called_layers"] = list(self.program.called)
        if self.split.silenced:
            found["silenced"] = list(self.split.silenced)
        if self.agreement is not None:
            found["agreement"] = {**self.agreement._asdict(), "tolerance": TOLERANCE[self.form]}
        if self.said:
            found["said"] = list(self.said)
        return found


def engine(split: Split, batch_size: int, precision: Precision = "auto", work: int = 0) -> Engine:
    """The engine of a form; `auto` chooses by rule, or, from TRIAL_FROM images on, by timing the forms in turn.

    work: number of images to compute, over all epochs. CallError for a form that is not available here.
    """
    if precision not in get_args(Precision):
        raise CallError(f"no precision '{precision}' (there are: {', '.join(get_args(Precision))})")
    if precision != "auto":
        return MAKERS[precision](split, batch_size)
    candidates = [made for form in _candidates(work) if (made := _made(form, split, batch_size))]
    if work < TRIAL_FROM or len(candidates) == 1 or has_gpu():
        return candidates[0]
    rates = _timed([*candidates, _plain(split, batch_size)] if candidates[-1].form != "plain" else candidates)
    best = max(candidates, key=lambda engine: rates[engine.form])
    return replace(best, rates=rates)


def engine_of_record(split: Split, batch_size: int, record: Mapping[str, Any]) -> Engine:
    """The engine that an earlier process settled on, for the same model on such a machine."""
    agreement = record["agreement"] and Agreement(*record["agreement"])
    made = MAKERS[record["form"]](split, batch_size)
    return replace(made, rates=record["rates"], agreement=agreement, said=tuple(record["said"]))


def settle(
    model: keras.Model,
    split: Split,
    images: Any,
    *,
    batch_size: int,
    precision: Precision = "auto",
    work: int = 0,
    task: str = "multiclass",
    whole: Whole | None = None,
) -> Engine:
    """The engine of `engine` that agrees with the unsplit model on these real images, or the next one that does.

    images: a handful, (N, H, W, C) float32 0-255.  A form that the caller names is used, with a warning if it differs.
    whole: gives the unsplit model's outputs; None: its own forward pass.
    """
    made = engine(split, batch_size, precision, work)
    while True:
        found = agreement(model, made, images, task, whole)
        if agrees(made.form, found):
            return replace(made, agreement=found)
        if precision not in ("auto", "plain"):
            word = f"the probabilities differ by {found.probabilities:.2g} from the whole model's"
            return replace(made, agreement=found, said=(*made.said, word))
        if made.form == "plain":
            raise CallError(
                f"the model cut in two differs from the whole by {found.probabilities:.2g} in its probabilities; "
                'write "features": "off" in fit'
            )
        word = f"{NAMES[made.form]} differs by {found.probabilities:.2g} in the probabilities"
        word += "" if found.same_first else " and in the class"
        fallback = _made(NEXT[made.form], split, batch_size) or _plain(split, batch_size)
        made = replace(fallback, rates=made.rates, said=(*made.said, f"{word}, so it is not used"))


def agreement(
    model: keras.Model,
    made: Engine,
    images: Any,
    task: str = "multiclass",
    whole: Whole | None = None,
) -> Agreement:
    """Compares the probabilities, through the engine and the rest, with the unsplit model's; whole: as for `settle`."""
    parts = _of_rest(made.split, made.compute(images))
    return _compared(model, (whole or forward(model))(images), parts, made.form, task)


def reference(model: keras.Model, split: Split, run: Run, images: Any, task: str = "multiclass") -> Whole | None:
    """The outputs of the unsplit model by a float32 pass of its frozen part and the rest; None if they differ.

    A training needs that pass for its evaluation. Under TensorFlow on a CPU it takes less time to compare it with the
    model itself on two images, without compiling it, than to compile the model; elsewhere None.

    run: the frozen part in float32.
    """
    if keras.backend.backend() != "tensorflow" or has_gpu():
        return None

    def whole(images: Any) -> np.ndarray:
        return _of_rest(split, run(images))

    few = images[:2]
    found = _compared(model, _outputs(model, few)[0], whole(few), "folded", task)
    return whole if agrees("folded", found) else None


def _of_rest(split: Split, features: list[np.ndarray]) -> np.ndarray:
    """The first output of the rest of a model for the tensors of the seam."""
    return _outputs(split.rest, features if len(features) > 1 else features[0])[0]


def _compared(model: keras.Model, whole: np.ndarray, parts: np.ndarray, form: Form, task: str) -> Agreement:
    kind = output_kind(model)
    wanted, found = (as_probabilities(_by_row(outputs), kind, task) for outputs in (whole, parts))
    differences = np.abs(wanted - found).max(axis=-1)
    return Agreement(float(differences.mean()), _same_first(form, wanted, found))


def agrees(form: Form, found: Agreement) -> bool:
    """Whether that is within the tolerance of a form. Not a number is not."""
    return found.same_first and found.probabilities <= TOLERANCE[form]


def _candidates(work: int) -> list[Form]:
    if has_gpu():
        return ["bfloat16", "folded", "plain"]  # in this order of speed on every GPU that has bfloat16
    if has_bfloat16():
        return ["bfloat16", "folded", "plain"][: 3 if work < TRIAL_FROM else 2]  # type: ignore[return-value]
    return ["litert", "folded", "plain"] if work >= TRIAL_FROM else ["folded", "plain"]


def _made(form: Form, split: Split, batch_size: int) -> Engine | None:
    """The engine of a form; None if it is not available."""
    try:
        return MAKERS[form](split, batch_size)
    except CallError:
        return None


def _lowered(form: Form) -> Callable[[Split, int], Engine]:
    def make(split: Split, batch_size: int) -> Engine:
        program = lower(flatten(split.frozen), "bfloat16" if form == "bfloat16" else "float32")
        return Engine(form, split, batch_size, _compiled(program.__call__, split.frozen), program)

    return make


def _plain(split: Split, batch_size: int) -> Engine:
    """Keras' forward pass."""

    def forward(images: Any) -> list[Any]:
        outputs = keras.tree.flatten(split.frozen(images, training=False))
        return [keras.ops.cast(output, "float32") for output in outputs]

    return Engine("plain", split, batch_size, _compiled(forward, split.frozen))


def _compiled(function: Callable[[Any], list[Any]], model: keras.Model) -> Callable[[Any], list[Any]]:
    """A function of images, compiled by the backend with the weights as constants; it may run in several threads."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # With its size open in the batch alone, the last batch needs no graph of its own.
        signature = [tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32)]
        as_written = tf.autograph.experimental.do_not_convert
        return tf.function(as_written(lambda images: function(images)), input_signature=signature)

    def run(images: Any) -> list[Any]:
        with keras.StatelessScope():
            return function(keras.ops.cast(images, "float32"))

    if backend == "jax":
        return import_module("jax").jit(run)
    torch = import_module("torch")

    def without_gradients(images: Any) -> list[Any]:
        with torch.no_grad():
            return function(keras.ops.cast(keras.ops.convert_to_tensor(images), "float32"))

    return without_gradients


def _litert(split: Split, batch_size: int) -> Engine:
    """The frozen part exported to LiteRT; it takes any number of images, one batch after the other."""
    if keras.backend.backend() != "tensorflow":
        raise CallError("LiteRT as an engine needs the TensorFlow backend")
    interpreter = _Interpreter(split.frozen, batch_size)
    shapes = [(None, *shape) for shape in split.shapes]

    def run(images: Any) -> list[Any]:
        import tensorflow as tf

        outputs = tf.nest.flatten(tf.numpy_function(interpreter, [images], [tf.float32] * len(shapes)))
        return [tf.ensure_shape(output, shape) for output, shape in zip(outputs, shapes, strict=True)]

    return Engine("litert", split, batch_size, run)


MAKERS: dict[Form, Callable[[Split, int], Engine]] = {
    "plain": _plain,
    "folded": _lowered("folded"),
    "bfloat16": _lowered("bfloat16"),
    "litert": _litert,
}
"""Form -> what makes its engine, or raises CallError."""


class _Interpreter:
    """LiteRT on a model: arrays of float32 in and out."""

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        import tensorflow as tf

        self.batch_size = batch_size
        self._lock = threading.Lock()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # TensorFlow announces that LiteRT will move to a package of its own.
            warnings.simplefilter("ignore")
            path = Path(folder) / "frozen.tflite"
            signature = [keras.InputSpec(shape=(batch_size, *model.inputs[0].shape[1:]), dtype="float32")]
            model.export(path, format="litert", input_signature=signature, verbose=False)
            self._runner = tf.lite.Interpreter(model_content=path.read_bytes(), num_threads=os.cpu_count() or 1)
        self._runner.allocate_tensors()

    @cached_property
    def _places(self) -> tuple[int, list[int]]:
        outputs = sorted(self._runner.get_output_details(), key=lambda detail: detail["name"])
        return self._runner.get_input_details()[0]["index"], [detail["index"] for detail in outputs]

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Batches of the size it was made for; a smaller one is filled up with black."""
        into, outof = self._places
        parts = []
        with self._lock:
            for start in range(0, len(images), self.batch_size):
                batch = images[start : start + self.batch_size]
                full = np.zeros((self.batch_size, *batch.shape[1:]), np.float32)
                full[: len(batch)] = batch
                self._runner.set_tensor(into, full)
                self._runner.invoke()
                parts.append([self._runner.get_tensor(place)[: len(batch)] for place in outof])
        return [np.concatenate(one) for one in zip(*parts, strict=True)]


def _timed(engines: list[Engine]) -> dict[str, float]:
    """Images a second of each form: the best of a few batches, the forms in turn."""
    shape = engines[0].split.frozen.inputs[0].shape[1:]
    size = engines[0].batch_size
    images = np.random.default_rng(0).uniform(0, 255, (size, *shape)).astype(np.float32)
    best: dict[str, float] = {}
    for engine in engines:
        engine.compute(images)
    for _ in range(TRIAL_BATCHES):
        for engine in engines:
            start = time.perf_counter()
            engine.compute(images)
            rate = size / (time.perf_counter() - start)
            best[engine.form] = max(rate, best.get(engine.form, 0.0))
    return best


def _outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    if keras.backend.backend() == "tensorflow":
        outputs = model(inputs, training=False)
    else:  # JAX would compile each operation of a model that is called
        outputs = model.predict_on_batch(inputs)
    return [np.asarray(output).astype(np.float32) for output in keras.tree.flatten(outputs)]


def _by_row(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1)


def _same_first(form: Form, wanted: np.ndarray, found: np.ndarray) -> bool:
    """Whether each image's first class is the same, or was nearly not the first one."""
    if wanted.shape[-1] < 2:
        return True
    rows = np.arange(len(wanted))
    gap = wanted.max(axis=-1) - wanted[rows, found.argmax(axis=-1)]
    return bool((gap <= NEAR_TIE * TOLERANCE[form]).all())
