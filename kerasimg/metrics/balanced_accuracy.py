"""Balanced accuracy, for classes of different sizes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.metrics.confusion import ConfusionMetric


@keras.saving.register_keras_serializable(package="kerasimg")
class BalancedAccuracy(ConfusionMetric):
    """Mean of the recalls of the classes, as `sklearn.metrics.balanced_accuracy_score`; in [0, 1].

    Only classes that occur in the labels count; 1 / num_classes is chance.
    y_true: (N,) or (N, 1) integers in [0, num_classes), or (N, num_classes) one-hot.
    y_pred: (N, num_classes) probabilities or logits; for two classes also (N,) or (N, 1), of class 1.
    num_classes: 2 or more, also where the model has a single output.
    threshold: an (N,) or (N, 1) y_pred above it means class 1; 0.5 for probabilities, 0 for logits.
    sample_weight: (N,) or (N, 1), 0 or more; what weighs 0 does not occur.
    """

    def __init__(self, num_classes: int, threshold: float = 0.5, name: str = "balanced_accuracy", dtype: Any = None):
        super().__init__(num_classes, threshold, name, dtype)

    def result(self) -> Any:
        """Balanced accuracy of everything since the last reset, a scalar."""
        hits, labelled, _ = self._counts()
        occurs = ops.cast(labelled > 0, self.dtype)
        return ops.divide_no_nan(ops.sum(ops.divide_no_nan(hits, labelled)), ops.sum(occurs))
