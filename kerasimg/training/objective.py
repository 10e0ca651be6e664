"""The loss and metrics of a spec, and the weights of images and labels.

Keras accepts combinations that train to nonsense: a loss on logits with a softmax, class numbers for a metric that
needs one column per class. Those are refused here, with what to write instead.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from kerasimg.data.items import ManyFaults
from kerasimg.data.pipeline import Targets
from kerasimg.data.source import Source
from kerasimg.errors import Fault, SpecError, counted
from kerasimg.metrics import F1
from kerasimg.models.output_kind import OutputKind, head_of, output_kind
from kerasimg.objects import make
from kerasimg.spec.heads import BLENDING, Output, head_fault, loss_faults, targets_of
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import METRICS, metric_faults, metric_name, metric_type


class Objective(NamedTuple):
    """The loss and metrics of a model."""

    loss: Any
    metrics: list[Any]
    targets: Targets
    """The form of the labels in the pipeline's batches."""


class WeightedLabels(keras.losses.Loss):
    """Binary cross-entropy of several labels, each with its own weight.

    weights: (2, K): those of a negative and of a positive label.
    """

    def __init__(self, weights: np.ndarray, loss: keras.losses.BinaryCrossentropy):
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.from_logits = loss.from_logits
        self.smoothing = loss.label_smoothing
        self.weights = np.asarray(weights, np.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(N, K) twice -> (N,). Linear in the labels, so blended labels give the blend of the losses."""
        ops = keras.ops
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        weights = ops.cast(self.weights, y_pred.dtype)
        low = ops.full_like(y_pred, 0.5 * self.smoothing)
        absent = ops.binary_crossentropy(low, y_pred, from_logits=self.from_logits)
        present = ops.binary_crossentropy(1 - low, y_pred, from_logits=self.from_logits)
        return ops.mean(weights[0] * (1 - y_true) * absent + weights[1] * y_true * present, axis=-1)


def make_objective(
    spec: Spec, model: keras.Model, num_classes: int, label_weights: np.ndarray | None = None, soft: bool = False
) -> Objective:
    """Returns the loss and metrics of a spec for its model; SpecError if they are not compatible.

    label_weights: see `WeightedLabels`; None: all labels have the weight 1.  soft: see `Source.soft`.
    """
    head = head_of(model)
    blends = [name for name, _ in spec.augment if name in BLENDING]
    written = spec.compile.loss
    targets = targets_of(spec.task, written, soft or bool(blends))
    faults = []
    if message := head_fault(spec.task, Output(head)):
        faults.append(Fault(spec.file, "model", message))
    kind = output_kind(model)
    messages = list(loss_faults(written, spec.task, kind, blends))
    loss = _automatic_loss(targets, kind) if written == "auto" else make("losses", written)
    if soft and targets == "sparse":
        messages.append(f'the data has shares of classes, and {type(loss).__name__} takes a single class; write "auto"')
    faults += [Fault(spec.file, "compile.loss", message) for message in messages]
    shares = written.get("alpha") if isinstance(written, Mapping) else None
    if isinstance(shares, list) and len(shares) != num_classes:
        message = f"expected one number for each of the {counted(num_classes, 'class')}, got {len(shares)}"
        faults.append(Fault(spec.file, "compile.loss.alpha", message))
    if label_weights is not None and type(loss) is not keras.losses.BinaryCrossentropy:
        message = f'weighs each label by itself, which {type(loss).__name__} cannot; leave the loss "auto"'
        faults.append(Fault(spec.file, "fit.class_weight", message))
    elif label_weights is not None:
        loss = WeightedLabels(label_weights, loss)
    below = [*metric_faults(spec.compile.metrics, spec.task, kind), *_size_faults(spec.compile.metrics, num_classes)]
    for index, path, message in below:
        place = "".join(f".{key}" for key in path)
        faults.append(Fault(spec.file, f"compile.metrics[{index}]{place}", message))
    if faults:
        raise SpecError(faults)
    metrics = [_metric(value, targets, kind, num_classes) for value in spec.compile.metrics]
    return Objective(loss, metrics, targets)


def jit_compile(spec: Spec) -> Any:
    """Returns `compile.jit_compile` for Keras; "auto" leaves the choice to Keras."""
    value = spec.compile.jit_compile
    return value if isinstance(value, bool) else "auto"


def _automatic_loss(targets: Targets, kind: OutputKind) -> Any:
    logits = kind == "logits"
    if targets == "sparse":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    if targets == "one_hot":
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return keras.losses.BinaryCrossentropy(from_logits=logits)


def _size_faults(metrics: Sequence[Any], num_classes: int) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Yields the faults of metrics whose arguments do not match the number of classes, which only the data has."""
    for index, metric in enumerate(metrics):
        given = metric if isinstance(metric, Mapping) else {}
        if given.get("num_classes", num_classes) != num_classes:
            yield index, ("num_classes",), f'expected {num_classes}, the classes of the data; write "=num_classes"'
        if given.get("num_labels", num_classes) != num_classes:
            yield index, ("num_labels",), f"expected {num_classes}, the labels of the data"
        if len(given.get("label_weights") or range(num_classes)) != num_classes:
            yield (
                index,
                ("label_weights",),
                f"expected one number for each of the {counted(num_classes, 'label')} of the data",
            )
        if (given.get("class_id") or 0) >= num_classes:
            yield index, ("class_id",), f"expected a number from 0 to {num_classes - 1}, got {given['class_id']}"


def _metric(value: Any, targets: Targets, kind: OutputKind, num_classes: int) -> Any:
    """Returns a metric that works with any model and loss, see `OnProbabilities`."""
    logits = kind == "logits"
    threshold = 0.0 if logits else 0.5
    if value == "accuracy":
        if targets == "sparse":
            return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        if targets == "one_hot":
            return keras.metrics.CategoricalAccuracy(name="accuracy")
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    if value == "f1":
        if targets != "multi_hot":
            return F1(num_classes, average="binary" if targets == "binary" else "macro", threshold=threshold)
        value = {"type": "F1Score", "name": "f1"}
    kind_name, name = metric_type(value), metric_name(value)
    given = {"type": kind_name, **(value if isinstance(value, Mapping) else {})}
    given.pop("from_logits", None)  # it gets probabilities
    if kind_name in ("F1Score", "FBetaScore"):
        # The history has one number per metric, and several labels may each have a threshold.
        given["average"] = given.get("average") or "macro"
        if targets in ("binary", "multi_hot"):
            given["threshold"] = given.get("threshold") or 0.5
    if given.get("multi_label"):
        given["num_labels"] = 1 if targets == "binary" else num_classes
    metric = make("metrics", given)
    metric.name = name  # Keras counts: in its second training a process would have "auc_1"
    known = METRICS.get(kind_name)
    # A metric of the program's own: by Keras' convention of names.
    by_name = "numbers" if kind_name.startswith("Sparse") else "columns"
    labels = known.labels if known else by_name
    activation: Activation | None = None
    if kind_name == "CategoricalHinge":
        activation = "shift"
    elif logits and not (known and known.takes_scores):
        activation = "softmax" if targets in ("sparse", "one_hot") else "sigmoid"
    form = _FORMS.get((labels, targets))
    if activation is None and form is None and known is not None:
        return metric
    return OnProbabilities(metric, activation, form, num_classes)


Activation = Literal["softmax", "sigmoid", "shift"]
LabelChange = Literal["one_hot", "argmax"]
_FORMS: Mapping[tuple[str, Targets], LabelChange] = {
    ("columns", "sparse"): "one_hot",
    ("numbers", "one_hot"): "argmax",
}


class OnProbabilities(keras.metrics.Metric):
    """Converts outputs and labels to the form that a metric expects, for any model and loss.

    A metric with several numbers as its result (only one of the program's own) gives their mean.

    Args:
        metric: the metric; this one has its name.
        activation: of the head that the model leaves out; None where the model gives probabilities. "shift": the least
            score becomes 0, as Keras' CategoricalHinge takes the score of the true class to be 0 among the others'.
        labels: what becomes of the labels; None: nothing.
        num_classes: how many columns labels get.
    """

    def __init__(
        self,
        metric: keras.metrics.Metric,
        activation: Activation | None,
        labels: LabelChange | None,
        num_classes: int,
    ):
        super().__init__(name=metric.name, dtype=metric.dtype)
        self.metric = metric
        self.activation = activation
        self.labels = labels
        self.num_classes = num_classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        ops = keras.ops
        y_pred = ops.cast(y_pred, "float32")
        if self.activation == "softmax":
            y_pred = ops.softmax(y_pred, axis=-1)
        elif self.activation == "sigmoid":
            y_pred = ops.sigmoid(y_pred)
        elif self.activation == "shift":
            y_pred = y_pred - ops.min(y_pred, axis=-1, keepdims=True)
        if self.labels == "one_hot":
            y_true = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.num_classes, dtype="float32")
        elif self.labels == "argmax":
            y_true = ops.argmax(y_true, axis=-1)
        self.metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def result(self) -> Any:
        """The figure of everything since the last reset, a scalar."""
        result = self.metric.result()
        return keras.ops.mean(result) if len(result.shape) else result

    def reset_state(self) -> None:
        """Begin again."""
        self.metric.reset_state()


def weighs(spec: Spec) -> bool:
    """Whether images or labels have different weights."""
    return spec.fit.class_weight != "none" or spec.fit.sample_weight is not None


def weighs_labels(spec: Spec) -> bool:
    """Whether each of several labels has its own weight, see `label_weights`."""
    return spec.fit.class_weight != "none" and spec.task == "multilabel"


def image_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray | None:
    """Returns the weight of each image, (N,) float32: class weight times sample weight; None if all are 1."""
    weights = None
    if spec.fit.class_weight != "none" and spec.task != "multilabel":
        of_class = class_weights(spec, source, indices)
        weights = of_class[source.label_ids(indices)]
    if spec.fit.sample_weight is not None:
        own = _column(spec.fit.sample_weight, source, indices)
        weights = own if weights is None else weights * own
    return None if weights is None else weights.astype(np.float32)


def sample_weight_digest(spec: Spec, source: Source, indices: np.ndarray) -> str | None:
    """Returns the SHA-256 of the sample weights of these images, to check them on resume; None without any."""
    if spec.fit.sample_weight is None:
        return None
    return hashlib.sha256(_column(spec.fit.sample_weight, source, indices).tobytes()).hexdigest()


def class_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray:
    """Returns the weight of each class: n / (classes * n of the class), or its square root."""
    counts = np.bincount(source.label_ids(indices), minlength=len(source.classes))
    weights = len(indices) / (len(counts) * np.maximum(counts, 1))
    return np.sqrt(weights) if spec.fit.class_weight == "sqrt" else weights


def label_weights(spec: Spec, source: Source, indices: np.ndarray) -> np.ndarray | None:
    """Returns the weights of several labels, (2, K): of a negative and of a positive label.

    n / (2 * n of the images with this label value), or its square root. None if all are 1.
    """
    if not weighs_labels(spec):
        return None
    hold = source.label_ids(indices).sum(axis=0)
    weights = len(indices) / (2 * np.maximum([len(indices) - hold, hold], 1))
    return np.sqrt(weights) if spec.fit.class_weight == "sqrt" else weights


def _column(name: str, source: Source, indices: np.ndarray) -> np.ndarray:
    """Returns a column of the manifest as numbers; DataError names each image without one, or with one below 0."""
    weights = np.ones(len(indices))
    faults = []
    for place, index in enumerate(indices):
        item = source.items[int(index)]
        value: Any = item.extras.get(name)
        try:
            weights[place] = float(value)
        except (TypeError, ValueError):
            weights[place] = math.nan
        if not 0 <= weights[place] < math.inf:
            text = "nothing" if value is None else repr(value)
            faults.append(Fault(source.where, item.id, f"expected a number >= 0 as its {name!r}, found {text}"))
    if len(faults) == len(indices):
        message = (
            f"fit.sample_weight names the column {name!r}, which no image has a number in; only a manifest has any"
        )
        faults = [Fault(source.where, "", message)]
    if faults:
        raise ManyFaults(faults)
    return weights
