"""Matthews correlation of labels and predictions."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasimg.metrics.confusion import ConfusionMetric


@keras.saving.register_keras_serializable(package="kerasimg")
class MatthewsCorrelation(ConfusionMetric):
    """Correlation of labels and predictions, as `sklearn.metrics.matthews_corrcoef`; in [-1, 1], 0 is chance.

    For two classes by Matthews 1975, for more by Gorodkin 2004; 0 where all labels or all predictions are of one class.
    y_true: (N,) or (N, 1) integers in [0, num_classes), or (N, num_classes) one-hot.
    y_pred: (N, num_classes) probabilities or logits; for two classes also (N,) or (N, 1), of class 1.
    num_classes: 2 or more, also where the model has a single output.
    threshold: an (N,) or (N, 1) y_pred above it means class 1; 0.5 for probabilities, 0 for logits.
    sample_weight: (N,) or (N, 1), 0 or more; what weighs 0 does not occur.
    """

    def __init__(self, num_classes: int, threshold: float = 0.5, name: str = "matthews_correlation", dtype: Any = None):
        super().__init__(num_classes, threshold, name, dtype)

    def result(self) -> Any:
        """The correlation of everything since the last reset, a scalar."""
        # As shares: the squares of counts would leave float32.
        total = ops.sum(self.confusion)
        hits, labelled, predicted = (ops.divide_no_nan(counts, total) for counts in self._counts())
        covariance = ops.sum(hits) - ops.sum(labelled * predicted)
        # 1 - sum(share ** 2), without the difference of two numbers near 1 when one class has nearly all.
        spread = ops.sum(labelled * (1 - labelled)) * ops.sum(predicted * (1 - predicted))
        return ops.divide_no_nan(covariance, ops.sqrt(spread))
