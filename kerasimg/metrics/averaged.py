"""The base of metrics that are computed per class and averaged."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from keras import ops

from kerasimg.metrics.confusion import ConfusionMetric

Average = Literal["macro", "weighted", "binary", "none"]


class AveragedMetric(ConfusionMetric):
    """A metric per class, averaged; a subclass computes it in `_by_class`.

    average: macro: every class that occurs in the labels or the predictions counts the same.
        weighted: a class counts by its share of the labels. binary: only class 1 counts.
        none: no average, (num_classes,); 0 for a class that does not occur. Not for a spec, whose figures are numbers.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        **ConfusionMetric.argument_kinds,
        "average": "'macro'|'weighted'|'binary'",
    }

    def __init__(
        self,
        num_classes: int,
        average: Average = "macro",
        threshold: float = 0.5,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__(num_classes, threshold, name, dtype)
        own = type(self).__name__
        if average not in get_args(Average):
            raise ValueError(f"{own}: average must be one of {', '.join(get_args(Average))}, got {average!r}")
        if average == "binary" and num_classes > 2:
            raise ValueError(f"{own}: average='binary' needs num_classes=2, got {num_classes}")
        self.average = average

    def result(self) -> Any:
        """The figure of everything since the last reset."""
        hits, labelled, predicted = self._counts()
        figures = self._by_class(hits, labelled, predicted)
        if self.average == "none":
            return figures
        if self.average == "binary":
            return figures[1]
        occurs = ops.cast(labelled + predicted > 0, self.dtype)
        share = labelled if self.average == "weighted" else occurs
        return ops.divide_no_nan(ops.sum(figures * share), ops.sum(share))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "average": self.average}

    def _by_class(self, hits: Any, labelled: Any, predicted: Any) -> Any:
        """The figure of each class, from its hits, labels and predictions."""
        raise NotImplementedError
