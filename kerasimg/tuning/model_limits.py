"""Trials whose model would be too large or too slow where it is to run are not trained: `tune.limits`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kerasimg.deploy.measure import measure
from kerasimg.errors import KerasimgError
from kerasimg.models.build import construct
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Limits
from kerasimg.spec.load import Spec
from kerasimg.tuning.graph_signature import outline_of
from kerasimg.tuning.journal import Outcome
from kerasimg.tuning.space import resolve
from kerasimg.tuning.trials import Trials


class Limited:
    """A runner that first measures what a trial's model costs as a LiteRT file, by `kerasimg.measure`."""

    def __init__(self, runner: Trials, spec: Spec, classes: Sequence[str]) -> None:
        self.runner, self.spec, self.classes = runner, spec, list(classes)
        self._judged: dict[str, str | None] = {}
        """Outline of a model -> what was found of it: trials that differ in their training only cost the same."""

    def run(self, values: Mapping[str, Any], **how: Any) -> Outcome:
        """As the runner's; infeasible where a limit is passed."""
        begun = time.perf_counter()
        try:
            reason = self._reason(resolve(self.spec, values))
        except KerasimgError as error:
            reason = str(error)
        if reason is not None:
            return Outcome("infeasible", [], {}, time.perf_counter() - begun, reason)
        return self.runner.run(values, **how)

    def _reason(self, spec: Spec) -> str | None:
        outline = outline_of(spec, {})
        if outline is None:  # an expression asks for a shape: only the model itself tells which one it is
            return too_much(spec, self.classes, spec.tune.limits)
        key = outline.text()
        if key not in self._judged:
            self._judged[key] = too_much(spec, self.classes, spec.tune.limits)
        return self._judged[key]

    def expect(self, values: Mapping[str, Any], *, seed: int | None = None) -> None:
        """Nothing: a model that may cost too much is not made ahead."""

    def used_up(self) -> bool:
        """As the runner's."""
        return self.runner.used_up()


def is_measured(limits: Limits) -> bool:
    """Whether a limit is one that the dry run cannot keep."""
    return limits.litert_bytes is not None or limits.latency_ms is not None


def too_much(spec: Spec, classes: Sequence[str], limits: Limits) -> str | None:
    """Why a model costs too much; None where it does not. Its weights are random: they change neither."""
    model = construct(spec, weights=None, limits=None if limits.params is None else {"params": limits.params}).model
    rows = measure(Classifier(model, spec, tuple(classes), None), "litert", precision="float32", verbose=0).runtimes
    row = next(row for row in rows if row["target"] == "litert")
    for name, found, most in (
        ("bytes as a LiteRT file", row["bytes"], limits.litert_bytes),
        ("ms for an image", row["p50_ms"], limits.latency_ms),
    ):
        if most is not None and found > most:
            return f"{found:,} {name}, and the limit is {most:,} (tune.limits)"
    return None
