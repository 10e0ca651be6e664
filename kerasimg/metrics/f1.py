"""The F1 metric for labels that are integers, one-hot or binary."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

Average = Literal["macro", "weighted", "binary"]


@keras.saving.register_keras_serializable(package="kerasimg")
class F1(keras.metrics.Metric):
    """Harmonic mean of precision and recall, as `sklearn.metrics.f1_score(..., zero_division=0)`; in [0, 1].

    y_true: (N,) or (N, 1) integers in [0, num_classes), or (N, num_classes) one-hot.
    y_pred: (N, num_classes) probabilities or logits; for two classes also (N,) or (N, 1), of class 1.
    num_classes: 2 or more, also where the model has a single output.
    average: macro: every class that occurs in the labels or the predictions counts the same.
        weighted: a class counts by its share of the labels. binary: only class 1 counts.
    threshold: an (N,) or (N, 1) y_pred above it means class 1; 0.5 for probabilities, 0 for logits.
    sample_weight: (N,) or (N, 1), 0 or more; what weighs 0 does not occur.
    """

    def __init__(
        self,
        num_classes: int,
        average: Average = "macro",
        threshold: float = 0.5,
        name: str = "f1",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(f"F1: num_classes must be 2 or more, got {num_classes}")
        if average not in get_args(Average):
            raise ValueError(f"F1: average must be one of {', '.join(get_args(Average))}, got {average!r}")
        if average == "binary" and num_classes > 2:
            raise ValueError(f"F1: average='binary' needs num_classes=2, got {num_classes}")
        self.num_classes = num_classes
        self.average = average
        self.threshold = threshold
        # Rows are the labels, columns the predictions.
        self.confusion = self.add_variable((num_classes, num_classes), "zeros", name="confusion")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch to the confusion matrix."""
        pairs = self._labels(y_true) * self.num_classes + self._predictions(y_pred)
        if sample_weight is None:
            weights = ops.ones_like(pairs, dtype=self.dtype)
        else:
            weights = ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        counts = ops.segment_sum(weights, pairs, num_segments=self.num_classes**2)
        self.confusion.assign_add(ops.reshape(counts, self.confusion.shape))

    def result(self) -> Any:
        """F1 of everything since the last reset, a scalar."""
        hits = ops.diagonal(self.confusion)
        labelled = ops.sum(self.confusion, axis=1)
        occurs = labelled + ops.sum(self.confusion, axis=0)
        f1 = ops.divide_no_nan(2 * hits, occurs)
        if self.average == "binary":
            return f1[1]
        share = labelled if self.average == "weighted" else ops.cast(occurs > 0, self.dtype)
        return ops.divide_no_nan(ops.sum(f1 * share), ops.sum(share))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"num_classes": self.num_classes, "average": self.average, "threshold": self.threshold}
        return {**super().get_config(), **own}

    def _labels(self, y_true: Any) -> Any:
        y_true = ops.convert_to_tensor(y_true)
        if len(y_true.shape) == 2 and y_true.shape[1] == self.num_classes:
            return ops.cast(ops.argmax(y_true, axis=1), "int32")
        return ops.reshape(ops.cast(y_true, "int32"), (-1,))

    def _predictions(self, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        columns = y_pred.shape[1] if len(y_pred.shape) == 2 else 1
        if max(columns, 2) != self.num_classes:
            raise ValueError(f"F1: num_classes is {self.num_classes}, but y_pred has shape {y_pred.shape}")
        if columns == 1:
            return ops.reshape(ops.cast(y_pred > self.threshold, "int32"), (-1,))
        return ops.cast(ops.argmax(y_pred, axis=1), "int32")
