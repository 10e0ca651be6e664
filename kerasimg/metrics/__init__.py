"""Keras metrics that Keras lacks, one class a file, for every backend."""

from kerasimg.metrics.f1 import F1

__all__ = ["F1"]
