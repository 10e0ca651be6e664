"""Trains the trials of a search, and shares images, features and compiled models between them.

`Trials` opens, checks and decodes the images once per process. `run` trains the spec with some of its search values
chosen; the metrics equal those of `kerasimg.train` for the same spec and seed. A failed trial is recorded in its
outcome and does not stop the search.
"""

from __future__ import annotations

import gc
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kerasimg import log
from kerasimg.catalog import Reference
from kerasimg.data.cache import Cache
from kerasimg.data.memory import free_bytes
from kerasimg.data.readable import OnBadImage
from kerasimg.data.sources import Data
from kerasimg.deploy.measure import litert_figures
from kerasimg.errors import KerasimgError, SpecError
from kerasimg.models.build import construct
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.models.weights import save_weights
from kerasimg.spec.document import Limits
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.metrics import MODEL_FIGURES, goals_of
from kerasimg.training import checkpoint
from kerasimg.training.auto_settings import Choices, is_open, is_out_of_memory
from kerasimg.training.checkpoint_callbacks import AfterEpoch
from kerasimg.training.deadline import NEVER, Deadline, OutOfTime
from kerasimg.training.engine import Engine, Hooks, make_callbacks, plan_stage, total_epochs
from kerasimg.training.features import FeaturePlan
from kerasimg.training.objective import image_weights
from kerasimg.training.prepare import Experiment, Models, Seeder, Sized, check_images, load_for, make_models, prepare
from kerasimg.training.splits import Parts, seed_of, split_images, split_key
from kerasimg.tuning.compiled_epoch import Tables
from kerasimg.tuning.graph_signature import Known, Outline, Recorder, outline_of
from kerasimg.tuning.journal import Outcome, Row, Status, keep_best, kept_row
from kerasimg.tuning.shared_graph import (
    Prefetch,
    SharedModel,
    Trunk,
    can_have_trunk,
    can_share,
    find_trunk,
    forget_gradients,
    is_of_any_data,
    registered_gradients,
    resident_bytes,
    signature,
)

STATE = "state.ckpt"
"""The training state in the folder of a trial that ended before the last epoch of the spec."""
MODELS = 16
"""Most compiled models in memory."""
GROWTH = 1024**3
"""Bytes by which the memory of a process may grow after its first trial."""
TRUNKS = 3
"""Most frozen parts whose features are in memory."""
MODELS_SHARE = 0.2
"""Largest share of the free memory for the weights of compiled models."""


class Trials:
    """Trains the trials of a search in this process. All trials have the same `spec` and `source`."""

    def __init__(
        self,
        ref: Reference,
        data: Data,
        *,
        folder: str | os.PathLike[str],
        seed: int | None = None,
        cache: Any = "auto",
        weights: Any = AS_THE_SPEC_SAYS,
        limits: Mapping[str, int] | None = None,
        on_bad_image: OnBadImage = "fail",
        overrides: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        keep: int | None = None,
        deadline: Deadline = NEVER,
    ) -> None:
        """ref, data, cache, weights, limits, on_bad_image, overrides, params: as for `kerasimg.train`.

        folder: parent of the folders in which trials save weights and states.  seed: of trials without their own;
        None: that of the spec.
        cache: "disk" if several processes share the images.  keep: number of best trials, by `tune.objective`, whose
        weights are saved; None: `tune.keep`.  deadline: OutOfTime if the images are still being checked then.
        """
        self.spec, self.source = load_for(ref, data, overrides, dict(params or {}))
        self.folder = Path(folder)
        self.seed = seed_of(self.spec) if seed is None else seed
        self.limits = limits
        self.keep = self.spec.tune.keep if keep is None else keep
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        log.once(self.source.describe())
        self.source = check_images(self.source, self.spec, on_bad_image, self.cache, deadline)
        self._parts: dict[str, Parts] = {}
        self._choices = Choices(limits)
        self._make_models: Callable[..., Models] = partial(make_models, weights=weights, limits=limits, seed=Seeder())
        self._goals = goals_of(self.spec)
        self._model_figures = [goal.figure for goal in self._goals if goal.figure in MODEL_FIGURES]
        self._deadline = NEVER
        self._measured: dict[str, dict[str, float] | str] = {}
        self._calls: dict[str, Known] = {}
        self._trunks: list[Trunk] = []
        self._models: OrderedDict[str, SharedModel] = OrderedDict()
        self._dropped = 0
        self._first_bytes: int | None = None
        self._now: str | None = None
        self._reused = self._head_alone = False
        self._tables = Tables(self.source, self.cache)
        self._prefetch = Prefetch()
        self._next: Callable[[], None] | None = None
        self._prefetched_gradients: Collection[str] = ()

    def resolve(self, values: Mapping[str, Any], seed: int | None = None) -> Spec:
        """Returns the spec with these search values, by name; SpecError if they are not compatible."""
        edits = {"fit.seed": self.seed if seed is None else seed}
        return load_again(self.spec, chosen=values, edits=edits, other_options=False)

    def run(
        self,
        values: Mapping[str, Any],
        *,
        trial_id: str,
        epochs: int | None = None,
        first_epoch: int = 0,
        seed: int | None = None,
        after_epoch: AfterEpoch | None = None,
        resume_from: str | None = None,
        keep_state: bool = False,
        deadline: Deadline = NEVER,
    ) -> Outcome:
        """Train one trial. An exception is recorded in the outcome; only a BaseException (KeyboardInterrupt) is raised.

        values: by name; a missing search value has its default.  epochs: the epoch to stop before, counted from 0 over
        all stages; None: the last epoch of the spec.
        first_epoch: above 0, the trial continues from the saved state of `resume_from` (a trial_id; None: its own); if
        there is none, it is trained from scratch. The result is the same bit for bit.
        after_epoch: called with the number of each epoch, from 0, and its metrics; True ends the trial.
        keep_state: save the training state if the trial ends before the last epoch of the spec.
        deadline: when it ends as it is; its status is then "stopped".
        """
        started = time.perf_counter()
        self._deadline = deadline
        measured = self._measure(values, seed)
        if isinstance(measured, str):
            return Outcome("infeasible", [], {}, time.perf_counter() - started, measured)
        prepare, self._next = self._next, None
        with self._prefetch.present(prepare):
            outcome = self._run(
                values, trial_id, epochs, first_epoch, seed, after_epoch, resume_from or trial_id, keep_state
            )
        others = {goal.figure: outcome.best[goal.figure] for goal in self._goals[1:] if goal.figure in outcome.best}
        return replace(outcome, figures=others | measured, seconds=time.perf_counter() - started)

    def expect(self, values: Mapping[str, Any], *, seed: int | None = None) -> None:
        """Announce the trial after the next call of `run`; if possible, its graph is made while that one trains."""
        if not self._measures:
            self._next = partial(self._prepare, values, seed)

    @property
    def _measures(self) -> bool:
        """Whether each model is converted and measured before it is trained."""
        return bool(self._model_figures) or is_measured(self.spec.tune.limits)

    def _measure(self, values: Mapping[str, Any], seed: int | None) -> dict[str, float] | str:
        """Returns the objectives that a trial's model has untrained, or the limit of `tune.limits` that it exceeds.

        Each model is measured once.
        """
        if not self._measures:
            return {}
        try:
            spec = self.resolve(values, seed)
            outline = outline_of(spec, {})
            if outline is None:  # an expression needs a shape that is known only when the model is built
                return measure_limits(spec, self._model_figures)
            if (key := outline.text()) not in self._measured:
                self._measured[key] = measure_limits(spec, self._model_figures)
            return self._measured[key]
        except KerasimgError as error:
            return str(error)

    def _run(
        self,
        values: Mapping[str, Any],
        trial_id: str,
        epochs: int | None,
        first_epoch: int,
        seed: int | None,
        after_epoch: AfterEpoch | None,
        resume_from: str,
        keep_state: bool,
    ) -> Outcome:
        started = time.perf_counter()
        state = self.folder / resume_from / STATE if first_epoch else None
        engine: Engine | None = None
        status: Status = "completed"
        reason = None
        self._now, self._reused, self._head_alone = None, False, False
        weights = None
        registered = registered_gradients()
        self._prefetched_gradients = ()
        try:
            engine = self._engine(self.resolve(values, seed), epochs, after_epoch, state)
            engine.train()
            if keep_state and not engine.ended and (position := engine.snapshot()) is not None:
                checkpoint.write(self.folder / trial_id / STATE, *position)
            engine.hand_on()
            status = "stopped" if engine.stopped_by_rule else "completed"
            weights = self._keep(engine, trial_id)
        except OutOfTime as error:
            status, reason = "stopped", str(error)
        except Exception as error:  # no error may stop the other trials
            status, reason = _status_of(error)
            if (spoilt := self._models.pop(self._now or "", None)) is not None:
                forget_gradients(spoilt.gradients)
        rows = engine.rows if engine else []
        kept = self._kept(engine) if engine else {}
        logs = [row for row in rows if row["epoch"] > first_epoch]
        details = {"shared": self._reused}
        self._note(registered_gradients() - registered - {*self._prefetched_gradients})
        self._make_room()
        if self._first_bytes is None:
            self._first_bytes = resident_bytes()
        seconds = time.perf_counter() - started
        return Outcome(status, logs, kept, seconds, reason, weights, details=details)

    def _note(self, gradients: Collection[str]) -> None:
        """Record the gradients to forget with the model of this trial, or forget them now if it is not in memory."""
        if (model := self._models.get(self._now or "")) is not None:
            model.gradients |= {*gradients}
        else:
            forget_gradients(gradients)

    def used_up(self) -> bool:
        """Whether the process has grown so much that another one should replace it.

        TensorFlow does not release all memory of a graph.
        """
        return self._first_bytes is not None and resident_bytes() - self._first_bytes > GROWTH

    def _kept(self, engine: Engine) -> Row:
        return kept_row(engine.rows, engine.spec.fit.stages, self._goals[0].figure)

    def _keep(self, engine: Engine, trial_id: str) -> Path | None:
        """Save the weights of a trial if it is among the best so far."""
        goal, spec, kept = self._goals[0], engine.spec, self._kept(engine)
        if not self.keep or not kept:
            return None

        def save(path: Path) -> None:
            model = engine.experiment.built.model
            if self._head_alone:
                whole = self._make_models(spec)[spec.image.size[0], spec.image.size[1]].built.model
                for layer in model.layers[1:]:
                    whole.get_layer(layer.name).set_weights(layer.get_weights())
                model = whole
            save_weights(model, path)

        return keep_best(self.folder, trial_id, kept[goal.figure], goal.direction, self.keep, save)

    def _engine(self, spec: Spec, epochs: int | None, after_epoch: AfterEpoch | None, state: Path | None) -> Engine:
        """Returns the engine of a trial, which continues from the saved state of an earlier one if there is any."""
        spec, _ = self._choices.settle(spec, self.source)
        callbacks = make_callbacks(spec)
        execution: SharedModel | None = None
        if can_share(spec, callbacks):
            execution, experiment = self._shared(spec)
        else:
            experiment = self._experiment(spec, self._make_models)
        return Engine(
            experiment,
            hooks=_Pruning(after_epoch),
            execution=execution,
            callbacks=callbacks,
            checkpoint=_saved_state(state),
            last=None if epochs is None else min(epochs, total_epochs(spec)),
        )

    def _shared(self, spec: Spec) -> tuple[SharedModel, Experiment]:
        """Returns a reset model of an earlier trial, or a new one."""
        key, outline, head_alone = self._model_for(spec)
        shared, parts = self._models[key], self._split(spec)
        weights = image_weights(spec, self.source, parts["train"])
        self._now, self._reused, self._head_alone = key, shared.trials > 0, head_alone
        return shared, shared.begin(spec, parts, weights, outline, self._deadline)

    def _prepare(self, values: Mapping[str, Any], seed: int | None) -> None:
        """Build and trace the graph for the first stage of a trial, if that stage needs nothing else."""
        spec = self.resolve(values, seed)
        if is_open(spec) or not can_share(spec, make_callbacks(spec)):
            return
        outline = outline_of(spec, self._calls)
        if outline is None or not is_of_any_data(spec, outline) or signature(spec, outline) in self._models:
            return
        registered = registered_gradients()
        key, _, _ = self._model_for(spec)
        optimize = self._models[key].trace(0)
        self._prefetched_gradients = registered_gradients() - registered
        self._models[key].gradients |= self._prefetched_gradients
        with self._prefetch.computing():
            optimize()

    def _model_for(self, spec: Spec) -> tuple[str, Outline, bool]:
        """Returns the key of a spec's model in `_models`, its outline, and whether it is only the head."""
        outline = outline_of(spec, self._calls)
        trunk = self._trunk(spec, outline) if outline else None
        key = signature(spec, outline, trunk is not None) if outline else ""
        if outline is None or key not in self._models:
            if outline is None or trunk is None:
                model, outline, trunk = self._make(spec)
                key = signature(spec, outline, trunk is not None)
            if trunk is not None:
                model = self._make_head(spec, outline, trunk)
            self._models[key] = model
        self._models.move_to_end(key)
        return key, outline, trunk is not None

    def _make(self, spec: Spec) -> tuple[SharedModel, Outline, Trunk | None]:
        """Returns a new model, its outline, and the trunk that further trials can reuse."""
        graphs: list[Recorder] = []

        class Noted(Recorder):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                graphs.append(self)

        experiment = self._experiment(spec, partial(self._make_models, visitor=Noted))
        self._calls |= graphs[0].known
        outline = outline_of(spec, self._calls)
        if outline is None:
            raise KerasimgError(f"{spec.file}: its model was made, and cannot be described")
        if not can_have_trunk(spec, outline):
            return self._shareable(experiment, outline), outline, None
        experiment.enter(0)
        plan = plan_stage(experiment, 0)
        trunk = find_trunk(spec, outline, plan, graphs[0].random, self._calls)
        if trunk is not None:
            self._trunks = [*self._trunks[1 - TRUNKS :], trunk]
        return self._shareable(experiment, outline, {0: plan}), outline, trunk

    def _shareable(
        self,
        experiment: Experiment,
        outline: Outline,
        plans: Mapping[int, FeaturePlan] | None = None,
        head: bool = False,
    ) -> SharedModel:
        build = partial(self._make_models, weights=None) if head else self._make_models
        return SharedModel(experiment, outline, build, self._tables, plans, self._prefetch.computing)

    def _trunk(self, spec: Spec, outline: Outline) -> Trunk | None:
        """Returns the trunk of an earlier model that the spec's model has, too."""
        return next((trunk for trunk in self._trunks if trunk.fits(spec, outline)), None)

    def _make_head(self, spec: Spec, outline: Outline, trunk: Trunk) -> SharedModel:
        """Builds only the head of a model."""
        head = trunk.head(spec, self._calls, self.limits)
        size = spec.image.size[0], spec.image.size[1]
        # The head has no frozen layers, which "cached" would require.
        free = replace(spec, fit=spec.fit.model_copy(update={"features": "auto"}))
        experiment = self._experiment(free, lambda spec: {size: Sized(spec, head)})
        data = replace(
            trunk.plan.data,
            batch_size=experiment.batch_size,
            targets=experiment.objective.targets,
            sample_weight=experiment.weights,
            parts=experiment.parts,
        )
        plans = dict.fromkeys(range(len(spec.fit.stages)), replace(trunk.plan, model=head.model, data=data))
        return self._shareable(experiment, outline, plans, head=True)

    def _make_room(self) -> None:
        """Remove the least recently used models."""
        most = MODELS_SHARE * free_bytes()
        before = len(self._models)
        while len(self._models) > 1 and (
            len(self._models) > MODELS or sum(model.nbytes for model in self._models.values()) > most
        ):
            forget_gradients(self._models.popitem(last=False)[1].gradients)
        self._dropped += before - len(self._models)
        if self._dropped >= MODELS // 2:
            gc.collect()  # slow, so not after every model
            self._dropped = 0

    def _experiment(self, spec: Spec, make: Callable[[Spec], Models]) -> Experiment:
        """Returns the experiment of a trial; SpecError if spec, images and models are not compatible."""
        return prepare(
            spec,
            self.source,
            limits=self.limits,
            on_bad_image=None,
            cache=self.cache,
            parts=self._split(spec),
            choices=self._choices,
            make=make,
            distribute=False,
            deadline=self._deadline,
        )

    def _split(self, spec: Spec) -> Parts:
        key = split_key(spec)
        if key not in self._parts:
            self._parts[key] = split_images(spec, self.source)
        return self._parts[key]


class _Pruning(Hooks):
    """Lets a search end a trial after an epoch."""

    def __init__(self, rule: AfterEpoch | None) -> None:
        self.rule = rule

    def after_epoch(self, epoch: int, row: Mapping[str, float]) -> bool:
        """Ask the search whether to end the trial."""
        return self.rule is not None and self.rule(epoch, row)


def _saved_state(state: Path | None) -> checkpoint.Checkpoint | None:
    """Returns the saved state of a trial; None if it is missing or damaged, and the trial starts from scratch."""
    with suppress(KerasimgError):
        return None if state is None else checkpoint.read(state)
    return None


def _status_of(error: Exception) -> tuple[Status, str]:
    """Returns the status of a trial that raised an error, and the reason."""
    if isinstance(error, SpecError):
        return "infeasible", str(error)
    if is_out_of_memory(error):
        return "infeasible", f"out of memory: {error}"
    if isinstance(error, KerasimgError):
        return "failed", str(error)
    return "failed", f"{type(error).__name__}: {error}"


def is_measured(limits: Limits) -> bool:
    """Whether a limit needs the model to be converted and measured."""
    return limits.litert_bytes is not None or limits.latency_ms is not None


def measure_limits(spec: Spec, figures: Collection[str] = ()) -> dict[str, float] | str:
    """Returns these figures of a model as a LiteRT file, or, as a sentence, the limit of `tune.limits` that it exceeds.

    The weights are random: they affect neither size nor latency.

    Args:
        spec: of a trial.
        figures: "latency_ms", "bytes", both or none.
    """
    limits = spec.tune.limits
    model = construct(spec, weights=None, limits=None if limits.params is None else {"params": limits.params}).model
    calls = limits.latency_ms is not None or "latency_ms" in figures
    measured = litert_figures(model, calls=calls)
    for name, figure, most in (
        ("bytes as a LiteRT file", "litert_bytes", limits.litert_bytes),
        ("ms for an image", "latency_ms", limits.latency_ms),
    ):
        if most is not None and measured[figure] > most:
            return f"{measured[figure]:,} {name}, and the limit is {most:,} (tune.limits)"
    known = {"bytes": measured["litert_bytes"], **measured}
    return {figure: known[figure] for figure in figures}
