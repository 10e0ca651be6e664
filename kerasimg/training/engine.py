"""Trains the stages of an experiment: plans, compiles, runs and finishes each one.

`train` runs it with the folder of a run as its hooks, a search with a pruning rule, `HyperSpec.fit` with the callbacks
of a tuner. `KerasFit` runs the steps by `model.fit`; a search has another execution, whose compiled graphs are shared
by several trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras

from kerasimg import log
from kerasimg.data.pipeline import batches, own_errors
from kerasimg.errors import Interrupted, KerasimgError
from kerasimg.keras_internals import build_metrics, has_averages_in_place, sublayers
from kerasimg.layers import PatchWhitening
from kerasimg.models.compiled_predict import has_gpu
from kerasimg.models.initial_values import cheap_values
from kerasimg.models.split_model import split_frozen
from kerasimg.objects import make
from kerasimg.spec.load import Spec
from kerasimg.training import stages
from kerasimg.training.auto_settings import acts_on_steps, choose_steps_per_execution, part_of
from kerasimg.training.checkpoint import (
    Arrays,
    Checkpoint,
    assign_variables,
    backend_random_state,
    callback_states,
    non_weight_variables,
    restore_callbacks,
    set_backend_random_state,
    variable_values,
)
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.deadline import Interruption
from kerasimg.training.device_steps import DeviceSteps, why_not
from kerasimg.training.devices import Devices
from kerasimg.training.distillation import has_teacher, wrap_student
from kerasimg.training.features import FeaturePlan, StageData, plan_features, settings_of
from kerasimg.training.history import History
from kerasimg.training.lora import add_adapters, merge_adapters
from kerasimg.training.objective import jit_compile
from kerasimg.training.optimizer import Rates, has_average, layer_factors, learning_rate, make_optimizer, rates_of
from kerasimg.training.prepare import Experiment
from kerasimg.training.quantization_aware import trains_with_rounding, with_rounding
from kerasimg.training.splits import seed_of


class Diverged(KerasimgError):
    """The loss became NaN or infinite."""


class Hooks:
    """What a caller adds to a training. The defaults do nothing: no notes, no checkpoints."""

    checkpoints = False
    """Whether `save` is called with checkpoints."""

    def notes(self, index: int) -> Mapping[str, Any]:
        """Returns the notes of a stage that was started before; empty for a new stage."""
        return {}

    def begin(self, index: int, notes: Mapping[str, Any]) -> None:
        """Called before the first step of a stage with notes on how it is trained."""

    def save(self, facts: dict[str, Any], arrays: Arrays) -> None:
        """Called with a checkpoint, from which the training can be resumed."""

    def end(self, index: int, model: keras.Model) -> None:
        """Called at the end of a stage with the model, which has the weights that the stage passes on."""

    def callbacks(self, model: Any, whole: keras.Model) -> Sequence[Any]:
        """Returns callbacks to run after those of the spec.

        model: the trained model, which may be the part of `whole` that is not frozen.
        """
        return ()

    def after_epoch(self, epoch: int, row: Mapping[str, float]) -> bool:
        """Called with the number of an epoch, from 0, and its metrics; True ends the training."""
        return False


class Engine:
    """The training of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        hooks: Hooks | None = None,
        execution: KerasFit | None = None,
        callbacks: Sequence[Any] | None = None,
        history: History | None = None,
        checkpoint: Checkpoint | None = None,
        first: int = 0,
        last: int | None = None,
        verbose: int | str = 0,
    ) -> None:
        """Epochs are numbered from 0, over all stages.

        callbacks: those of the spec, if they exist already.  history: takes the metrics of each epoch.
        checkpoint: the checkpoint to resume from.  first: the first epoch, if there is no checkpoint.
        last: the epoch to stop before; None: the end of the spec. A later epoch extends the last stage.
        """
        self.experiment = experiment
        self.spec = experiment.spec
        self.hooks = hooks or Hooks()
        self.execution = execution or KerasFit()
        self.callbacks = list(make_callbacks(self.spec) if callbacks is None else callbacks)
        self.history = history or History()
        self.checkpoint = checkpoint
        self.first, self.last = first, last
        self.interruption = experiment.deadline.interruption or Interruption()
        self.verbose = verbose
        self.epoch = 0
        """Number of finished epochs, over all stages."""
        self.stopped_by_rule = False
        """Whether `Hooks.after_epoch` or the deadline has ended the training."""
        self.ended = False
        """Whether the last stage is finished."""
        self._snapshot: Callable[[], Checkpoint] | None = None
        self._unfinished: tuple[Any, stages.Best | None] | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The metrics of all epochs, including those before the checkpoint."""
        return self.history.rows

    def train(self) -> None:
        """Train the remaining epochs; then `experiment.built` has the trained weights."""
        if self.checkpoint is None:
            self.history.rewrite()
        count = len(self.spec.fit.stages)
        started = self.checkpoint.facts["stage"] if self.checkpoint else 0
        model = self.experiment.at(started).built.model
        if self.checkpoint:
            self._restore(started, self.checkpoint)
        else:
            adapt_layers(self.experiment, started)
        for index in range(started, count):
            if self.checkpoint and self.checkpoint.facts["stage"] == index and self.checkpoint.facts["done"]:
                self.ended = index + 1 == count
                continue
            if index > started and any(getattr(callback, "finished", False) for callback in self.callbacks):
                self.ended = True
                break
            if self.stopped_by_rule or (self.last is not None and self.epoch >= self.last):
                break
            before, model = model, self.experiment.enter(index).built.model
            if model is not before:
                model.set_weights(before.get_weights())
            over = self._stage(index)
            self.ended = over and index + 1 == count
        if (whole := self.experiment.built.model) is not model:
            whole.set_weights(model.get_weights())

    def snapshot(self) -> Checkpoint | None:
        """Return a checkpoint of the current state; None if no stage was trained."""
        return None if self._snapshot is None else self._snapshot()

    def hand_on(self) -> None:
        """Set the weights that an unfinished stage would pass on now. Take a snapshot before."""
        if self._unfinished is None:
            return
        self._put_weights(*self._unfinished)
        merge_adapters(self.experiment.at(self.history.stage).built.model)
        model, whole = self.experiment.at(self.history.stage).built.model, self.experiment.built.model
        if whole is not model:
            whole.set_weights(model.get_weights())

    def _restore(self, index: int, saved: Checkpoint) -> None:
        """Restore the weights of a stage and the states of all random generators."""
        sized = self.experiment.enter(index)
        if not saved.facts["done"]:
            adapt(self.experiment, index)
        assign_variables(sized.built.model.weights, saved.arrays, "weights")
        assign_variables(self._generators(), saved.arrays, "generators")
        set_backend_random_state(saved.arrays)
        self.history.set_state({"spent": 0.0, **saved.facts["history"]})
        self.epoch = saved.facts["epoch"]
        if saved.facts["done"]:
            restore_callbacks(self.callbacks, saved.facts["callbacks"], saved.arrays)

    def _generators(self) -> list[Any]:
        return [state for sized in self.experiment.sized.values() for state in non_weight_variables(sized.built.model)]

    def _stage(self, index: int) -> bool:
        """Train a stage, or the rest of it; return whether it is finished."""
        experiment, stage = self.experiment, self.spec.fit.stages[index]
        resumed = self.checkpoint if self.checkpoint and self.checkpoint.facts["stage"] == index else None
        begin = resumed.facts["begin"] if resumed else self.epoch
        end = begin + stage.epochs
        if self.last is not None and index + 1 == len(self.spec.fit.stages):
            end += max(0, self.last - total_epochs(self.spec))
        if end <= self.first:
            self.epoch = end
            return True
        whole = experiment.at(index).built.model
        plan = self.execution.plan(experiment, index, self.hooks.notes(index))
        added = list(self.hooks.callbacks(plan.model, whole))
        steps_per_execution = self.execution.compile(experiment, index, plan, [*self.callbacks, *added])
        described = stages.describe(whole, behind=plan.mode == "cached" and plan.model is whole)
        log.once(f"stage {index + 1} of {len(self.spec.fit.stages)}: {described}")
        if plan.line:
            log.once(plan.line)
        self.hooks.begin(index, self._notes(plan, steps_per_execution))
        self.history.stage = index
        best = stages.best_of(stage)
        averages = [stages.Averages()] if has_average(self.spec) else []

        def save(facts: dict[str, Any], arrays: Arrays) -> None:
            self.hooks.save(*self._checkpoint(index, False, facts, arrays))

        watch = Watch(
            [*averages, *([best] if best else []), *self.callbacks, *stages.stopping(stage), *added],
            self.history,
            self.interruption,
            save if self.hooks.checkpoints else None,
            begin=begin,
            end=end,
            until=end if self.last is None else min(end, self.last),
            steps=experiment.steps,
            verbose=self.verbose,
            model=plan.model,
            after_epoch=self.hooks.after_epoch,
            deadline=experiment.deadline,
            tested=-(-len(experiment.parts.get("validation", ())) // experiment.batch_size),
        )
        if resumed:
            watch.resume_from(resumed)
        watch.epoch = max(watch.epoch, self.first)
        plan.model.stop_training = False
        self.execution.run(experiment, plan, watch)
        self.epoch = watch.epoch + 1
        watch.finish()
        self._require_finite(watch)
        self.stopped_by_rule = watch.stopped_by_rule
        over = watch.stopped or self.epoch >= end
        if not over:
            self._snapshot = lambda: self._checkpoint(index, False, *watch.snapshot(self.epoch, 0))
            self._unfinished = plan.model, best
            return False
        self._finish(index, plan.model, best)
        return True

    def _notes(self, plan: FeaturePlan, steps_per_execution: int) -> dict[str, Any]:
        notes = {**plan.figures, "features": plan.mode, "steps_per_execution": steps_per_execution}
        devices = self.experiment.devices
        return notes | ({"devices": list(devices.names)} if devices.strategy else {})

    def _require_finite(self, watch: Watch) -> None:
        if self.history.diverged:
            raise Diverged(
                f"the loss became NaN or infinite in stage {self.history.stage + 1}, epoch {watch.epoch + 1}; "
                "try a lower learning rate"
            )

    def _put_weights(self, model: Any, best: stages.Best | None) -> None:
        if best is not None and best.figure is not None:
            model.set_weights(best.weights)
            if self.hooks.checkpoints:  # of a trial only the score counts, which may be of another epoch
                log.info(f"using the weights of epoch {best.epoch + 1} ({best.monitor} {best.figure:.4g})")
        elif stages.has_averages(model) and not any(has_averages_in_place(callback) for callback in self.callbacks):
            model.set_weights(stages.final_weights(model))

    def _finish(self, index: int, model: Any, best: stages.Best | None) -> None:
        """Set the weights that the stage passes on, and save them."""
        self._put_weights(model, best)
        several = self.spec.fit.stages[index].epochs > 1
        if best is None and several and self.hooks.checkpoints and "validation" in self.experiment.parts:
            log.info('using the weights of the last epoch ("keep": "best" in fit.stages would use the best)')
        merge_adapters(self.experiment.at(index).built.model)
        self.hooks.end(index, self.experiment.at(index).built.model)

        def snapshot() -> Checkpoint:
            arrays: Arrays = {}
            remembered = callback_states(self.callbacks, arrays)
            facts = {"begin": 0, "epoch": self.epoch, "step": 0, "callbacks": remembered}
            return self._checkpoint(index, True, facts, arrays)

        self._snapshot = snapshot
        if self.hooks.checkpoints:
            self.hooks.save(*snapshot())
        if self.interruption.asked:
            raise Interrupted("interrupted")

    def _checkpoint(self, index: int, done: bool, facts: dict[str, Any], arrays: Arrays) -> Checkpoint:
        """Return a checkpoint within a stage or at its end."""
        model = self.experiment.at(index).built.model
        arrays |= variable_values(model.weights, "weights") | variable_values(self._generators(), "generators")
        arrays |= backend_random_state()
        history = {key: value for key, value in self.history.get_state().items() if key != "spent"}
        place = {"stage": index, "done": done, "batch_size": self.experiment.batch_size, "history": history}
        return Checkpoint({**facts, **place}, arrays)


class KerasFit:
    """Runs stages with `keras.Model.fit` on any backend, or with `DeviceSteps` on a GPU under JAX.

    A subclass may run them in another way.
    """

    def __init__(self) -> None:
        self._compiled: Any = None
        self._acts_on_steps = False
        self._shared: dict[int, tuple[Any, Any]] = {}

    def plan(self, experiment: Experiment, index: int, notes: Mapping[str, Any]) -> FeaturePlan:
        """Return how the frozen part of a stage's model is computed, and the model to train."""
        plan = plan_stage(experiment, index, notes)
        if has_teacher(experiment.spec):
            return plan
        if id(plan.model) not in self._shared:
            self._shared[id(plan.model)] = plan.model, experiment.devices.shared(plan.model)
        return replace(plan, model=self._shared[id(plan.model)][1])

    def compile(self, experiment: Experiment, index: int, plan: FeaturePlan, callbacks: Sequence[Any]) -> int:
        """Compile the model for a stage; return the steps per execution."""
        spec, steps = experiment.spec, experiment.steps
        wanted = spec.compile.steps_per_execution
        self._acts_on_steps = any(map(acts_on_steps, callbacks))
        if wanted == "auto":
            most = plan.steps_per_execution
            wanted = choose_steps_per_execution(plan.model, experiment.batch_size, steps, list(callbacks), most)
        # TensorFlow cannot run Keras 3.15's loop over several steps on several devices.
        wanted = 1 if experiment.devices.strategy else part_of(steps, wanted)
        with experiment.devices.scope():
            optimizer = stage_optimizer(experiment, index)
            # Adapters come and go with their stage.
            state = plan.model, wanted, [id(weight) for weight in plan.model.weights]
            if self._compiled == state:
                replace_optimizer(plan.model, optimizer)
            else:
                compile_model(experiment, plan.model, optimizer, steps_per_execution=wanted)
            with cheap_values(lambda variable: False):
                plan.model.optimizer.build(plan.model.trainable_variables)
        self._compiled = state
        return wanted

    def run(self, experiment: Experiment, plan: FeaturePlan, watch: Watch) -> None:
        """Train from the epoch of `watch` until `watch.until`, or until a callback stops the training."""
        even, model, epoch = experiment.devices.even, plan.model, watch.epoch
        reason = why_not(plan)
        if reason is None and experiment.devices.strategy is not None:
            reason = "several devices share each batch"
        if reason is None and has_teacher(experiment.spec):
            reason = "a teacher computes each batch, too"
        with running(experiment.devices, model):
            if reason is None:
                wanted = experiment.spec.compile.steps_per_execution
                DeviceSteps(plan, self._acts_on_steps, None if wanted == "auto" else wanted).run(watch)
                return
            if reason and has_gpu():
                log.once(f"batches are copied to the device one by one: {reason}")
            common: dict[str, Any] = {
                "validation_data": even(plan.validation(), len(experiment.parts.get("validation", ()))),
                "callbacks": watch,
                "shuffle": False,  # the input pipeline shuffles
                "verbose": watch.params["verbose"],
            }
            if step := watch.first_step:
                rest, left = even(plan.train(first_epoch=epoch, first_step=step, epochs=None)), watch.steps - step
                build_metrics(model, next(iter(rest)))
                model.fit(rest, steps_per_epoch=left, initial_epoch=epoch, epochs=epoch + 1, **common)
                epoch += 1
            if epoch < watch.until and not model.stop_training:
                endless = even(plan.train(first_epoch=epoch, epochs=None))
                if plan.mode != "cached" and (shortage := experiment.cache.shortage()):
                    log.once(shortage)
                model.fit(endless, steps_per_epoch=watch.steps, initial_epoch=epoch, epochs=watch.until, **common)


@contextmanager
def running(devices: Devices, model: Any) -> Iterator[None]:
    """The scope in which the steps of a model run."""
    with devices.statistics_of_all(model), devices.scope(), own_errors():
        yield


def total_epochs(spec: Spec) -> int:
    """Returns the number of epochs of all stages."""
    return sum(stage.epochs for stage in spec.fit.stages)


def has_callbacks(spec: Spec) -> bool:
    """Whether a spec names callbacks."""
    return bool(spec.fit.callbacks)


def make_callbacks(spec: Spec) -> list[Any]:
    """Makes the callbacks of a spec."""
    return [make("callbacks", entry) for entry in spec.fit.callbacks]


def adapt(experiment: Experiment, index: int) -> None:
    """Adds the adapters that a stage trains to its model."""
    if lora := stages.adapters(experiment.spec.fit.stages[index]):
        add_adapters(experiment.at(index).built.model, lora, seed_of(experiment.spec))


ADAPTED_TO = 2_000
"""Training images from which the filters of a PatchWhitening are computed."""
PIXELS_AT_ONCE = 1 << 20


def adapt_layers(experiment: Experiment, index: int) -> None:
    """Computes the filters of each PatchWhitening from training images, unless the model has them from a file."""
    sized = experiment.at(index)
    model, image, train = sized.built.model, sized.spec.image, experiment.parts["train"]
    for layer in _layers_inside(model):
        if not isinstance(layer, PatchWhitening) or layer.adapted:
            continue
        if layer not in model.layers:
            raise KerasimgError(f"{layer.name} (PatchWhitening): inside of another layer it cannot be adapted")
        before = keras.Model(model.inputs, layer.input)
        chosen = train[:: -(-len(train) // ADAPTED_TO)]
        size = max(1, PIXELS_AT_ONCE // (image.size[0] * image.size[1]))
        targets = experiment.objective.targets
        images = batches(experiment.source, chosen, image, batch_size=size, targets=targets, cache="off")
        with own_errors():
            layer.adapt(before(x, training=False) for x, *_ in images)


def _layers_inside(layer: Any) -> Iterator[Any]:
    for each in sublayers(layer):
        yield each
        yield from _layers_inside(each)


def plan_stage(experiment: Experiment, index: int, notes: Mapping[str, Any] = {}) -> FeaturePlan:
    """Returns how the frozen part of a stage is computed; a resumed stage follows its notes."""
    spec, sized = experiment.spec, experiment.at(index)
    adapt(experiment, index)
    whole, settings = sized.built.model, settings_of(spec)
    apart = split_frozen(whole) and not has_teacher(spec) and not trains_with_rounding(spec)
    mode = settings.mode if apart else "off"
    data = StageData(
        experiment.source,
        experiment.parts,
        sized.spec.image,
        augment=sized.spec.augment,
        seed=seed_of(spec),
        batch_size=experiment.batch_size,
        epochs=spec.fit.stages[index].epochs,
        targets=experiment.objective.targets,
        sample_weight=experiment.weights,
        cache=experiment.cache,
        deadline=experiment.deadline,
    )
    plan = plan_features(
        whole,
        data,
        mode=notes.get("features", mode),
        views=settings.views,
        precision=notes.get("precision", "auto"),
    )
    # The policy decides whether Keras scales the loss, so that small gradients do not vanish in float16.
    plan.model.dtype_policy = whole.dtype_policy
    trained = with_rounding(plan.model) if trains_with_rounding(spec) else plan.model
    return replace(plan, model=wrap_student(spec, trained, experiment.teacher))


def stage_optimizer(experiment: Experiment, index: int) -> Any:
    """Returns a new optimizer for a stage, not yet built."""
    stage, built = experiment.spec.fit.stages[index], experiment.at(index).built
    rates = rates_of(stage, built, experiment.steps, stage.epochs)
    return make_optimizer(experiment.spec, learning_rate(stage), rates, model=built.model)


def sweep_optimizer(experiment: Experiment, index: int, rate: float) -> Any:
    """Returns the same without warm-up and decay, for a rate that is set at every step."""
    stage, built = experiment.spec.fit.stages[index], experiment.at(index).built
    return make_optimizer(experiment.spec, rate, Rates(factors=layer_factors(stage, built)), model=built.model)


def compile_model(experiment: Experiment, model: Any, optimizer: Any, *, steps_per_execution: int = 1) -> None:
    """Compile the trained model of a stage, with the loss and metrics of the experiment."""
    for metric in experiment.objective.metrics:
        # After it is compiled again, Keras does not reset the metrics of the last validation.
        metric.reset_state()
    model.compile(
        optimizer=optimizer,
        loss=experiment.objective.loss,
        metrics=experiment.objective.metrics,
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile(experiment.spec),
    )


def replace_optimizer(model: Any, optimizer: Any) -> None:
    """Replaces the optimizer of a compiled model; the validation step is not traced again."""
    mixed = model.dtype_policy.name == "mixed_float16"
    model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if mixed else optimizer
    model.train_function = None
