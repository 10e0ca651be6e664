"""Stages: which layers train in each, at which image size, when they end early, and which weights they hand on.

A stage hands on its last weights, its best ones, or their moving average.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from kerasimg.errors import Fault, KerasimgError, SpecError, listed, nearest
from kerasimg.keras_internals import weight_averages
from kerasimg.models.build import Built, leaves
from kerasimg.spec.document import EarlyStopping, Stage
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import Direction, Goal, best_by, keeps_best, watched
from kerasimg.training import optimizer

Size = tuple[int, int]
"""(height, width) of images."""
Trainable = list[tuple[Any, bool]]
"""(layer, whether it trains), those of nested models after these."""


def check_stages(spec: Spec, built: Built, validated: bool) -> None:
    """SpecError when a stage asks for layers that are not there, or watches a part that is not."""
    faults = []
    for index, stage in enumerate(spec.fit.stages):
        for key, counts in (("unfreeze", stage.unfreeze), ("freeze", dict.fromkeys(stage.freeze, 0))):
            place = f"fit.stages[{index}].{key}"
            for name, count in counts.items():
                if name not in built.members:
                    message = f"no node '{name}' of 'model' has layers{nearest(name, built.members)}"
                    faults.append(Fault(spec.file, place, message))
                elif count > (there := len(list(leaves(_layers(built, name))))):
                    message = f"expected at most {there}, the layers of '{name}', got {count}"
                    faults.append(Fault(spec.file, f"{place}.{name}", message))
        for key, figure in watched(stage).items():
            if figure.startswith("val_") and not validated:
                message = f"watches '{figure}', and there is no validation part; set fit.validation_split above 0"
                faults.append(Fault(spec.file, f"fit.stages[{index}].{key}", message))
        if (reason := optimizer.decay_fault(spec, stage)) is not None:
            faults.append(Fault(spec.file, f"fit.stages[{index}].decay", reason))
    if faults:
        raise SpecError(faults)


def size_of(stage: Stage, spec: Spec) -> Size:
    """The image size of a stage, for progressive resizing."""
    height, width = stage.size or spec.image.size
    return height, width


def freezes(stage: Stage) -> bool:
    """Whether a stage freezes layers."""
    return bool(stage.freeze)


def changes_layers(stage: Stage) -> bool:
    """Whether other layers train in a stage than before it."""
    return bool(stage.freeze or stage.unfreeze)


def enter(stage: Stage, built: Built) -> None:
    """Make those layers trainable, and only those, that train in this stage.

    Batch statistics stay as they are: BatchNormalization in a part that was frozen is not unfrozen with it
    (Keras' guide to fine-tuning; small batches would spoil them).
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
    """Which layers of a model train."""
    found: Trainable = []
    for layer in model.layers:
        found.append((layer, layer.trainable))
        if isinstance(layer, keras.Model):
            found += trainable(layer)
    return found


def put(flags: Trainable) -> None:
    """Make those layers train again, and only those, that did."""
    for layer, flag in flags:
        layer.trainable = flag


def describe(model: keras.Model) -> str:
    """One line on what trains: "1,316,869 of 3,574,853 parameters train, in 3 layers"."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    layers = sum(1 for layer in leaves(model.layers) if layer.trainable_variables)
    return f"{trained:,} of {model.count_params():,} parameters train, in {layers} layers"


def stopping(stage: Stage) -> list[Any]:
    """The callback that ends a stage early, if the stage has one."""
    return [early_stopping(stage.early_stopping)] if stage.early_stopping else []


def early_stopping(settings: EarlyStopping) -> keras.callbacks.EarlyStopping:
    """Keras' callback; the mode is that of the spec, since Keras cannot guess it for every metric.

    `Best` restores the best weights, not this callback.
    """
    return keras.callbacks.EarlyStopping(**settings.model_dump() | {"restore_best_weights": False})


def best_of(stage: Stage) -> Best | None:
    """The callback that keeps the best weights of a stage; None where the last ones are handed on."""
    return Best(*best_by(stage)) if keeps_best(stage) else None


def _layers(built: Built, name: str) -> list[Any]:
    return [built.model.get_layer(member) for member in built.members[name]]


class Averages(keras.callbacks.Callback):
    """Validates the moving averages that the optimizer keeps instead of the weights.

    Like keras.callbacks.SwapEMAWeights, but exact: that callback restores the weights with a rounding error.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Exchange the weights and their averages."""
        self.swap()

    def on_test_end(self, logs: Any = None) -> None:
        """Put them back."""
        self.swap()

    def swap(self) -> None:
        """Exchange the weights and their averages, to the last bit."""
        for weight, average in _pairs(self.model):
            value = np.array(keras.ops.convert_to_numpy(weight))
            weight.assign(keras.ops.convert_to_numpy(average))
            average.assign(value)


def handed_on(model: Any) -> list[np.ndarray]:
    """The weights of a model, with the moving average of those that have one."""
    averages = {id(weight): average for weight, average in _pairs(model)}
    return [np.array(keras.ops.convert_to_numpy(averages.get(id(weight), weight))) for weight in model.weights]


def has_averages(model: Any) -> bool:
    """Whether the optimizer keeps moving averages."""
    return bool(_pairs(model))


class Best(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best metric."""

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
        """Take the weights, if they are better."""
        if self.monitor not in (logs or {}):
            raise KerasimgError(f"no figure '{self.monitor}' to keep the best weights by (there are: {listed(logs)})")
        figure = float(logs[self.monitor])
        if Goal(self.monitor, self.mode, self.min_delta).improves(figure, self.figure):
            self.figure, self.epoch, self.weights = figure, epoch, handed_on(self.model)


def _pairs(model: Any) -> list[tuple[Any, Any]]:
    """(weight, its moving average), where the optimizer keeps any."""
    return weight_averages(model.optimizer)
