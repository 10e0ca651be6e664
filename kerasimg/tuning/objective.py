"""The figure that a search optimises, with its direction, which KerasTuner is always given.

KerasTuner guesses the direction of figures that it does not know: of `val_f1_score` wrongly, so that the worst model
wins.
"""

from __future__ import annotations

from kerasimg.errors import Fault, SpecError
from kerasimg.spec.load import Spec
from kerasimg.spec.metrics import Goal, directions, no_such_figure, unknown_direction
from kerasimg.training.distillation import has_teacher

__all__ = ["Goal", "goal_of"]


def goal_of(spec: Spec) -> Goal:
    """What the search of a spec optimises; SpecError where the figure is not measured, or its direction not known."""
    figure, known = spec.tune.objective, directions(spec.compile.metrics, has_teacher(spec))
    measured = figure.removeprefix("val_")
    if measured not in known:
        raise SpecError([Fault(spec.file, "tune.objective", no_such_figure(figure, list(known)))])
    direction = known[measured] if spec.tune.direction == "auto" else spec.tune.direction
    if direction is None:
        raise SpecError([Fault(spec.file, "tune.direction", unknown_direction(figure))])
    return Goal(figure, direction)
