"""Stages: which layers train in each, for how long, and which of the weights they reach are handed on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from kerasimg.errors import Fault, SpecError, nearest
from kerasimg.models.build import Built
from kerasimg.spec.document import EarlyStopping, Stage
from kerasimg.spec.figures import watched
from kerasimg.spec.load import Spec

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
        rate = _written_rate(spec) if stage.learning_rate is None else stage.learning_rate
        if stage.decay != "none" and not isinstance(rate, int | float):
            message = f"{stage.decay} is for a rate that is a number, and that of compile.optimizer is a schedule"
            faults.append(Fault(spec.file, f"fit.stages[{index}].decay", message))
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


def early_stopping(settings: EarlyStopping) -> keras.callbacks.EarlyStopping:
    """Keras' callback; the mode is that of the spec, since Keras cannot guess it for every figure.

    `best.Best` restores the best weights, not this callback.
    """
    return keras.callbacks.EarlyStopping(**settings.model_dump() | {"restore_best_weights": False})


def _written_rate(spec: Spec) -> Any:
    """The learning rate that `compile.optimizer` is given, 0 where it is Keras' own number."""
    optimizer = spec.compile.optimizer
    return optimizer.get("learning_rate", 0) if isinstance(optimizer, dict) else 0


def _layers(built: Built, name: str) -> list[Any]:
    return [built.model.get_layer(member) for member in built.members[name]]


def leaves(layers: Iterable[Any]) -> Iterator[Any]:
    """The layers themselves, those of nested models in their place."""
    for layer in layers:
        if isinstance(layer, keras.Model):
            yield from leaves([inner for inner in layer.layers if not isinstance(inner, keras.layers.InputLayer)])
        else:
            yield layer
