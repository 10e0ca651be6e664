"""The figure that a search optimises, with its direction, which is always told to KerasTuner.

KerasTuner guesses the direction of what it does not know: of `val_f1_score` wrongly, so that the worst model wins.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from kerasimg.errors import Fault, SpecError, listed, nearest
from kerasimg.spec.expand import snake_case
from kerasimg.spec.load import Spec

Direction = Literal["min", "max"]

MORE = frozenset(
    {
        *("accuracy", "f1", "AUC", "BalancedAccuracy", "BinaryAccuracy", "CategoricalAccuracy", "F1", "F1Score"),
        *("FBetaScore", "MatthewsCorrelation", "Precision", "PrecisionAtRecall", "Recall", "RecallAtPrecision"),
        *("SensitivityAtSpecificity", "SparseCategoricalAccuracy", "SparsePrecision", "SparseRecall"),
        *("SparseTopKCategoricalAccuracy", "SpecificityAtSensitivity", "TopKCategoricalAccuracy", "TrueNegatives"),
        "TruePositives",
    }
)
"""Metrics of which more is better."""
LESS = frozenset(
    {
        *("BinaryCrossentropy", "CategoricalCrossentropy", "CategoricalHinge", "ExpectedCalibrationError"),
        *("FalseNegatives", "FalsePositives", "Hinge", "KLDivergence", "SparseCategoricalCrossentropy", "SquaredHinge"),
    }
)
"""Metrics of which less is better."""


class Goal(NamedTuple):
    """A figure of an epoch, and which way it is better."""

    figure: str
    direction: Direction

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`; nothing is better than a number that is none."""
        return one < other if self.direction == "min" else one > other

    @property
    def worst(self) -> float:
        """What any number is better than."""
        return float("inf") if self.direction == "min" else float("-inf")


def goal_of(spec: Spec) -> Goal:
    """What the search of a spec optimises; SpecError where the figure is not measured, or its direction not known."""
    figure = spec.tune.objective
    names: dict[str, Direction | None] = {"loss": "min"}
    for metric in spec.compile.metrics:
        kind, name = _kind_and_name(metric)
        names[name] = "max" if kind in MORE else "min" if kind in LESS else None
    measured = figure.removeprefix("val_")
    if measured not in names:
        known = [f"val_{name}" for name in names]
        message = f"no such figure{nearest(figure, known)} (measured are: {listed(known)}; more by compile.metrics)"
        raise SpecError([Fault(spec.file, "tune.objective", message)])
    said = spec.tune.direction if spec.tune.direction != "auto" else names[measured]
    if said is None:
        message = f'\'{figure}\' may be better when it is less, or more; say which: "min" or "max"'
        raise SpecError([Fault(spec.file, "tune.direction", message)])
    return Goal(figure, said)


def _kind_and_name(metric: Any) -> tuple[str, str]:
    if isinstance(metric, dict):
        return str(metric["type"]), str(metric.get("name") or snake_case(str(metric["type"])))
    return str(metric), snake_case(str(metric))
