"""Models that several trials train, one after the other, each from weights of its own beginning."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasimg.keras_internals import gradient_registry
from kerasimg.spec.heads import BLENDING
from kerasimg.spec.load import Spec
from kerasimg.training import splits, stages
from kerasimg.training.auto_settings import precision_of
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.distillation import has_teacher
from kerasimg.training.engine import KerasFit, plan_stage
from kerasimg.training.features import FeaturePlan
from kerasimg.training.prepare import Experiment, Models
from kerasimg.training.rates import counts_steps
from kerasimg.training.sample_weights import weighs_labels
from kerasimg.training.splits import Parts, seed_of
from kerasimg.training.steps_per_execution import acts_on_steps
from kerasimg.tuning.compiled_epoch import Compiled, Rate, Table, Tables, WholeEpochs, lift_rates, optimizer_signature
from kerasimg.tuning.graph_signature import Outline

SEEDS = 2
"""Of so many seeds a model's first weights are kept."""

Build = Callable[[Spec], Models]


def can_share(spec: Spec, callbacks: list[Any]) -> bool:
    """Whether what a spec trains fits into whole epochs in a graph that is used again."""
    return (
        keras.backend.backend() == "tensorflow"
        and not has_teacher(spec)
        and precision_of(spec) != "mixed_float16"  # its scale of the loss is one more state
        and not any(map(acts_on_steps, callbacks))
    )


def signature(spec: Spec, outline: Outline, head: bool = False) -> str:
    """The same for two specs whose trials can train the same compiled graphs.  head: whether that is all there is."""
    fit = spec.fit.model_dump(mode="json")
    names = (*splits.KEYS, "batch_size", "views", "features")
    data = {key: fit[key] for key in names}
    written = [
        {
            key: value
            for key, value in stage.items()
            if key not in ("learning_rate", "early_stopping", "keep", "monitor", "mode")
        }
        for stage in fit["stages"]
    ]
    timed = any(counts_steps(stage) for stage in spec.fit.stages)
    own_data = timed or not is_of_any_data(spec, outline)
    if not own_data:
        written = [{key: value for key, value in stage.items() if key != "epochs"} for stage in written]
    said = {
        "model": outline.calls,
        "head": head,
        "image": spec.image.model_dump(mode="json"),
        "task": spec.task,
        "optimizers": optimizer_signature(spec),
        "compile": spec.compile.model_dump(exclude={"optimizer", "steps_per_execution"}),
        "fit": {key: fit[key] for key in ("precision", "ema", "class_weight", "sample_weight")},
        "stages": written,
        "augment": [[name, dict(arguments)] for name, arguments in spec.augment],
        "data": data if own_data else None,
        "blends": any(name in BLENDING for name, _ in spec.augment),
    }
    return json.dumps(said, sort_keys=True, default=repr)


def is_of_any_data(spec: Spec, outline: Outline) -> bool:
    """Whether nothing that depends on the images is computed ahead of the training, or a number in its graph."""
    frozen = outline.frozen or any(map(stages.freezes, spec.fit.stages))
    return not (frozen or weighs_labels(spec) or spec.augment)


class SharedModel(KerasFit):
    """The models of an experiment, compiled: an execution of the engine that trials share, one after the other."""

    def __init__(
        self,
        experiment: Experiment,
        outline: Outline,
        build: Build,
        tables: Tables,
        plans: Mapping[int, FeaturePlan] | None = None,
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """experiment: just made, with the weights of its spec's seed.  build: makes the same with another seed.

        plans: of the stages, where they are known.  computing: see `Ahead`.
        """
        super().__init__()
        self.experiment = experiment
        self.build = build
        self.tables, self.computing = tables, computing
        self._ready: WholeEpochs | None = None
        self._begin = {seed_of(experiment.spec): self._values()}
        self._compiled: dict[int, Compiled] = {}
        self._plans: dict[int, FeaturePlan] = dict(plans or {})
        self._in_memory: dict[int, tuple[FeaturePlan, tuple[Table | None, Table | None]]] = {}
        self._rates: list[dict[str, Rate]] = [
            lift_rates(sized.built.model, outline.rates) for sized in experiment.sized.values()
        ]
        self.gradients: set[str] = set()
        """To be forgotten with it, see `noted_gradients`."""
        self.trials = 0
        """That have trained it."""

    def begin(self, spec: Spec, parts: Parts, weights: np.ndarray | None, outline: Outline) -> Experiment:
        """The experiment of a trial, with the weights that a model made anew would have."""
        self.trials += 1
        self.experiment = replace(self.experiment, spec=spec, parts=parts, weights=weights)
        for variable, value in zip(self._variables(), self._of_seed(spec), strict=True):
            variable.assign(value)
        for rates in self._rates:
            for name, rate in rates.items():
                rate.assign(outline.rates[name])
        return self.experiment

    def plan(self, experiment: Experiment, index: int, notes: Mapping[str, Any]) -> FeaturePlan:
        """How the frozen part of a stage's model is computed: as for earlier trials where that costs something."""
        known = self._plans.get(index)
        if known is None or (known.mode == "off" and known.data.augmentation is None):
            # Cheap, and of this trial's data; the model is the same.
            self._plans[index] = plan_stage(experiment, index, notes)
        return self._plans[index]

    def compile(self, experiment: Experiment, index: int, plan: FeaturePlan, callbacks: Sequence[Any]) -> int:
        """Make the graphs of a stage, or those of an earlier trial ready again."""
        self._ready = self.ready(experiment, index, plan, self.computing)
        return self._ready.at_a_time

    def run(self, experiment: Experiment, plan: FeaturePlan, watch: Watch) -> None:
        """Train the stage that was compiled."""
        if self._ready is not None:
            self._ready.run(watch)

    def ready(
        self,
        experiment: Experiment,
        index: int,
        plan: FeaturePlan,
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> WholeEpochs:
        """A stage, ready to be trained."""
        if index not in self._compiled:
            earlier = next((one for one in self._compiled.values() if one.model is plan.model), None)
            self._compiled[index] = Compiled(experiment, index, plan.model, earlier)
        if index not in self._in_memory or self._in_memory[index][0] is not plan:
            self._in_memory[index] = plan, self.tables.of(plan)
        return WholeEpochs(experiment, index, plan, self._compiled[index], self._in_memory[index][1], computing)

    def trace(self, index: int) -> Callable[[], None]:
        """Trace the graphs of a stage before its trial comes; see `WholeEpochs.trace`."""
        plan = self.plan(self.experiment, index, {})
        return self.ready(self.experiment, index, plan).trace()

    @property
    def nbytes(self) -> int:
        """Of its weights, in all the places where they are kept."""
        values = next(iter(self._begin.values()))
        return sum(value.nbytes for value in values) * (len(self._begin) + 3)

    def _variables(self) -> list[Any]:
        return [one for sized in self.experiment.sized.values() for one in sized.built.model.variables]

    def _values(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(one)) for one in self._variables()]

    def _of_seed(self, spec: Spec) -> list[np.ndarray]:
        """What the variables are in a model made anew with the spec's seed."""
        seed = seed_of(spec)
        if seed not in self._begin:
            made = self.build(spec)
            found = [one for sized in made.values() for one in sized.built.model.variables]
            self._begin[seed] = [np.array(keras.ops.convert_to_numpy(one)) for one in found]
            for old in list(self._begin)[:-SEEDS]:
                del self._begin[old]
        return self._begin[seed]


def resident_bytes() -> int:
    """Bytes of the process that are in memory; where the system does not say, the most that there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def noted_gradients() -> set[str]:
    """The names by which TensorFlow has noted gradients of traced functions: each keeps the graph of its function."""
    return {name for name in gradient_registry() if name.startswith("CustomGradient-")}


def forget_gradients(names: Iterable[str]) -> None:
    """Let go of graphs that no one will run again; TensorFlow, which notes one per traced optimizer, never does."""
    registry = gradient_registry()
    for name in names:
        registry.pop(name, None)


class Ahead:
    """Who may make models: the present trial, and between its steps what is prepared for the next."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._present = False

    @contextmanager
    def present(self, prepare: Callable[[], None] | None) -> Iterator[None]:
        """The time of a trial.  prepare: what to do beside it, if it ever computes; its errors are the next trial's."""
        beside: threading.Thread | None = None
        with self._turn:
            self._present = True
            if prepare is not None:
                beside = threading.Thread(target=self._beside, args=(prepare,), daemon=True)
                beside.start()
            try:
                yield
            finally:
                self._present = False
        if beside is not None:
            beside.join()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The time of a step that makes nothing: another thread may."""
        self._turn.release()
        try:
            yield
        finally:
            try:
                self._turn.acquire()
            except KeyboardInterrupt:  # the turn is given back further out, so it has to be ours
                self._turn.acquire()
                raise

    def _beside(self, prepare: Callable[[], None]) -> None:
        with self._turn, suppress(Exception):
            if self._present:  # else the trial has ended without computing, and the next makes what it needs itself
                prepare()
