"""Compiled models that several trials share, one after the other, each with its own initial weights.

If the trunk of a model is frozen, trials that differ only in the head share the trunk's features, which are computed
once: further trials build only the head. The head gets the weights that it would have in the whole model. This is
checked in the first trial; if it does not hold bit for bit, every trial builds the whole model.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasimg.keras_internals import gradient_registry
from kerasimg.models.budget import Budget, deferred_variables
from kerasimg.models.build import Built
from kerasimg.models.graph import Graph, functional
from kerasimg.spec.expand import Call
from kerasimg.spec.heads import BLENDING
from kerasimg.spec.load import Spec
from kerasimg.training import splits, stages
from kerasimg.training.auto_settings import acts_on_steps, dtype_policy, precision_of
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.distillation import has_teacher
from kerasimg.training.engine import KerasFit, has_callbacks, plan_stage
from kerasimg.training.features import FeaturePlan, settings_of
from kerasimg.training.objective import weighs_labels
from kerasimg.training.optimizer import counts_steps, differs_by_layer
from kerasimg.training.prepare import Experiment, Models
from kerasimg.training.quantization_aware import trains_with_rounding
from kerasimg.training.splits import Parts, seed_of
from kerasimg.tuning.compiled_epoch import Compiled, Rate, Table, Tables, WholeEpochs, lift_rates, optimizer_signature
from kerasimg.tuning.graph_signature import Calls, Outline, handles_of

SEEDS = 2
"""Number of seeds for which the initial weights of a model are stored."""

Build = Callable[[Spec], Models]


def can_share(spec: Spec, callbacks: list[Any]) -> bool:
    """Whether the trials of a spec can share compiled graphs that run a whole epoch."""
    return (
        keras.backend.backend() == "tensorflow"
        and not has_teacher(spec)
        and not trains_with_rounding(spec)
        and not any(stages.adapters(stage) for stage in spec.fit.stages)
        and precision_of(spec) != "mixed_float16"  # its loss scale is additional state
        and not any(map(acts_on_steps, callbacks))
    )


def signature(spec: Spec, outline: Outline, head: bool = False) -> str:
    """Returns a text that is equal for specs whose trials can share compiled graphs.  head: only the head is built."""
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
    facts = {
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
    return json.dumps(facts, sort_keys=True, default=repr)


def is_of_any_data(spec: Spec, outline: Outline) -> bool:
    """Whether nothing that depends on the images is precomputed, or is a constant of the graph."""
    frozen = outline.frozen or any(map(stages.freezes, spec.fit.stages))
    return not (frozen or weighs_labels(spec) or spec.augment)


class SharedModel(KerasFit):
    """The compiled models of an experiment, an execution of the engine that trials share one after the other."""

    def __init__(
        self,
        experiment: Experiment,
        outline: Outline,
        build: Build,
        tables: Tables,
        plans: Mapping[int, FeaturePlan] | None = None,
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """experiment: new, with the initial weights of its spec's seed.  build: builds the models with another seed.

        plans: the feature plans of the stages that are known already.  computing: see `Prefetch`.
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
        """Gradients to forget with this model, see `registered_gradients`."""
        self.trials = 0
        """Number of trials that have trained it."""

    def begin(
        self, spec: Spec, parts: Parts, weights: np.ndarray | None, outline: Outline, deadline: Deadline = NEVER
    ) -> Experiment:
        """Returns the experiment of a trial, with the initial weights of a newly built model."""
        self.trials += 1
        self.experiment = replace(self.experiment, spec=spec, parts=parts, weights=weights, deadline=deadline)
        for variable, value in zip(self._variables(), self._of_seed(spec), strict=True):
            variable.assign(value)
        for rates in self._rates:
            for name, rate in rates.items():
                rate.assign(outline.rates[name])
        return self.experiment

    def plan(self, experiment: Experiment, index: int, notes: Mapping[str, Any]) -> FeaturePlan:
        """Returns how the frozen part of a stage's model is computed; reuses an expensive plan of an earlier trial."""
        known = self._plans.get(index)
        if known is None or (known.mode == "off" and known.data.augmentation is None):
            # This plan is cheap, and depends on the data of the trial; the model is the same.
            self._plans[index] = plan_stage(experiment, index, notes)
        return self._plans[index]

    def compile(self, experiment: Experiment, index: int, plan: FeaturePlan, callbacks: Sequence[Any]) -> int:
        """Make the graphs of a stage, or reset those of an earlier trial; return the steps per call."""
        self._ready = self.ready(experiment, index, plan, self.computing)
        return self._ready.steps_per_call

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
        """Returns a stage that is ready to be trained."""
        if index not in self._compiled:
            earlier = next((compiled for compiled in self._compiled.values() if compiled.model is plan.model), None)
            self._compiled[index] = Compiled(experiment, index, plan.model, earlier)
        if index not in self._in_memory or self._in_memory[index][0] is not plan:
            self._in_memory[index] = plan, self.tables.of(plan)
        return WholeEpochs(experiment, index, plan, self._compiled[index], self._in_memory[index][1], computing)

    def trace(self, index: int) -> Callable[[], None]:
        """Trace the graphs of a stage before its trial starts; see `WholeEpochs.trace`."""
        plan = self.plan(self.experiment, index, {})
        return self.ready(self.experiment, index, plan).trace()

    @property
    def nbytes(self) -> int:
        """Bytes of all copies of its weights."""
        values = next(iter(self._begin.values()))
        return sum(value.nbytes for value in values) * (len(self._begin) + 3)

    def _variables(self) -> list[Any]:
        return [variable for sized in self.experiment.sized.values() for variable in sized.built.model.variables]

    def _values(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables()]

    def _of_seed(self, spec: Spec) -> list[np.ndarray]:
        """Returns the values of the variables in a model that is newly built with the spec's seed."""
        seed = seed_of(spec)
        if seed not in self._begin:
            models = self.build(spec)
            variables = [variable for sized in models.values() for variable in sized.built.model.variables]
            self._begin[seed] = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
            for old in list(self._begin)[:-SEEDS]:
                del self._begin[old]
        return self._begin[seed]


def resident_bytes() -> int:
    """Returns the resident memory of the process in bytes; its peak if the system does not report the current size."""
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


def registered_gradients() -> set[str]:
    """Returns the names of TensorFlow's registered gradients of traced functions; each keeps a graph in memory."""
    return {name for name in gradient_registry() if name.startswith("CustomGradient-")}


def forget_gradients(names: Iterable[str]) -> None:
    """Release graphs that will not run again; TensorFlow registers one per traced optimizer and never removes it."""
    registry = gradient_registry()
    for name in names:
        registry.pop(name, None)


class Prefetch:
    """Prepares the next trial in a second thread while the current one computes; only one of them builds models."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._present = False

    @contextmanager
    def present(self, prepare: Callable[[], None] | None) -> Iterator[None]:
        """The context of a trial.  prepare: prepares the next trial; its errors are ignored, the next one sees them."""
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
        """The context of steps that build nothing: the other thread may build meanwhile."""
        self._turn.release()
        try:
            yield
        finally:
            try:
                self._turn.acquire()
            except KeyboardInterrupt:  # `present` releases the lock, so this thread must hold it
                self._turn.acquire()
                raise

    def _beside(self, prepare: Callable[[], None]) -> None:
        with self._turn, suppress(Exception):
            if self._present:  # else the trial has ended, and the next one builds what it needs itself
                prepare()


CHECKED = 16
"""Number of feature rows on which the head is compared with the end of the whole model."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """The frozen part of a model, with its features."""

    frame: str
    calls: tuple[str, ...]
    """Digests of its calls, in order; they come before those of the head."""
    seam: str
    """Digest of the call whose output is the input of the head."""
    random: Any
    """State of Python's random numbers after the trunk was built."""
    plan: FeaturePlan
    """Holds the features of all images; its model is that of the first trial."""

    def fits(self, spec: Spec, outline: Outline) -> bool:
        """Whether the model of another spec has this trunk."""
        digests = tuple(digest for _, _, digest in outline.calls)
        head, count = digests[len(self.calls) :], len(self.calls)
        return (
            digests[:count] == self.calls
            and not outline.again
            and set(head).union({self.seam}).issuperset(source for digest in head for source in outline.inputs[digest])
            and can_have_trunk(spec, outline)
            and frame(spec) == self.frame
        )

    def head(self, spec: Spec, known: Calls, limits: Mapping[str, int] | None) -> Built:
        """Builds the head of a spec's model: features -> output of the model."""
        shape, dtype = self.plan.model.inputs[0].shape[1:], self.plan.model.inputs[0].dtype
        with dtype_policy(precision_of(spec)), deferred_variables():
            features = keras.Input(shape, dtype=dtype, name="features")
            graph = _Head(self, features, spec, known, limits)
            image = keras.KerasTensor((None, *spec.image.size, spec.image.channels))
            model = functional(spec, features, graph.make(image), spec.name)
        for finish in graph.later:
            finish()
        return Built(model, graph.members)


class _Head(Graph):
    """Builds the layers after a trunk."""

    def __init__(self, trunk: Trunk, features: Any, spec: Spec, known: Calls, limits: Mapping[str, int] | None) -> None:
        super().__init__(spec, Budget(limits), None)
        self.trunk, self.features, self.known = trunk, features, known
        self.left = list(trunk.calls)

    def visit(self, call: Call) -> Any:
        """Returns the features for the call at the seam, placeholders for the rest of the trunk; builds the head."""
        if not self.left:
            return super().visit(call)
        digest = self.left.pop(0)
        if not self.left:
            random.setstate(self.trunk.random)
        if digest == self.trunk.seam:
            return self.features
        maps = call.arguments.get("features") if call.kind == "backbone" else None
        made = {handle: keras.KerasTensor(*self.known[handle].output) for handle in handles_of(digest, maps)}
        return dict(zip(maps, made.values(), strict=True)) if maps else made[digest]


def can_have_trunk(spec: Spec, outline: Outline) -> bool:
    """Whether a model can have a trunk: layers are frozen, and stay frozen in all stages."""
    own = tuple(spec.image.size)
    return (
        outline.frozen
        and not outline.again
        and settings_of(spec).mode in ("auto", "cached")
        and not any(
            stages.changes_layers(stage) or stages.size_of(stage, spec) != own or differs_by_layer(stage)
            for stage in spec.fit.stages
        )
        and not has_callbacks(spec)  # a callback may unfreeze layers
    )


def find_trunk(
    spec: Spec, outline: Outline, plan: FeaturePlan, states: Mapping[str, Any], known: Calls
) -> Trunk | None:
    """Returns the trunk of a built, untrained model; None if its head alone would not give the same result.

    plan: the feature plan of its first stage.  states: the state of the random numbers after each call.
    """
    parts = {part for part in ("train", "validation") if part in plan.data.parts}
    if plan.mode != "cached" or parts - plan.rows.keys() or len(plan.model.inputs) != 1:
        return None
    names = {layer.name for layer in plan.model.layers if not isinstance(layer, keras.layers.InputLayer)}
    if names - {name for name, _, _ in outline.calls}:
        return None  # the seam is inside a backbone
    calls = tuple(digest for name, _, digest in outline.calls if name not in names)
    head = [digest for name, _, digest in outline.calls if name in names]
    seams = {source for digest in head for source in outline.inputs[digest]} - set(head)
    if len(seams) != 1 or not calls or not seams <= set(calls):
        return None
    trunk = Trunk(frame(spec), calls, seams.pop(), states[calls[-1]], plan)
    if not trunk.fits(spec, outline):
        return None
    head_model = trunk.head(spec, known, None).model
    return trunk if _same(head_model, plan.model, plan) else None


def frame(spec: Spec) -> str:
    """Returns all that features depend on, except the model, as a text."""
    fit = spec.fit.model_dump(mode="json")
    facts: dict[str, Any] = {
        "image": spec.image.model_dump(mode="json"),
        "task": spec.task,
        "data": [fit[key] for key in (*splits.KEYS, "precision", "features")],
    }
    if spec.augment:
        epochs = [stage["epochs"] for stage in fit["stages"]]
        facts["augment"] = [[name, dict(arguments)] for name, arguments in spec.augment]
        facts["views"] = [fit["views"], fit["batch_size"], epochs, str(spec.compile.loss)]
    return json.dumps(facts, sort_keys=True, default=repr)


def _same(head: keras.Model, rest: keras.Model, plan: FeaturePlan) -> bool:
    """Whether a head has the weights and outputs of the end of the whole model."""
    for layer in head.layers[1:]:
        ours, theirs = layer.variables, rest.get_layer(layer.name).variables
        if len(ours) != len(theirs) or not all(map(_equal, ours, theirs)):
            return False
    some = np.asarray(plan.rows["train"].parts[0][:CHECKED], np.float32)
    return _equal(head(some, training=False), rest(some, training=False))


def _equal(left: Any, right: Any) -> bool:
    return np.array_equal(keras.ops.convert_to_numpy(left), keras.ops.convert_to_numpy(right))
