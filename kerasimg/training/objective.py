"""`compile` -> optimizer, loss and metrics that fit the task, the model's output and one another.

What Keras would let pass and train to nonsense (a loss that takes logits on a softmax, labels as numbers for a
metric that wants one column per class) is refused here, with what to write instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasimg.data.pipeline import Targets
from kerasimg.errors import Fault, SpecError
from kerasimg.metrics import F1
from kerasimg.metrics import __all__ as OWN_METRICS
from kerasimg.models.objects import make
from kerasimg.models.outputs import OutputKind, output_kind
from kerasimg.spec.expand import snake_case
from kerasimg.spec.load import Spec
from kerasimg.training.rates import Rates, with_rates

BLENDING = ("MixUp", "CutMix")
ON_PROBABILITIES = ("Crossentropy", "KLDivergence")


class Objective(NamedTuple):
    """What the model is trained towards and watched by."""

    loss: Any
    metrics: list[Any]
    targets: Targets
    """The form in which the pipeline hands on the labels."""


class WeightedLabels(keras.losses.Loss):
    """Binary cross-entropy of several labels, in which each counts for its own.

    weights: (2, K): of a label that does not hold, and of one that does.
    """

    def __init__(self, weights: np.ndarray, loss: keras.losses.BinaryCrossentropy):
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.from_logits = loss.from_logits
        self.smoothing = loss.label_smoothing
        self.weights = np.asarray(weights, np.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(N, K) twice -> (N,)."""
        y_pred = keras.ops.convert_to_tensor(y_pred)
        y_true = keras.ops.cast(y_true, y_pred.dtype)
        weights = keras.ops.cast(self.weights, y_pred.dtype)
        weights = weights[0] + (weights[1] - weights[0]) * y_true
        target = y_true * (1 - self.smoothing) + 0.5 * self.smoothing
        each = keras.ops.binary_crossentropy(target, y_pred, from_logits=self.from_logits)
        return keras.ops.mean(weights * each, axis=-1)


def make_objective(
    spec: Spec, model: keras.Model, num_classes: int, label_weights: np.ndarray | None = None, soft: bool = False
) -> Objective:
    """The loss and metrics of a spec for its model; SpecError when they do not go together.

    label_weights: see `WeightedLabels`; None where all labels count alike.  soft: see `Source.soft`.
    """
    kind = output_kind(model)
    blends = [name for name, _ in spec.augment if name in BLENDING]
    if spec.compile.loss == "auto":
        loss = _automatic_loss(spec.task, kind, soft or bool(blends))
    else:
        loss = make("losses", spec.compile.loss)
    targets = _targets(spec.task, loss)
    faults = [Fault(spec.file, "compile.loss", message) for message in _loss_faults(loss, kind, targets, blends)]
    if soft and targets == "sparse":
        message = f'the data has shares of classes, and {type(loss).__name__} takes a single class; write "auto"'
        faults.append(Fault(spec.file, "compile.loss", message))
    if label_weights is not None and type(loss) is not keras.losses.BinaryCrossentropy:
        message = f'weighs each label by itself, which {type(loss).__name__} cannot; leave the loss "auto"'
        faults.append(Fault(spec.file, "fit.class_weight", message))
    elif label_weights is not None:
        loss = WeightedLabels(label_weights, loss)
    metrics: dict[str, Any] = {}
    for index, value in enumerate(spec.compile.metrics):
        metric = _metric(value, targets, kind, num_classes)
        if not isinstance(metric, str) and metric.name in metrics:
            metric = f'a second metric called \'{metric.name}\'; give it another name: {{"type": ..., "name": ...}}'
        if isinstance(metric, str):
            faults.append(Fault(spec.file, f"compile.metrics[{index}]", metric))
        else:
            metrics[metric.name] = metric
    if faults:
        raise SpecError(faults)
    return Objective(loss, list(metrics.values()), targets)


def jit_compile(spec: Spec) -> Any:
    """`compile.jit_compile` as Keras takes it; what is left open, or still to be tried, is Keras' own choice."""
    value = spec.compile.jit_compile
    return value if isinstance(value, bool) else "auto"


def has_average(spec: Spec) -> bool:
    """Whether the moving average of the weights is validated and handed on in their place."""
    return spec.fit.ema is not None


def make_optimizer(spec: Spec, learning_rate: Any, rates: Rates = Rates()) -> Any:  # noqa: B008 - it is frozen
    """A fresh optimizer, at the stage's learning rate where it has one, and what becomes of that rate."""
    value = spec.compile.optimizer
    written = {"type": value} if isinstance(value, str) else dict(value)
    if learning_rate is not None:
        written["learning_rate"] = learning_rate
    if spec.fit.ema is not None:
        written |= {"use_ema": True, "ema_momentum": spec.fit.ema}
    optimizer = make("optimizers", written)
    return with_rates(optimizer, replace(rates, averages=optimizer.use_ema))


def _automatic_loss(task: str, kind: OutputKind, blends: bool) -> Any:
    logits = kind == "logits"
    if task != "multiclass":
        return keras.losses.BinaryCrossentropy(from_logits=logits)
    if blends:
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def _targets(task: str, loss: Any) -> Targets:
    if task == "binary":
        return "binary"
    if task == "multilabel":
        return "multi_hot"
    return "sparse" if type(loss).__name__.startswith("Sparse") else "one_hot"


def _loss_faults(loss: Any, kind: OutputKind, targets: Targets, blends: list[str]) -> list[str]:
    name = type(loss).__name__
    faults = []
    takes_logits = getattr(loss, "_fn_kwargs", {}).get("from_logits", getattr(loss, "from_logits", None))
    if name.endswith(ON_PROBABILITIES) and bool(takes_logits) is not (kind == "logits"):
        given = "logits, as its last layer has no softmax or sigmoid" if kind == "logits" else f"{kind} probabilities"
        faults.append(
            f"the model gives {given}, and {name} takes {'logits' if takes_logits else 'probabilities'}; "
            'write "auto", or set from_logits'
        )
    if targets == "sparse" and blends:
        faults.append(f'{blends[0]} blends labels, and {name} takes a single class; write "auto"')
    wants_binary = name.startswith("Binary")
    if wants_binary and targets in ("sparse", "one_hot"):
        faults.append(f'{name} treats each class by itself; for one class per picture write "auto"')
    if targets in ("binary", "multi_hot") and "Categorical" in name:
        faults.append(f'{name} takes one class of several per picture; for this task write "auto"')
    return faults


def _metric(value: Any, targets: Targets, kind: OutputKind, num_classes: int) -> Any:
    """The metric, or, as a string, why there is none."""
    threshold = 0.0 if kind == "logits" else 0.5
    if value == "accuracy":
        if targets == "sparse":
            return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        if targets == "one_hot":
            return keras.metrics.CategoricalAccuracy(name="accuracy")
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    if value == "f1":
        if targets == "multi_hot":
            if kind == "logits":
                return "f1 needs probabilities: end the model with a sigmoid"
            return keras.metrics.F1Score(average="macro", threshold=0.5, name="f1")
        return F1(num_classes, average="binary" if targets == "binary" else "macro", threshold=threshold)
    metric = make("metrics", value)
    name = type(metric).__name__
    if name in OWN_METRICS:
        return f"{name} takes one class per picture, not several" if targets == "multi_hot" else metric
    if isinstance(value, str) or "name" not in value:
        metric.name = snake_case(name)  # Keras counts on: in its second training a process would watch "auc_1"
    if targets == "sparse" and not name.startswith("Sparse"):
        return f'{name} does not take labels as numbers; write "accuracy" or "f1", or give a categorical loss'
    if targets != "sparse" and name.startswith("Sparse"):
        return f"{name} takes labels as numbers, and the loss has them as columns; leave out 'Sparse'"
    return metric
