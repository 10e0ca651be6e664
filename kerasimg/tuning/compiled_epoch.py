"""Runs a stage of a trial as compiled epochs: one graph per model, shared by several trials.

Keras' `fit` returns to Python after every few steps and compiles again for each model. Here one graph runs all steps of
an epoch, on images or features that are in memory as a tensor. The inputs of the graph are everything that may differ
between two trials: the order, the labels, the batch size and the sample weights. The step is Keras' own `train_step`,
so the result equals that of `fit`. TensorFlow only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from kerasimg import keras_internals
from kerasimg.data.batches import encode_labels, labels_for
from kerasimg.data.cache import Cache, memory_room, open_cache
from kerasimg.data.items import Part
from kerasimg.data.loading import Loader
from kerasimg.data.shuffling import permutation
from kerasimg.data.source import Source
from kerasimg.spec.document import Image
from kerasimg.spec.load import Spec
from kerasimg.training.auto_settings import OPERATIONS_PER_S, operations
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.deadline import NEVER
from kerasimg.training.engine import compile_model, stage_optimizer
from kerasimg.training.feature_rows import Rows
from kerasimg.training.features import FeaturePlan, StageData
from kerasimg.training.optimizer import written_rate
from kerasimg.training.prepare import Experiment
from kerasimg.training.splits import seed_of

LONGEST_CALL_S = 4.0
"""Longest time of one call on a slow CPU; a longer epoch is split into several calls, so that Ctrl-C works."""
TIMED_CALL_S = 0.5
"""The same for a training with a deadline."""


def _as_written(function: Callable[..., Any]) -> Any:
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


@dataclass(frozen=True, eq=False)
class Table:
    """Examples in memory: images, or features of them."""

    parts: tuple[Any, ...]
    """Tensors of (rows, ...), one for each input of the model."""
    labels: Any
    """(n, ...), in the form that the loss takes."""
    weights: Any
    """(n,) float32 sample weights; None: all are 1."""
    rows: np.ndarray
    """(n,): the row of each example in its first view."""
    views: int = 1
    """Number of views of each example; `parts` holds them one after the other, and epoch e uses view e % views."""
    blended: bool = False
    """Whether each view has its own labels."""

    def order(self, epoch: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of `parts` and of `labels` in an epoch, shuffled if there is a seed."""
        count = len(self.rows)
        places = np.arange(count) if seed is None else permutation(count, seed, epoch)
        rows = self.rows[places] + epoch % self.views * count
        return rows, rows if self.blended else places


class Compiled:
    """The compiled graphs of one model in one stage, and its optimizer."""

    def __init__(self, experiment: Experiment, index: int, model: Any, earlier: Compiled | None = None) -> None:
        """earlier: the graphs of the same model in an earlier stage."""
        self.model = model
        self.optimizer = stage_optimizer(experiment, index)
        if earlier is None:
            compile_model(experiment, model, self.optimizer)
        else:
            # Compiling again would replace the loss tracker that the earlier graphs update.
            model.optimizer = self.optimizer
        self.decay = lift_decay(self.optimizer)
        self.optimizer.build(model.trainable_variables)
        self._begin = [variable.numpy() for variable in self.optimizer.variables]
        train = self._step(model.train_step)
        self.train = self._over_table(train), self._over_batches(train)
        test = self._step(model.test_step)
        self.test: tuple[Any, Any] = earlier.test if earlier else (self._over_table(test), self._over_batches(test))

    def begin(self, experiment: Experiment, index: int) -> None:
        """Reset the optimizer, with the settings of the experiment's spec."""
        self.model.optimizer = self.optimizer
        new = stage_optimizer(experiment, index)
        for variable, value in zip(self.optimizer.variables, self._begin, strict=True):
            variable.assign(value)
        if keras_internals.learning_rate_schedule(new) is None:
            variable = keras_internals.learning_rate_variable(self.optimizer)
            variable.assign(keras_internals.learning_rate_variable(new))
        if self.decay is not None:
            self.decay.assign(float(new.weight_decay))

    def _step(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        import tensorflow as tf

        return tf.function(step, jit_compile=True) if self.model.jit_compile else step

    def _over_table(self, step: Callable[[Any], Any]) -> Any:
        """Returns a graph that runs steps `first` to `last` on the rows of a table."""
        import tensorflow as tf

        def run(
            first: Any, last: Any, size: Any, parts: Any, labels: Any, weights: Any, rows: Any, places: Any
        ) -> dict[str, Any]:
            def body(number: Any) -> list[Any]:
                start, end = number * size, (number + 1) * size
                x = tuple(tf.cast(tf.gather(part, rows[start:end]), tf.float32) for part in parts)
                own = places[start:end]
                batch = (x if len(x) > 1 else x[0], tf.gather(labels, own))
                step(batch if weights is None else (*batch, tf.gather(weights, own)))
                return [number + 1]

            tf.while_loop(lambda number: number < last, _as_written(body), [first])
            return dict(self.model.get_metrics_result())

        return _function(run)

    def _over_batches(self, step: Callable[[Any], Any]) -> Any:
        """Returns a graph that runs `count` steps on the next batches of an iterator."""
        import tensorflow as tf

        def run(count: Any, batches: Any) -> dict[str, Any]:
            def body(number: Any) -> list[Any]:
                step(next(batches))
                return [number + 1]

            tf.while_loop(lambda number: number < count, _as_written(body), [tf.zeros((), tf.int64)])
            return dict(self.model.get_metrics_result())

        return _function(run)


def _function(run: Callable[..., Any]) -> Any:
    import tensorflow as tf

    return keras_internals.without_retracing_warning(tf.function(_as_written(run), reduce_retracing=True))


class WholeEpochs:
    """One stage of one trial, run by compiled graphs."""

    def __init__(
        self,
        experiment: Experiment,
        index: int,
        plan: FeaturePlan,
        compiled: Compiled,
        tables: tuple[Table | None, Table | None],
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """tables: the training and the validation examples; None: they are not in memory, or do not exist.

        computing: returns the context in which a graph over a table runs, see `Prefetch`.
        """
        compiled.begin(experiment, index)
        self.plan, self.compiled, self.model, self.computing = plan, compiled, compiled.model, computing
        self.train_table, self.test_table = tables
        self.size, self.steps = experiment.batch_size, experiment.steps
        self.tested = -(-len(experiment.parts.get("validation", ())) // self.size)
        self.seed = seed_of(experiment.spec)
        step_s = 3 * self.size * operations(self.model) / OPERATIONS_PER_S
        call_s = LONGEST_CALL_S if experiment.deadline is NEVER else TIMED_CALL_S
        self.steps_per_call = max(1, int(call_s / max(step_s, 1e-9)))

    def run(self, watch: Watch) -> None:
        """Train from the epoch of `watch` until `watch.until`, or until a callback sets `model.stop_training`."""
        first = watch.epoch
        watch.on_train_begin()
        on = None if self.train_table else iter(self.plan.train(first_epoch=first, epochs=None))
        for epoch in range(first, watch.until):
            self.model.reset_metrics()
            watch.on_epoch_begin(epoch)
            order = self.train_table.order(epoch, self.seed) if self.train_table else None
            logs = self._pass(self.compiled.train, self.steps, self.train_table, order, on, watch.is_late)
            if self.tested:
                watch.on_test_begin()
                self.model.reset_metrics()
                order = self.test_table.order(0, None) if self.test_table else None
                batches = None if self.test_table else iter(self.plan.validation())
                figures = self._pass(self.compiled.test, self.tested, self.test_table, order, batches)
                watch.on_test_end(figures)
                logs |= {f"val_{name}": value for name, value in figures.items()}
            watch.on_epoch_end(epoch, logs)
            if self.model.stop_training:
                break
        watch.on_train_end()

    def trace(self) -> Callable[[], None]:
        """Trace the graphs over tables; return a function that runs zero steps, so that TensorFlow optimizes them."""
        import tensorflow as tf

        calls = [
            self._over_table(graphs, 0, 0, table, [tf.constant(array) for array in table.order(0, None)])
            for graphs, table in ((self.compiled.train, self.train_table), (self.compiled.test, self.test_table))
            if table is not None
        ]

        def optimize() -> None:
            for call in calls:
                call()

        return optimize

    def _over_table(self, graphs: Any, first: int, last: int, table: Table, order: Sequence[Any]) -> Callable[[], Any]:
        """Trace steps `first` to `last`, and return a function that runs them."""
        import tensorflow as tf

        run = graphs[0]
        bounds = tf.constant(first, tf.int64), tf.constant(last, tf.int64), tf.constant(self.size, tf.int64)
        arguments = *bounds, table.parts, table.labels, table.weights, *order
        run.get_concrete_function(*arguments)
        return partial(run, *arguments)

    def _pass(
        self,
        graphs: Any,
        steps: int,
        table: Table | None,
        order: Sequence[np.ndarray] | None,
        batches: Any,
        is_late: Callable[[int], bool] = lambda done: False,
    ) -> dict[str, float]:
        """Run one pass over all examples and return the metrics.

        graphs: those to train or to validate.  is_late: whether to end after this number of steps.
        """
        import tensorflow as tf

        metrics: dict[str, Any] = {}
        indices = [tf.constant(array) for array in order or ()]
        for first in range(0, steps, self.steps_per_call):
            last = min(first + self.steps_per_call, steps)
            if table is None:
                metrics = graphs[1](tf.constant(last - first, tf.int64), batches)
            else:
                call = self._over_table(graphs, first, last, table, indices)
                with self.computing():
                    metrics = call()
            if is_late(last):
                break
        return {name: float(value) for name, value in metrics.items()}


NUMBER = "a number"
"""Placeholder in a signature for a number that is a variable of the graph."""
LIFTED = ("learning_rate", "weight_decay")
"""Settings of an optimizer that are variables of the graph."""


class Rate:
    """The rate of a Dropout layer as two TensorFlow variables."""

    def __init__(self) -> None:
        import tensorflow as tf

        self.rate = tf.Variable(0.5, trainable=False, dtype=tf.float32)
        self.scale = tf.Variable(2.0, trainable=False, dtype=tf.float32)

    def assign(self, rate: float) -> None:
        """Set the rate, a number in (0, 1)."""
        self.rate.assign(rate)
        self.scale.assign(1 / (1 - rate))  # in double precision, as TensorFlow computes it for a constant rate


class VariableDropout(keras.layers.Dropout):
    """Dropout whose rate is a variable; `lift_rates` converts a Dropout layer to it."""

    variable_rate: Rate

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Computes what keras.layers.Dropout does, by the same operations of TensorFlow in the same order."""
        if not training:
            return inputs
        import tensorflow as tf

        drawn = keras.random.uniform(tf.shape(inputs), dtype=inputs.dtype, seed=self.seed_generator)
        scaled = inputs * self.variable_rate.scale
        return tf.where(drawn >= self.variable_rate.rate, scaled, tf.zeros((), inputs.dtype))


def lift_rates(model: keras.Model, names: Mapping[str, float]) -> dict[str, Rate]:
    """Turn the rates of these Dropout layers into variables; call it before the model is compiled."""
    rates = {}
    for layer in model.layers:
        name = layer.name
        if name not in names or type(layer) is not keras.layers.Dropout or layer.compute_dtype != "float32":
            continue
        rates[name] = Rate()
        layer.__class__ = VariableDropout
        # Bypasses Keras' own setter, which would track the variables as weights of the layer.
        object.__setattr__(layer, "variable_rate", rates[name])
    return rates


def lift_decay(optimizer: Any) -> Any:
    """Turn the optimizer's weight decay into a variable and return it; None if there is no decay."""
    if optimizer.weight_decay is None:
        return None
    import tensorflow as tf

    decay = tf.Variable(float(optimizer.weight_decay), trainable=False, dtype=tf.float32)
    object.__setattr__(optimizer, "weight_decay", decay)
    return decay


def optimizer_signature(spec: Spec) -> list[Any]:
    """Returns the settings of each stage's optimizer, with placeholders for the numbers that are variables."""
    value = spec.compile.optimizer
    written = {"type": value} if isinstance(value, str) else dict(value)
    settings = []
    for stage in spec.fit.stages:
        entry = dict(written)
        rate = written_rate(spec, stage)
        entry["learning_rate"] = NUMBER if rate is None or _is_number(rate) else rate
        if _is_number(entry.get("weight_decay")):
            entry["weight_decay"] = NUMBER
        settings.append(entry)
    return settings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SHARE = 0.25
"""Largest share of the memory for cached images that one tensor of all images may take; else they come in batches."""
SECTIONS = 2
"""Number of different `image` sections whose images are stored as a tensor."""
AT_ONCE = 1024


class Tables:
    """The training and validation examples of trials as tensors, if they fit in memory."""

    def __init__(self, source: Source, cache: Cache) -> None:
        self.source, self.cache = source, cache
        self._pixels: OrderedDict[str, Any] = OrderedDict()

    def of(self, plan: FeaturePlan) -> tuple[Table | None, Table | None]:
        """Returns the training and the validation table; None for a part that comes in batches or does not exist."""
        return self._train(plan), self._validation(plan)

    def _train(self, plan: FeaturePlan) -> Table | None:
        data = plan.data
        if "train" in plan.rows:
            return self._features(data, plan.rows["train"], "train", data.sample_weight)
        if plan.engine is not None or data.augmentation is not None:
            return None
        return self._images(data, "train", data.sample_weight)

    def _validation(self, plan: FeaturePlan) -> Table | None:
        if "validation" not in plan.data.parts:
            return None
        if "validation" in plan.rows:
            return self._features(plan.data, plan.rows["validation"], "validation", None)
        return self._images(plan.data, "validation", None) if plan.engine is None else None

    def _features(self, data: StageData, rows: Rows, part: Part, weights: np.ndarray | None) -> Table:
        import tensorflow as tf

        parts = tuple(tf.constant(array) for array in rows.parts)
        labels = self._labels(data, part) if rows.labels is None else tf.constant(rows.labels)
        views = len(rows.parts[0]) // rows.count
        return Table(parts, labels, _tensor(weights), np.arange(rows.count), views, rows.labels is not None)

    def _images(self, data: StageData, part: Part, weights: np.ndarray | None) -> Table | None:
        pixels = self._all_pixels(data.image)
        if pixels is None:
            return None
        return Table((pixels,), self._labels(data, part), _tensor(weights), data.parts[part].astype(np.int64))

    def _labels(self, data: StageData, part: Part) -> Any:
        import tensorflow as tf

        labels = labels_for(data.source, data.parts[part], data.targets)
        return tf.constant(encode_labels(labels, data.targets, len(data.source.classes)))

    def _all_pixels(self, image: Image) -> Any:
        """Returns all images of the source, (images, H, W, C) uint8; None if they do not fit in memory."""
        import tensorflow as tf

        key = image.model_dump_json()
        if key not in self._pixels:
            shape = (len(self.source), *image.size, image.channels)
            if np.prod(shape, dtype=np.int64) > SHARE * memory_room():
                return None
            loader = Loader(self.source, np.arange(len(self.source)), image, open_cache(self.cache), exact=False)
            pixels = np.empty(shape, np.uint8)
            for first in range(0, len(pixels), AT_ONCE):
                places = np.arange(first, min(first + AT_ONCE, len(pixels)))
                pixels[places] = loader.load(places)
            self._pixels[key] = tf.constant(pixels)
            while len(self._pixels) > SECTIONS:
                self._pixels.popitem(last=False)
        self._pixels.move_to_end(key)
        return self._pixels[key]


def _tensor(weights: np.ndarray | None) -> Any:
    import tensorflow as tf

    return None if weights is None else tf.constant(weights, tf.float32)
