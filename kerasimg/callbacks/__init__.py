"""Keras callbacks that Keras lacks, one class a file."""

from kerasimg.callbacks.confusion_to_tensorboard import ConfusionToTensorBoard
from kerasimg.callbacks.curves_to_tensorboard import CurvesToTensorBoard
from kerasimg.callbacks.json_lines import JsonLines
from kerasimg.callbacks.learning_rate_finder import LearningRateFinder
from kerasimg.callbacks.progressive_unfreezing import ProgressiveUnfreezing
from kerasimg.callbacks.time_budget import TimeBudget
from kerasimg.callbacks.warmup_cosine import WarmupCosine

__all__ = [
    "ConfusionToTensorBoard",
    "CurvesToTensorBoard",
    "JsonLines",
    "LearningRateFinder",
    "ProgressiveUnfreezing",
    "TimeBudget",
    "WarmupCosine",
]
