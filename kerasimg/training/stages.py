"""Stages: which layers train in each, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from kerasimg.errors import Fault, SpecError, nearest
from kerasimg.models.build import Built
from kerasimg.spec.document import EarlyStopping, Stage
from kerasimg.spec.load import Spec

LESS_IS_BETTER = ("loss", "error", "log_loss", "hamming")


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
                elif count > (there := len(list(_leaves(_layers(built, name))))):
                    message = f"expected at most {there}, the layers of '{name}', got {count}"
                    faults.append(Fault(spec.file, f"{place}.{name}", message))
        stopping = stage.early_stopping
        if stopping and stopping.monitor.startswith("val_") and not validated:
            message = f"watches '{stopping.monitor}', and there is no validation part; set fit.validation_split above 0"
            faults.append(Fault(spec.file, f"fit.stages[{index}].early_stopping", message))
    if faults:
        raise SpecError(faults)


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
        leaves = list(_leaves(_layers(built, name)))
        for position, layer in enumerate(leaves):
            trains = count == 0 or position >= len(leaves) - count
            layer.trainable = trains and not isinstance(layer, keras.layers.BatchNormalization)


def describe(model: keras.Model) -> str:
    """One line on what trains: "1,316,869 of 3,574,853 parameters train, in 3 layers"."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    layers = sum(1 for layer in _leaves(model.layers) if layer.trainable_variables)
    return f"{trained:,} of {model.count_params():,} parameters train, in {layers} layers"


def early_stopping(settings: EarlyStopping) -> keras.callbacks.EarlyStopping:
    """Keras' callback; its mode is always said, since Keras cannot guess it for every figure."""
    values = settings.model_dump()
    if settings.mode == "auto":
        values["mode"] = better(settings.monitor)
    return keras.callbacks.EarlyStopping(**values)


def better(figure: str) -> str:
    """Whether less ("min") or more ("max") of a figure is better."""
    return "min" if any(word in figure for word in LESS_IS_BETTER) else "max"


def _layers(built: Built, name: str) -> list[Any]:
    return [built.model.get_layer(member) for member in built.members[name]]


def _leaves(layers: Sequence[Any]) -> Iterator[Any]:
    """The layers themselves, those of nested models in their place."""
    for layer in layers:
        if isinstance(layer, keras.Model):
            yield from _leaves([inner for inner in layer.layers if not isinstance(inner, keras.layers.InputLayer)])
        else:
            yield layer
