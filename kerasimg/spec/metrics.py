"""The figures that training measures: which way each is better, which tasks it is for, and what it takes.

`METRICS` is the only table of metrics in the package. The checks of a spec, early stopping, the choice of the best
epoch, callbacks, the history, the report and the search all read it. Nothing here needs Keras.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from kerasimg.errors import Fault, SpecError, listed, nearest
from kerasimg.spec.arguments import entry
from kerasimg.spec.document import Compile, EarlyStopping, Fit, Stage, Task, Tune
from kerasimg.spec.expand import snake_case
from kerasimg.spec.locations import Path, Report, show_path
from kerasimg.spec.reader import shown

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

Direction = Literal["min", "max"]
LabelForm = Literal["any", "numbers", "columns"]
"""numbers: the number of the class, (N,). columns: one column per class or label, (N, K). any: both."""

ALL_TASKS: Final[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")
ONE_CLASS: Final[tuple[Task, ...]] = ("multiclass", "binary")
SEVERAL: Final[tuple[Task, ...]] = ("multiclass",)
EACH_ALONE: Final[tuple[Task, ...]] = ("binary", "multilabel")


class Metric(NamedTuple):
    """The facts about a metric."""

    direction: Direction
    labels: LabelForm = "columns"
    tasks: tuple[Task, ...] = ALL_TASKS
    instead: str = ""
    """The metric to use instead, for a task that it does not support."""
    takes_scores: bool = False
    """Whether it takes the scores before a softmax or sigmoid, not probabilities."""


METRICS: Final[Mapping[str, Metric]] = {
    "accuracy": Metric("max", "any"),
    "f1": Metric("max", "any"),
    "AUC": Metric("max"),
    "BinaryAccuracy": Metric("max", tasks=EACH_ALONE, instead="accuracy"),
    "BinaryCrossentropy": Metric("min", tasks=EACH_ALONE, instead="CategoricalCrossentropy"),
    "CategoricalAccuracy": Metric("max", tasks=SEVERAL, instead="accuracy"),
    "CategoricalCrossentropy": Metric("min", tasks=SEVERAL, instead="BinaryCrossentropy"),
    "CategoricalHinge": Metric("min", tasks=SEVERAL, instead="Hinge", takes_scores=True),
    "F1Score": Metric("max"),
    "FBetaScore": Metric("max"),
    "FalseNegatives": Metric("min"),
    "FalsePositives": Metric("min"),
    "Hinge": Metric("min", tasks=EACH_ALONE, instead="CategoricalHinge", takes_scores=True),
    "KLDivergence": Metric("min", tasks=SEVERAL, instead="BinaryCrossentropy"),
    "Precision": Metric("max"),
    "PrecisionAtRecall": Metric("max"),
    "Recall": Metric("max"),
    "RecallAtPrecision": Metric("max"),
    "SensitivityAtSpecificity": Metric("max"),
    "SparseCategoricalAccuracy": Metric("max", "numbers", SEVERAL, "accuracy"),
    "SparseCategoricalCrossentropy": Metric("min", "numbers", SEVERAL, "BinaryCrossentropy"),
    "SparseTopKCategoricalAccuracy": Metric("max", "numbers", SEVERAL, "accuracy"),
    "SpecificityAtSensitivity": Metric("max"),
    "SquaredHinge": Metric("min", tasks=EACH_ALONE, instead="CategoricalHinge", takes_scores=True),
    "TopKCategoricalAccuracy": Metric("max", tasks=SEVERAL, instead="accuracy"),
    "TrueNegatives": Metric("max"),
    "TruePositives": Metric("max"),
    "BalancedAccuracy": Metric("max", "any", ONE_CLASS, "f1"),
    "ExpectedCalibrationError": Metric("min", "any", ONE_CLASS, "BinaryCrossentropy"),
    "F1": Metric("max", "any", ONE_CLASS, "f1"),
    "MatthewsCorrelation": Metric("max", "any", ONE_CLASS, "f1"),
    "SparsePrecision": Metric("max", "any", ONE_CLASS, "Precision"),
    "SparseRecall": Metric("max", "any", ONE_CLASS, "Recall"),
}
"""Every metric that a spec can name, of Keras and of kerasimg."""

LOSSES: Final[tuple[str, ...]] = ("loss",)
DISTILLATION_LOSSES: Final[tuple[str, ...]] = ("student_loss", "distillation_loss", "total_loss")
"""The metrics that `fit.teacher` adds."""
MODEL_FIGURES: Final[Mapping[str, Direction]] = {"latency_ms": "min", "bytes": "min"}
"""What a search can optimise of the model itself, as a LiteRT file: see `kerasimg.deploy.measure`."""
NO_FIGURES: Final[tuple[str, ...]] = ("stage", "epoch", "seconds", "learning_rate")
"""Columns of history.csv that say nothing about how good a model is."""
SETS_RATE: Final[tuple[str, ...]] = ("ReduceLROnPlateau", "WarmupCosine")
"""Callbacks that set the learning rate, which a schedule does not allow."""
_THRESHOLDS: Final[tuple[str, ...]] = ("threshold", "thresholds")


class Goal(NamedTuple):
    """A figure of an epoch, and which way it is better."""

    figure: str
    direction: Direction
    min_delta: float = 0.0
    """Only a change by more than this is an improvement."""

    def better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`; NaN is never better."""
        return value < other if self.direction == "min" else value > other

    def improves(self, value: float, best: float | None) -> bool:
        """Whether an epoch with `value` replaces the best epoch so far; a number always replaces NaN."""
        if best is None or math.isnan(best):
            return best is None or not math.isnan(value)
        return (best - value if self.direction == "min" else value - best) > self.min_delta

    def best_of(self, values: Sequence[float]) -> int:
        """The place of the best value, the first of equal ones."""
        best = 0
        for place, value in enumerate(values):
            if place and self.improves(value, values[best]):
                best = place
        return best

    @property
    def worst(self) -> float:
        """A value that any number is better than."""
        return float("inf") if self.direction == "min" else float("-inf")


def metric_type(metric: Any) -> str:
    """The class of a metric as a spec writes it: a name, or {"type": name, ...}."""
    return str(metric["type"]) if isinstance(metric, Mapping) else str(metric)


def metric_name(metric: Any) -> str:
    """The name that a metric's figure has in the history: the given name, else one made from the class."""
    kind = metric_type(metric)
    if isinstance(metric, Mapping) and metric.get("name"):
        return str(metric["name"])
    known = entry("metrics", kind) or {}
    if known.get("module") == "kerasimg.metrics":
        return str(known["args"]["name"]["default"])
    return snake_case(kind)


def directions(metrics: Sequence[Any], teacher: bool = False) -> dict[str, Direction | None]:
    """Every figure that training measures, without "val_", and which way it is better; None: not known.

    metrics: `compile.metrics`.  teacher: whether `fit.teacher` is given.
    """
    losses = LOSSES + DISTILLATION_LOSSES if teacher else LOSSES
    found: dict[str, Direction | None] = dict.fromkeys(losses, "min")
    for metric in metrics:
        known = METRICS.get(metric_type(metric))
        found[metric_name(metric)] = known.direction if known else None
    return found


def direction_of(figure: str, metrics: Sequence[Any], teacher: bool = False) -> Direction | None:
    """Which way a figure is better; None where that is not known."""
    return directions(metrics, teacher).get(figure.removeprefix("val_"))


def no_such_figure(figure: str, known: Sequence[str]) -> str:
    """The message for a figure that is not measured.

    known: the figures, without "val_".
    """
    names = [f"val_{name}" for name in known]
    if not figure.startswith("val_"):
        names += known
    return f"no such figure{nearest(figure, names)} (measured are: {listed(names)}; more by compile.metrics)"


def objective_fault(compiled: Compile, fit: Fit, tune: Tune) -> tuple[Path, str] | None:
    """Checks the figures that a search optimizes.

    Returns:
        The place in `tune` that is wrong, and the message. None if every figure is measured and its direction known.
    """
    known = directions(compiled.metrics, fit.teacher is not None)
    for number, figure in enumerate(tune.objectives):
        place: Path = ("objective",) if isinstance(tune.objective, str) else ("objective", number)
        if figure in tune.objectives[:number]:
            return place, f"'{figure}' is listed twice"
        if figure in MODEL_FIGURES:
            if number == 0:
                return (
                    place,
                    f"'{figure}' does not change in training; put a metric first, such as val_accuracy",
                )
            continue
        if figure.removeprefix("val_") not in known:
            names = f"; of the model: {listed(MODEL_FIGURES)}" if number else ""
            return place, no_such_figure(figure, list(known)) + names
        written = tune.direction if number == 0 else "auto"
        if fault := direction_fault(figure, written, known[figure.removeprefix("val_")]):
            return ("direction",) if number == 0 else place, fault
    return None


def goal_of(spec: Spec) -> Goal:
    """Returns the metric that a search of a spec optimizes, with its direction: the first of several objectives.

    KerasTuner would guess the direction of a metric that it does not know: of `val_f1_score` wrongly, so that the worst
    model would win.

    Raises:
        SpecError: if the metric is not measured, or its direction is not known.
    """
    return goals_of(spec)[0]


def goals_of(spec: Spec) -> tuple[Goal, ...]:
    """Returns every figure that a search of a spec optimizes, with its direction; SpecError as for `goal_of`."""
    if (fault := objective_fault(spec.compile, spec.fit, spec.tune)) is not None:
        raise SpecError([Fault(spec.file, show_path(spec.document, ("tune", *fault[0])), fault[1])])
    goals = []
    for number, figure in enumerate(spec.tune.objectives):
        known = MODEL_FIGURES.get(figure) or direction_of(figure, spec.compile.metrics, spec.fit.teacher is not None)
        written = spec.tune.direction if number == 0 else "auto"
        goals.append(Goal(figure, known or "min" if written == "auto" else written))
    return tuple(goals)


def keeps_best(stage: Stage) -> bool:
    """Whether the weights of a stage's best epoch are handed on, and not those of its last."""
    if stage.keep == "auto":
        return stage.early_stopping is not None and stage.early_stopping.restore_best_weights
    return stage.keep == "best"


def monitor_of(stage: Stage) -> str:
    """The figure that says which epoch of a stage is best."""
    return stage.monitor or (stage.early_stopping.monitor if stage.early_stopping else "val_loss")


def best_by(stage: Stage) -> Goal:
    """The criterion for the best epoch of a stage: the metric, its direction, and the least improvement.

    The stage is that of a loaded spec, whose directions are filled in.
    """
    stopping = stage.early_stopping
    same = stopping is not None and stopping.monitor == monitor_of(stage)
    return Goal(
        monitor_of(stage), "max" if stage.mode == "max" else "min", stopping.min_delta if stopping and same else 0.0
    )


def watched(stage: Stage) -> dict[str, str]:
    """The figures that a stage watches, by the key that names them."""
    found = {"early_stopping": stage.early_stopping.monitor} if stage.early_stopping else {}
    if keeps_best(stage) and monitor_of(stage) not in found.values():
        found["keep"] = monitor_of(stage)
    return found


def goals_in(document: Mapping[str, Any]) -> dict[int, Goal]:
    """Stage, from 1 -> what its best epoch is chosen by, from the spec.json of a run.

    Stages that say nothing are left out. A spec.json of an earlier version has no directions; they come from the table.
    """
    fit = document.get("fit", {})
    metrics = document.get("compile", {}).get("metrics", ["accuracy"])
    goals = {}
    for number, stage in enumerate(fit.get("stages", ()), 1):
        stopping = stage.get("early_stopping") or {}
        figure = stage.get("monitor") or stopping.get("monitor")
        if figure is None and stage.get("keep") != "best":
            continue
        figure = figure or "val_loss"
        same = stopping.get("monitor") == figure
        said = [stage.get("mode"), stopping.get("mode") if same else None]
        known = direction_of(figure, metrics, fit.get("teacher") is not None)
        direction = next((mode for mode in said if mode in ("min", "max")), known)
        goals[number] = Goal(figure, direction or "min", stopping.get("min_delta", 0.0) if same else 0.0)
    return goals


class Directions:
    """Fills in the directions that a spec leaves open, and reports what it watches that is not measured."""

    def __init__(self, compiled: Compile, fit: Fit, report: Report) -> None:
        self.fit = fit
        self.known = directions(compiled.metrics, fit.teacher is not None)
        self.report = report
        # A callback that a program registered may add figures of its own.
        self.open = any((entry("callbacks", metric_type(callback)) or {}).get("object") for callback in fit.callbacks)

    def filled(self) -> Fit:
        """The section `fit` with every `mode` as "min" or "max"."""
        stages = [self._stage(stage, ("stages", index)) for index, stage in enumerate(self.fit.stages)]
        callbacks = [self._callback(value, ("callbacks", index)) for index, value in enumerate(self.fit.callbacks)]
        return self.fit.model_copy(update={"stages": stages, "callbacks": callbacks})

    def _stage(self, stage: Stage, path: Path) -> Stage:
        stopping = stage.early_stopping
        if stopping is not None:
            below = (*path, "early_stopping")
            mode = self._mode(stopping.monitor, stopping.mode, (*below, "monitor"), (*below, "mode"))
            stopping = EarlyStopping.model_copy(stopping, update={"mode": mode})
        if not keeps_best(stage):
            return stage.model_copy(update={"early_stopping": stopping})
        if stopping is not None and stopping.monitor == monitor_of(stage):
            mode = stopping.mode if stage.mode == "auto" else stage.mode
        else:
            key = "monitor" if stage.monitor else "keep"
            mode = self._mode(monitor_of(stage), stage.mode, (*path, key), (*path, "mode"))
        return stage.model_copy(update={"early_stopping": stopping, "mode": mode})

    def _callback(self, callback: Any, path: Path) -> Any:
        takes = (entry("callbacks", metric_type(callback)) or {}).get("args", {})
        if "monitor" not in takes or "mode" not in takes:
            return callback
        given = dict(callback) if isinstance(callback, Mapping) else {"type": callback}
        monitor = given.get("monitor", takes["monitor"].get("default"))
        if not isinstance(monitor, str):
            return callback
        places = (*path, "monitor") if "monitor" in given else path, (*path, "mode") if "mode" in given else path
        return {**given, "mode": self._mode(monitor, given.get("mode", "auto"), *places)}

    def _mode(self, figure: str, said: Any, path: Path, mode_path: Path) -> Any:
        """The direction of a metric: as the spec says, else from the table."""
        measured = figure.removeprefix("val_")
        if measured in NO_FIGURES:
            self.report(path, f"'{figure}' does not say how good the model is; {self._choose_from()}")
        elif measured not in self.known and not self.open:
            self.report(path, no_such_figure(figure, list(self.known)))
        elif fault := direction_fault(figure, said, self.known.get(measured)):
            self.report(mode_path, fault)
        return self.known.get(measured) or "min" if said == "auto" else said

    def _choose_from(self) -> str:
        return f"choose from: {listed([f'val_{name}' for name in self.known])}"


def direction_fault(figure: str, written: Any, known: Direction | None) -> str | None:
    """The message for a figure whose direction nobody has given, or whose worst epoch would be chosen as the best.

    written: as the spec says; "auto" leaves it open.  known: what the table says, None if it does not know.
    """
    if written == "auto":
        unknown = f'\'{figure}\' may be better when it is less, or more; say which: "min" or "max"'
        return unknown if known is None else None
    if known is None or written not in ("min", "max") or written == known:
        return None
    better = "less" if known == "min" else "more"
    return f'\'{figure}\' is better when it is {better}: expected "{known}" or "auto", got "{written}"'


def rate_faults(compiled: Compile, fit: Fit) -> Iterator[tuple[Path, str]]:
    """Where a callback sets a learning rate that a schedule sets: the callback's path in `fit`, and the message."""
    optimizer = compiled.optimizer
    own = optimizer.get("learning_rate") if isinstance(optimizer, Mapping) else None
    rates = {f"fit.stages[{index}]": stage.learning_rate for index, stage in enumerate(fit.stages)}
    for index, callback in enumerate(fit.callbacks):
        name = metric_type(callback)
        for place, rate in rates.items():
            if name in SETS_RATE and isinstance(own if rate is None else rate, str | Mapping):
                where = "compile.optimizer" if rate is None else place
                yield (
                    ("callbacks", index),
                    f"{name} sets the learning rate, and the schedule in {where}.learning_rate does, too; "
                    "leave one of them out",
                )
                break
        averaged = fit.ema is not None or (isinstance(optimizer, Mapping) and optimizer.get("use_ema"))
        if name == "SwapEMAWeights" and not averaged:
            yield ("callbacks", index), "SwapEMAWeights needs averages of the weights; set fit.ema, or leave it out"


def metric_faults(metrics: Sequence[Any], task: str, head: str | None) -> Iterator[tuple[int, Path, str]]:
    """The metrics that do not go with the task or the head: (place, path below it, message).

    head: see `heads`; None: not known.
    """
    names: set[str] = set()
    for index, metric in enumerate(metrics):
        name = metric_name(metric)
        if name in names:
            message = f'a second metric called \'{name}\'; give it another name: {{"type": ..., "name": ...}}'
            yield index, (), message
        elif name in (*LOSSES, *NO_FIGURES) or name.startswith("val_"):
            yield index, ("name",), f"'{name}' is the name of another column of the history; choose another"
        names.add(name)
        yield from ((index, path, message) for path, message in _metric_faults(metric, task, head))


def _metric_faults(metric: Any, task: str, head: str | None) -> Iterator[tuple[Path, str]]:
    kind = metric_type(metric)
    given = metric if isinstance(metric, Mapping) else {}
    known = METRICS.get(kind)
    if known is None:
        return
    if task not in known.tasks:
        takes = {
            SEVERAL: "one class of several per image",
            ONE_CLASS: "one class per image, not several",
            EACH_ALONE: "each class by itself",
        }[known.tasks]
        yield (), f"{kind} takes {takes}; for the task '{task}' write \"{known.instead}\""
        return
    if known.takes_scores and head in ("softmax", "sigmoid"):
        yield (
            (),
            f"{kind} takes scores, and the model ends in a {head}; leave out the activation of the last layer, "
            "or the metric",
        )
    if given.get("from_logits") and head in ("softmax", "sigmoid"):
        yield ("from_logits",), f"the model gives {head} probabilities; leave out from_logits"
    for key in _THRESHOLDS:
        value = given.get(key)
        if isinstance(value, list):
            if len(value) > 1:
                yield (key,), f"gives a figure for each of {len(value)} thresholds; write one, and a metric for each"
            value = value[0]
        if isinstance(value, int | float) and not 0 < value < 1:
            yield (
                (key,),
                f"expected a number between 0 and 1, got {shown(value)}: metrics see probabilities, "
                "also where the model gives logits",
            )
    for key in ("class_id", "top_k"):
        if task == "binary" and given.get(key) is not None:
            yield (key,), f"is for several classes; leave it out for the task '{task}'"
