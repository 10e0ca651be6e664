"""Steps that run on the device from data to weights, many in one compiled call: an execution of the engine under JAX.

All images of a stage, or their features, are uploaded once, as they are stored: uint8, or float16. What is sent to the
device for an epoch is the order of the images, 4 bytes an image. One compiled loop looks up the images of a batch,
augments them, and runs Keras' own `train_step`; the batches, the random numbers and the steps are those of `model.fit`,
so the results are the same to rounding. Python is called about once a second, for Ctrl-C, progress and checkpoints.

It pays where a step takes less time than calling it, and where copying batches takes longer than computing them: on a
GPU. XLA's loops are slow on a CPU.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasimg import log
from kerasimg.data.augmentation.compiled import Compiled
from kerasimg.data.batches import encode_labels, labels_for
from kerasimg.data.cache import memory_room, open_cache
from kerasimg.data.items import Part
from kerasimg.data.loading import Loader
from kerasimg.data.pipeline import finish_batch
from kerasimg.data.shuffling import Order
from kerasimg.data.source import Source
from kerasimg.errors import counted, sized
from kerasimg.keras_internals import build_metrics, has_keras_steps, jax_state, keep_jax_state, restore_jax_state
from kerasimg.models.compiled_predict import has_gpu
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.features import FeaturePlan, StageData

VARIABLE = "KERASIMG_DEVICE_STEPS"
"""The environment variable that forces these steps ("1") or forbids them ("0")."""
SHARE = 0.4
"""Largest share of the device's memory that the data may take."""
CALL_S = 1.0
"""Time of one call."""
FIRST_STEPS = 8
"""Steps of the first call, by which their time is measured."""
AT_ONCE = 2048
"""Images that are loaded at once."""

Reason = str


def why_not(plan: FeaturePlan) -> Reason | None:
    """Returns why the steps of a stage are not run in this way; None if they can be.

    An empty reason needs no mention: there is no GPU, or it is forbidden.
    """
    wanted = os.environ.get(VARIABLE)
    if keras.backend.backend() != "jax" or wanted == "0" or not (has_gpu() or wanted == "1"):
        return ""
    if not has_keras_steps(plan.model):
        return "the model has a training step of its own"
    if plan.engine is not None and plan.mode == "fresh":
        return "the frozen part is computed in the input pipeline"
    if plan.rows and ("validation" in plan.data.parts) != ("validation" in plan.rows):
        return "the validation features are not in memory"
    augmentation = plan.data.augmentation
    if "train" not in plan.rows and augmentation and not all(isinstance(each, Compiled) for each in augmentation.steps):
        return "an augmentation layer is left to Keras"
    size, room = data_bytes(plan), device_room()
    if size > room:
        return f"the data takes {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB of the device's memory are for it"
    return None


def data_bytes(plan: FeaturePlan) -> int:
    """Returns the bytes of the data of a stage on the device."""
    if plan.rows:
        return sum(rows.nbytes for rows in plan.rows.values())
    data = plan.data
    images = sum(len(data.parts[part]) for part in _parts(data))
    return images * math.prod((*data.image.size, data.image.channels))


def device_room() -> int:
    """Returns the bytes of the device's memory that data may take; of the CPU's, if that is the device."""
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return memory_room()
    return min(int(SHARE * statistics["bytes_limit"]), memory_room())


def _parts(data: StageData) -> list[Part]:
    return [part for part in ("train", "validation") if part in data.parts]


@dataclass(frozen=True, eq=False)
class Table:
    """The examples of a part on the device."""

    inputs: tuple[Any, ...]
    """(rows, ...), one for each input of the model: uint8 pixels, or features."""
    labels: Any
    """(n, ...) in the form of the loss, or of each row, if they are blended in the features."""
    weights: Any
    """(n,) float32; None: all are 1."""
    order: Order
    augmentation: Any = None
    images: bool = True
    """Whether `inputs` are pixels."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What the compiled function is given."""
        return self.inputs, self.labels, self.weights

    def batch(self, arrays: tuple[Any, ...], positions: Any, epoch: Any) -> tuple[Any, ...]:
        """Returns the examples at these positions as `model.fit` gets them.  epoch: its number, from 0."""
        inputs, labels, weights = arrays
        count = self.order.count
        rows = positions + epoch % (inputs[0].shape[0] // count) * count
        y = labels[rows if labels.shape[0] > count else positions]
        weight = () if weights is None else (weights[positions],)
        if not self.images:
            x = tuple(ops.cast(each[rows], "float32") for each in inputs)
            return (x if len(x) > 1 else x[0], y, *weight)
        # As `image_seeds`: the halves of the seed, the position, the epoch.
        seed = self.order.seed
        words = [np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF), positions, epoch]
        seeds = ops.stack([ops.broadcast_to(ops.cast(word, "uint32"), positions.shape) for word in words], axis=1)
        return finish_batch(self.augmentation, inputs[0][positions], y, seeds, self.order.size, *weight)


class DeviceSteps:
    """The training of one stage."""

    def __init__(self, plan: FeaturePlan, every_step: bool, steps_per_call: int | None = None) -> None:
        """every_step: whether a callback acts on each step.  steps_per_call: None: as many as take CALL_S."""
        self.plan, self.model = plan, plan.model
        self.fixed = 1 if every_step else steps_per_call
        tables = {part: _table(plan, part) for part in _parts(plan.data)}
        self.train_table, self.test_table = tables["train"], tables.get("validation")
        self.train_functions = _functions(self.model, self.train_table, train=True)
        self.test_functions = {} if self.test_table is None else _functions(self.model, self.test_table, train=False)
        self.steps_per_call = self.fixed or FIRST_STEPS
        count, size = sum(table.order.count for table in tables.values()), data_bytes(plan)
        log.once(
            f"{counted(count, 'example')} ({sized(size)}) are on the device; shuffling, augmentation and steps run "
            "there, compiled as a loop"
        )

    def run(self, watch: Watch) -> None:
        """Train from the epoch of `watch` until `watch.until`, or until a callback stops the training."""
        model, table, first = self.model, self.train_table, watch.epoch
        build_metrics(model, table.batch(table.arrays, ops.zeros((1,), "int32"), 0))
        self._compile()
        watch.on_train_begin()
        try:
            for epoch in range(first, watch.until):
                model.reset_metrics()
                watch.on_epoch_begin(epoch)
                logs = self._train_epoch(watch, epoch)
                if self.test_table is not None:
                    watch.on_test_begin()
                    model.reset_metrics()
                    figures = self._test()
                    watch.on_test_end(figures)
                    logs |= {f"val_{name}": value for name, value in figures.items()}
                watch.on_epoch_end(epoch, logs)
                if model.stop_training:
                    break
        finally:
            restore_jax_state(model)
            optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
            optimizer.finalize_variable_values(model.trainable_weights)
        watch.on_train_end()

    def _train_epoch(self, watch: Watch, epoch: int) -> dict[str, float]:
        model, table = self.model, self.train_table
        order = _order(table.order, epoch)
        begun = step = watch.first_step
        logs: Any = {}
        state: Any = None
        while step < table.order.steps and not (step > begun and model.stop_training):
            function, last = _next_call(self.train_functions, table.order, step, self.steps_per_call)
            watch.on_train_batch_begin(step - begun)
            state = jax_state(model, optimizer=True, since=state)
            started = time.perf_counter()
            logs, state = function(state, table.arrays, order, np.int32(epoch), np.int32(step), np.int32(last))
            keep_jax_state(model, state)
            if self.fixed is None:
                float(logs["loss"])  # waits for the device
                taken = time.perf_counter() - started
                if step > begun:  # the first call may compile
                    self.steps_per_call = max(1, min(4 * (last - step), int((last - step) * CALL_S / max(taken, 1e-6))))
            watch.on_train_batch_end(last - 1 - begun, logs)
            step = last
        restore_jax_state(model)
        return {name: float(value) for name, value in logs.items()}

    def _test(self) -> dict[str, float]:
        model, table = self.model, self.test_table
        if table is None:
            return {}
        order, step = _order(table.order, 0), 0
        logs: Any = {}
        state: Any = None
        while step < table.order.steps:
            function, last = _next_call(self.test_functions, table.order, step, table.order.steps)
            state = jax_state(model, optimizer=False, since=state)
            logs, state = function(state, table.arrays, order, np.int32(0), np.int32(step), np.int32(last))
            keep_jax_state(model, state)
            step = last
        restore_jax_state(model)
        return {name: float(value) for name, value in logs.items()}

    def _compile(self) -> None:
        """Compile all functions at once, on several cores."""
        lowered = []
        for functions, table, train in (
            (self.train_functions, self.train_table, True),
            (self.test_functions, self.test_table, False),
        ):
            for function in functions.values():
                state = jax_state(self.model, optimizer=train, keep=True)
                numbers = (np.int32(0),) * 3
                arrays, order = table.arrays, _order(table.order, 0)  # type: ignore[union-attr]
                lowered.append(function.lower(state, arrays, order, *numbers))
        with ThreadPoolExecutor(len(lowered)) as pool:
            for _ in pool.map(lambda each: each.compile(), lowered):
                pass


def _order(order: Order, epoch: int) -> np.ndarray:
    """The positions of an epoch, (count,) int32."""
    number = epoch * order.steps
    return np.concatenate([order.batch(number + step)[1] for step in range(order.steps)]).astype(np.int32)


def _next_call(functions: dict[int, Any], order: Order, step: int, most: int) -> tuple[Any, int]:
    """The function for the next steps, and the step to stop before: the last batch of an epoch may be smaller."""
    full = order.count // order.size
    if step >= full:
        return functions[order.count % order.size], order.steps
    return functions[order.size], min(step + most, full)


def _functions(model: Any, table: Table, train: bool) -> dict[int, Any]:
    """Size of a batch -> the compiled loop over steps with batches of that size."""
    order = table.order
    sizes = {order.size: order.count // order.size, order.count % order.size: 1}
    return {size: _loop(model, table, size, train) for size, number in sizes.items() if size and number}


def _loop(model: Any, table: Table, size: int, train: bool) -> Any:
    """The compiled loop: (state, arrays of the table, order, epoch, first step, end) -> metrics, state."""
    import jax

    step_function = model.train_step if train else model.test_step

    def run(state: Any, arrays: Any, order: Any, epoch: Any, first: Any, last: Any) -> tuple[Any, Any]:
        def body(step: Any, state: Any) -> Any:
            positions = jax.lax.dynamic_slice(order, (step * table.order.size,), (size,))
            _, after = step_function(state, table.batch(arrays, positions, epoch))
            return tuple(map(list, after))

        state = jax.lax.fori_loop(first, last, body, tuple(map(list, state)))
        mapping = list(zip(model.metrics_variables, state[-1], strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            logs = dict(model.get_metrics_result())
        return logs, state

    return jax.jit(run, donate_argnums=0)


_uploaded: weakref.WeakKeyDictionary[Source, dict[Any, Any]] = weakref.WeakKeyDictionary()
"""The images of a source on the device, for the trials of a search and the stages of a run."""


def _table(plan: FeaturePlan, part: Part) -> Table:
    """The examples of a part, uploaded."""
    import jax

    data = plan.data
    train = part == "train"
    order = Order(len(data.parts[part]), data.batch_size, shuffle=train, seed=data.seed if train else 0)
    labels = encode_labels(
        labels_for(data.source, data.parts[part], data.targets), data.targets, len(data.source.classes)
    )
    weights = None if data.sample_weight is None or not train else jax.device_put(data.sample_weight)
    rows = plan.rows.get(part)
    if rows is not None:
        inputs = tuple(jax.device_put(each) for each in rows.parts)
        labels = labels if rows.labels is None else rows.labels
        return Table(inputs, _on_device(labels), weights, order, images=False)
    pixels = _images(data, part)
    return Table((pixels,), _on_device(labels), weights, order, data.augmentation if train else None)


def _on_device(labels: np.ndarray) -> Any:
    import jax

    return jax.device_put(labels.astype(np.int32) if labels.dtype == np.int64 else labels)


def _images(data: StageData, part: Part) -> Any:
    """The images of a part on the device, (n, H, W, C) uint8."""
    import jax

    indices = np.asarray(data.parts[part], np.int64)
    key = data.image.model_dump_json(), indices.tobytes()
    known = _uploaded.setdefault(data.source, {})
    if key not in known:
        for other in [other for other in known if other[0] != key[0]]:
            del known[other]  # of another size
        loader = Loader(data.source, indices, data.image, open_cache(data.cache), exact=False)
        pixels = np.empty((len(indices), *loader.shape), np.uint8)
        for places in _pieces(len(indices)):
            pixels[places] = loader.load(places)
        known[key] = jax.device_put(pixels)
    return known[key]


def _pieces(count: int) -> Iterable[np.ndarray]:
    return (np.arange(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE))
