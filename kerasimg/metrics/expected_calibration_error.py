"""Expected calibration error of probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasimg")
class ExpectedCalibrationError(keras.metrics.Metric):
    """Mean gap between confidence and accuracy (Guo et al. 2017, arXiv:1706.04599); in [0, 1], 0 is best.

    Images are sorted by confidence, the probability of the predicted class, into bins of equal width; the gaps
    between mean confidence and accuracy of the bins are averaged by the bins' shares of the images.
    y_true: (N,) or (N, 1) integers, or (N, K) one-hot.
    y_pred: (N, K) probabilities; (N,) or (N, 1): of class 1.  from_logits: y_pred is what softmax or sigmoid takes.
    bins: 1 or more.
    sample_weight: (N,) or (N, 1), 0 or more.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"bins": "int>0"}

    def __init__(
        self,
        bins: int = 15,
        from_logits: bool = False,
        name: str = "expected_calibration_error",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        if bins < 1:
            raise ValueError(f"ExpectedCalibrationError: bins must be 1 or more, got {bins}")
        self.bins = bins
        self.from_logits = from_logits
        # Of each bin: the weight of its images, and the sum of confidence minus hit.
        self.weight = self.add_variable((bins,), "zeros", name="weight")
        self.gaps = self.add_variable((bins,), "zeros", name="gaps")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Sort one batch into the bins."""
        probabilities = self._probabilities(y_pred)
        labels = ops.convert_to_tensor(y_true)
        if len(labels.shape) == 2 and labels.shape[1] > 1:
            labels = ops.argmax(labels, axis=1)
        labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
        confidence = ops.max(probabilities, axis=1)
        hit = ops.cast(ops.cast(ops.argmax(probabilities, axis=1), "int32") == labels, self.dtype)
        weight = ops.ones_like(confidence)
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        places = ops.cast(ops.ceil(confidence * self.bins), "int32") - 1
        places = ops.clip(places, 0, self.bins - 1)
        self.weight.assign_add(ops.segment_sum(weight, places, num_segments=self.bins))
        self.gaps.assign_add(ops.segment_sum(weight * (confidence - hit), places, num_segments=self.bins))

    def result(self) -> Any:
        """The error of everything since the last reset, a scalar."""
        return ops.divide_no_nan(ops.sum(ops.abs(self.gaps)), ops.sum(self.weight))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "bins": self.bins, "from_logits": self.from_logits}

    def _probabilities(self, y_pred: Any) -> Any:
        """(N, K), K of 2 or more."""
        y_pred = ops.cast(y_pred, self.dtype)
        if len(y_pred.shape) == 2 and y_pred.shape[1] > 1:
            return ops.softmax(y_pred, axis=1) if self.from_logits else y_pred
        first = ops.reshape(ops.sigmoid(y_pred) if self.from_logits else y_pred, (-1,))
        return ops.stack([1 - first, first], axis=1)
