"""Training on several devices: each computes an equal share of every batch, and all take one step together.

Keras does the work: `keras.distribution.DataParallel` on JAX, TensorFlow's MirroredStrategy. Both need batches that can
be split evenly, and the last one of an epoch often cannot. It is padded with copies of its own images that have no
weight in the loss and the metrics; the weights of the others are scaled so that the step equals that of one device.

Where JAX runs in several processes, on several machines, each process loads whole batches and gives its devices their
rows of them. Each writes a run of its own, and all runs are alike.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from kerasimg import log
from kerasimg.data.pipeline import map_batches
from kerasimg.data.shuffling import Shard
from kerasimg.errors import CallError, counted
from kerasimg.models.build import leaves
from kerasimg.spec.load import Spec
from kerasimg.training.auto_settings import batch_size_of
from kerasimg.training.distillation import has_teacher


@dataclass(frozen=True, eq=False)
class Devices:
    """The devices of a training."""

    names: tuple[str, ...] = ()
    """Names in the backend; empty: the device that Keras chooses."""
    strategy: Any = None
    """The strategy of TensorFlow or the distribution of Keras; None for one device."""

    @property
    def count(self) -> int:
        """Number of devices."""
        return max(1, len(self.names))

    @property
    def shard(self) -> Shard:
        """Which of the processes that train together this one is, and their number."""
        return (0, 1) if self.strategy is None else _process()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """The scope in which models are built, compiled and trained."""
        if self.strategy is None:
            yield
            return
        with self.strategy.scope():
            yield

    @contextlib.contextmanager
    def statistics_of_all(self, model: Any) -> Iterator[None]:
        """Let BatchNormalization see the whole batch, not the share of a device, as it does on JAX."""
        normal = [layer for layer in leaves(model.layers) if isinstance(layer, keras.layers.BatchNormalization)]
        alone = [layer for layer in normal if layer.trainable and not layer.synchronized]
        if self.strategy is None or keras.backend.backend() != "tensorflow":
            alone = []
        for layer in alone:
            layer.synchronized = True
        try:
            yield
        finally:
            for layer in alone:
                layer.synchronized = False

    def shared(self, model: Any) -> Any:
        """Returns the model to compile and fit on `even` batches, made of this model's own layers."""
        if self.strategy is None:
            return model
        with self.scope():
            shared = Shared(model.inputs, model.outputs[0], name=model.name)
        shared.dtype_policy = model.dtype_policy
        return shared

    def even(self, dataset: Any, rows: int | None = None) -> Any:
        """Returns batches that can be split evenly: (x, y, (m, 2) the weight of each row, and whether it is an image).

        In one of several processes they have the rows of its devices.

        dataset: of (x, y) or (x, y, w).  rows: number of all rows if the loss is one mean over them, not batch by
        batch, as in an evaluation.
        """
        if self.strategy is None or dataset is None:
            return dataset
        count, (process, processes) = self.count, self.shard
        whole = None if rows is None else -(-rows // count) * count / rows

        def fill(x: Any, y: Any, weight: Any = None) -> tuple[Any, Any, Any]:
            n = ops.shape(y)[0]
            m = -(-n // count) * count
            rows = ops.arange(m * process // processes, m * (process + 1) // processes)
            places = rows % n
            is_image = ops.cast(rows < n, "float32")
            weighed = is_image * (ops.cast(m / n, "float32") if whole is None else whole)
            if weight is not None:
                weighed = weighed * ops.take(weight, places, axis=0)
            filled = keras.tree.map_structure(lambda tensor: ops.take(tensor, places, axis=0), (x, y))
            return (*filled, ops.stack([weighed, is_image], axis=1))

        return map_batches(dataset, fill)


ONE = Devices()


class Shared(keras.Model):
    """A model that takes `Devices.even` batches."""

    def compile(self, *, metrics: Any = None, **options: Any) -> None:
        """As in Keras, but metrics learn which rows are images, as only `weighted_metrics` do."""
        super().compile(weighted_metrics=metrics, **options)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss, with the weight of each row."""
        weight = None if sample_weight is None else sample_weight[:, 0]
        return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The metrics, in which each image counts once."""
        is_image = None if sample_weight is None else sample_weight[:, 1]
        return super().compute_metrics(x, y, y_pred, is_image)


def devices_for(spec: Spec) -> Devices:
    """Returns the devices of a training: with `fit.distribute: "auto"` as many as divide the batch, else one.

    The choice is logged in one line.
    """
    if spec.fit.distribute == "off":
        return ONE
    if keras.backend.backend() == "torch":
        log.once("devices: one, since Keras trains on several under JAX and TensorFlow, not under PyTorch")
        return ONE
    names = _names()
    if len(names) > 1 and has_teacher(spec):
        log.once(f"devices: one of {len(names)}, since Keras' Distiller ignores the weights of rows")
        return ONE
    size = batch_size_of(spec)
    count = max(number for number in range(1, len(names) + 1) if size % number == 0)
    if count < len(names) and (processes := _process()[1]) > 1:
        raise CallError(
            f"fit.distribute: batches of {size} cannot be split evenly among the {len(names)} devices of "
            f"{counted(processes, 'process')}; choose another fit.batch_size"
        )
    if count == 1:
        why = "there is no other" if len(names) == 1 else f"batches of {size} cannot be split evenly among more"
        log.once(f"devices: one of {len(names)}; {why}")
        return ONE
    chosen = tuple(names[:count])
    left = f", {len(names) - count} left idle, since {size} cannot be split evenly" if count < len(names) else ""
    log.once(
        f"devices: {count} ({', '.join(chosen)}{left}), with {size // count} of a batch's {counted(size, 'image')} each"
    )
    return Devices(chosen, _strategy(chosen))


def _process() -> Shard:
    """Which of the processes of the backend this one is, and their number."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def _names() -> list[str]:
    """Returns the names of the devices of the fastest kind."""
    if keras.backend.backend() != "tensorflow":
        return [str(name) for name in keras.distribution.list_devices()]
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name.removeprefix("/device:") for device in devices]


@functools.cache  # TensorFlow mixes up the messages between devices of two strategies in one process
def _strategy(names: tuple[str, ...]) -> Any:
    if keras.backend.backend() != "tensorflow":
        return keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)
    import tensorflow as tf

    # Summed on one CPU in the same order every time, so that a run can be repeated to the last bit.
    sums = None if "GPU" in names[0] else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"/{name}" for name in names], cross_device_ops=sums)
