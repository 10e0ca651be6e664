"""Keras metrics that Keras lacks, one class a file, for every backend."""

from kerasimg.metrics.balanced_accuracy import BalancedAccuracy
from kerasimg.metrics.expected_calibration_error import ExpectedCalibrationError
from kerasimg.metrics.f1 import F1
from kerasimg.metrics.matthews_correlation import MatthewsCorrelation
from kerasimg.metrics.sparse_precision import SparsePrecision
from kerasimg.metrics.sparse_recall import SparseRecall

__all__ = [
    "F1",
    "BalancedAccuracy",
    "ExpectedCalibrationError",
    "MatthewsCorrelation",
    "SparsePrecision",
    "SparseRecall",
]
