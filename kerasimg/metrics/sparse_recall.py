"""Recall for labels that are integers, one-hot or binary."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.metrics.averaged import Average, AveragedMetric


@keras.saving.register_keras_serializable(package="kerasimg")
class SparseRecall(AveragedMetric):
    """Recall, as `sklearn.metrics.recall_score(..., zero_division=0)`; in [0, 1].

    y_true: (N,) or (N, 1) integers in [0, num_classes), or (N, num_classes) one-hot.
    y_pred: (N, num_classes) probabilities or logits; for two classes also (N,) or (N, 1), of class 1.
    num_classes: 2 or more, also where the model has a single output.
    average: macro: every class that occurs in the labels or the predictions counts the same.
        weighted: a class counts by its share of the labels. binary: only class 1 counts.
        none: no average, (num_classes,); 0 for a class that does not occur. Not for a spec, whose figures are numbers.
    threshold: an (N,) or (N, 1) y_pred above it means class 1; 0.5 for probabilities, 0 for logits.
    sample_weight: (N,) or (N, 1), 0 or more; what weighs 0 does not occur.
    """

    def __init__(
        self,
        num_classes: int,
        average: Average = "macro",
        threshold: float = 0.5,
        name: str = "recall",
        dtype: Any = None,
    ):
        super().__init__(num_classes, average, threshold, name, dtype)

    def _by_class(self, hits: Any, labelled: Any, predicted: Any) -> Any:
        return ops.divide_no_nan(hits, labelled)
