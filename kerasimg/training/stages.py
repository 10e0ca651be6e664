"""Stages: which layers are trained, at which image size, early stopping, and the weights for the next stage.

A stage passes on its last weights, its best weights, or their moving average.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from kerasimg.errors import Fault, KerasimgError, SpecError, counted, listed, nearest
from kerasimg.keras_internals import weight_averages
from kerasimg.models.build import Built, leaves
from kerasimg.spec.document import EarlyStopping, Lora, Stage
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import Direction, Goal, best_by, keeps_best, watched
from kerasimg.training import optimizer
from kerasimg.training.lora import can_adapt

Size = tuple[int, int]
"""(height, width) of images."""
Trainable = list[tuple[Any, bool]]
"""(layer, whether it is trained); the layers of a nested model follow it."""


def check_stages(spec: Spec, built: Built, validated: bool) -> None:
    """SpecError if a stage names layers that do not exist, or monitors a validation part that does not exist."""
    faults = []
    flags = trainable(built.model)
    for index, stage in enumerate(spec.fit.stages):
        for key, counts in (("unfreeze", stage.unfreeze), ("freeze", dict.fromkeys(stage.freeze, 0))):
            place = f"fit.stages[{index}].{key}"
            for name, count in counts.items():
                if name not in built.members:
                    message = f"no node '{name}' of 'model' has layers{nearest(name, built.members)}"
                    faults.append(Fault(spec.file, place, message))
                elif count > (most := len(list(leaves(_layers(built, name))))):
                    message = f"expected at most {most}, the layers of '{name}', got {count}"
                    faults.append(Fault(spec.file, f"{place}.{name}", message))
        for key, figure in watched(stage).items():
            if figure.startswith("val_") and not validated:
                message = f"watches '{figure}', and there is no validation part; set fit.validation_split above 0"
                faults.append(Fault(spec.file, f"fit.stages[{index}].{key}", message))
        enter(stage, built)
        if stage.lora and not can_adapt(built.model):
            message = "no dense or attention layer is frozen in this stage; freeze some, or leave it out"
            faults.append(Fault(spec.file, f"fit.stages[{index}].lora", message))
        if (reason := optimizer.decay_fault(spec, stage)) is not None:
            faults.append(Fault(spec.file, f"fit.stages[{index}].decay", reason))
    restore_trainable(flags)
    if faults:
        raise SpecError(faults)


def size_of(stage: Stage, spec: Spec) -> Size:
    """Returns the image size of a stage, for progressive resizing."""
    height, width = stage.size or spec.image.size
    return height, width


def freezes(stage: Stage) -> bool:
    """Whether a stage freezes layers."""
    return bool(stage.freeze)


def changes_layers(stage: Stage) -> bool:
    """Whether a stage freezes or unfreezes layers, or adapts frozen ones."""
    return bool(stage.freeze or stage.unfreeze or stage.lora)


def adapters(stage: Stage) -> Lora | None:
    """Returns the adapters that a stage trains; None if it has none."""
    return stage.lora


def enter(stage: Stage, built: Built) -> None:
    """Freeze and unfreeze the layers of a stage.

    Batch statistics do not change: the BatchNormalization layers of an unfrozen part stay frozen (Keras' guide to
    fine-tuning; small batches would spoil the statistics).
    """
    for name in stage.freeze:
        for layer in _layers(built, name):
            layer.trainable = False
    for name, count in stage.unfreeze.items():
        for layer in _layers(built, name):
            layer.trainable = True
        inner = list(leaves(_layers(built, name)))
        for position, layer in enumerate(inner):
            trains = count == 0 or position >= len(inner) - count
            layer.trainable = trains and not isinstance(layer, keras.layers.BatchNormalization)


def trainable(model: keras.Model) -> Trainable:
    """Returns which layers of a model are trained."""
    flags: Trainable = []
    for layer in model.layers:
        flags.append((layer, layer.trainable))
        if isinstance(layer, keras.Model):
            flags += trainable(layer)
    return flags


def restore_trainable(flags: Trainable) -> None:
    """Restore what `trainable` returned."""
    for layer, flag in flags:
        layer.trainable = flag


def describe(model: keras.Model, behind: bool = False) -> str:
    """Returns a line for the log: "1,316,869 of 3,574,853 parameters train, in 3 layers".

    behind: whether the model is only what comes behind a frozen part, as the trials of a search have it.
    """
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    layers = sum(1 for layer in leaves(model.layers) if layer.trainable_variables)
    parameters = counted(model.count_params(), "parameter") + " behind the frozen part" * behind
    return f"{trained:,} of {parameters} train, in {counted(layers, 'layer')}"


def stopping(stage: Stage) -> list[Any]:
    """Returns the early stopping callback of a stage, if it has one."""
    return [early_stopping(stage.early_stopping)] if stage.early_stopping else []


def early_stopping(settings: EarlyStopping) -> keras.callbacks.EarlyStopping:
    """Returns Keras' callback with the mode of the spec, since Keras cannot guess it for every metric.

    `Best` restores the best weights, not this callback.
    """
    return keras.callbacks.EarlyStopping(**settings.model_dump() | {"restore_best_weights": False})


def best_of(stage: Stage) -> Best | None:
    """Returns the callback that stores the best weights of a stage; None if the stage passes on its last weights."""
    return Best(*best_by(stage)) if keeps_best(stage) else None


def _layers(built: Built, name: str) -> list[Any]:
    return [built.model.get_layer(member) for member in built.members[name]]


class Averages(keras.callbacks.Callback):
    """Validates with the optimizer's moving averages of the weights.

    Like keras.callbacks.SwapEMAWeights, but exact: that callback restores the weights with a rounding error.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Exchange the weights and their averages."""
        self.swap()

    def on_test_end(self, logs: Any = None) -> None:
        """Exchange them back."""
        self.swap()

    def swap(self) -> None:
        """Exchange the weights and their averages, bit for bit."""
        for weight, average in _pairs(self.model):
            value = np.array(keras.ops.convert_to_numpy(weight))
            weight.assign(keras.ops.convert_to_numpy(average))
            average.assign(value)


def final_weights(model: Any) -> list[np.ndarray]:
    """Returns the weights of a model, with moving averages in place of those that have one."""
    averages = {id(weight): average for weight, average in _pairs(model)}
    return [np.array(keras.ops.convert_to_numpy(averages.get(id(weight), weight))) for weight in model.weights]


def has_averages(model: Any) -> bool:
    """Whether the optimizer keeps moving averages."""
    return bool(_pairs(model))


class Best(keras.callbacks.Callback):
    """Stores the weights of the epoch with the best metric."""

    def __init__(self, monitor: str, mode: Direction, min_delta: float = 0.0) -> None:
        super().__init__()
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.on_train_begin()

    def on_train_begin(self, logs: Any = None) -> None:
        """Start without a best epoch."""
        self.figure: float | None = None
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Store the weights if the metric improved."""
        if self.monitor not in (logs or {}):
            raise KerasimgError(f"no figure '{self.monitor}' to keep the best weights by (there are: {listed(logs)})")
        figure = float(logs[self.monitor])
        if Goal(self.monitor, self.mode, self.min_delta).improves(figure, self.figure):
            self.figure, self.epoch, self.weights = figure, epoch, final_weights(self.model)


def _pairs(model: Any) -> list[tuple[Any, Any]]:
    """Returns (weight, its moving average) of each weight for which the optimizer has one."""
    return weight_averages(model.optimizer)
