"""The base of metrics that a confusion matrix determines."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops


class ConfusionMetric(keras.metrics.Metric):
    """A metric over pairs of label and prediction; a subclass reads `result` from the matrix `confusion`.

    y_true: (N,) or (N, 1) integers in [0, num_classes), or (N, num_classes) one-hot.
    y_pred: (N, num_classes) probabilities or logits; for two classes also (N,) or (N, 1), of class 1.
    num_classes: 2 or more, also where the model has a single output.
    threshold: an (N,) or (N, 1) y_pred above it means class 1; 0.5 for probabilities, 0 for logits.
    sample_weight: (N,) or (N, 1), 0 or more; what weighs 0 does not occur.
    """

    # Logits have any threshold.
    argument_kinds: ClassVar[dict[str, str]] = {"threshold": "float"}

    def __init__(self, num_classes: int, threshold: float = 0.5, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(f"{type(self).__name__}: num_classes must be 2 or more, got {num_classes}")
        self.num_classes = num_classes
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

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "num_classes": self.num_classes, "threshold": self.threshold}

    def _counts(self) -> tuple[Any, Any, Any]:
        """Of each class: the hits, the labels, the predictions; (num_classes,) each."""
        return ops.diagonal(self.confusion), ops.sum(self.confusion, axis=1), ops.sum(self.confusion, axis=0)

    def _labels(self, y_true: Any) -> Any:
        y_true = ops.convert_to_tensor(y_true)
        if len(y_true.shape) == 2 and y_true.shape[1] == self.num_classes:
            return ops.cast(ops.argmax(y_true, axis=1), "int32")
        return ops.reshape(ops.cast(y_true, "int32"), (-1,))

    def _predictions(self, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        columns = y_pred.shape[1] if len(y_pred.shape) == 2 else 1
        if max(columns, 2) != self.num_classes:
            name = type(self).__name__
            raise ValueError(f"{name}: num_classes is {self.num_classes}, but y_pred has shape {y_pred.shape}")
        if columns == 1:
            return ops.reshape(ops.cast(y_pred > self.threshold, "int32"), (-1,))
        return ops.cast(ops.argmax(y_pred, axis=1), "int32")
