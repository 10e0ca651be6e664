"""The stages of a training, one after the other, from wherever the last checkpoint stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from kerasimg.callbacks import CurvesToTensorBoard
from kerasimg.errors import Interrupted, KerasimgError
from kerasimg.files import replacing
from kerasimg.models.frozen import split_frozen
from kerasimg.models.objects import make
from kerasimg.spec.document import Stage
from kerasimg.training import checkpoint, stages, state
from kerasimg.training.best import Averages, Best, best_of, handed_on, has_averages
from kerasimg.training.blocks import factors
from kerasimg.training.distillation import with_teacher
from kerasimg.training.experiment import Experiment
from kerasimg.training.features import FeaturePlan, plan_features
from kerasimg.training.history import History
from kerasimg.training.interruption import Interruption
from kerasimg.training.objective import jit_compile, make_optimizer
from kerasimg.training.rates import Rates
from kerasimg.training.run import Run
from kerasimg.training.sizes import Sized
from kerasimg.training.speed import part_of, steps_at_a_time
from kerasimg.training.watch import Watch

Say = Callable[[str], None]


class Loop:
    """The training of an experiment, kept in the folder of a run."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        interruption: Interruption,
        verbose: int | str,
        say: Say,
        tensorboard: bool = False,
    ) -> None:
        self.experiment = experiment
        self.spec = experiment.spec
        self.run = run
        self.interruption = interruption
        self.verbose = verbose
        self.say = say
        self.file = run.files.checkpoint_file
        pictures = len(experiment.parts["train"])
        self.found = checkpoint.in_smaller_batches(checkpoint.read(self.file), pictures, experiment.batch_size)
        self.callbacks = [make("callbacks", one) for one in self.spec.fit.callbacks]
        self.history = History(run.files.history_file)
        self.boards = [CurvesToTensorBoard(self.history.path, run.files.tensorboard_folder)] if tensorboard else []
        self.epoch = 0
        """Epochs that are done, over all stages."""
        self._compiled: Any = None
        self._shared: dict[int, Any] = {}

    def train(self) -> None:
        """Train what is left; afterwards `experiment.built` has the weights."""
        if self.found is None:
            self.history.rewrite()
        count = len(self.spec.fit.stages)
        first = self.found.facts["stage"] if self.found else 0
        model = self.experiment.at(first).built.model
        if self.found:
            self._restore(first, self.found)
        for index in range(first, count):
            if self.found and self.found.facts["stage"] == index and self.found.facts["done"]:
                continue
            if index > first and any(getattr(callback, "finished", False) for callback in self.callbacks):
                break
            before, model = model, self.experiment.enter(index).built.model
            if model is not before:
                model.set_weights(before.get_weights())
            self._stage(index)
        if (last := self.experiment.built.model) is not model:
            last.set_weights(model.get_weights())

    def _restore(self, index: int, found: checkpoint.Checkpoint) -> None:
        """The weights of a stage, and the states of every model's random generators."""
        sized = self.experiment.enter(index)
        state.give(sized.built.model.weights, found.arrays, "weights")
        state.give(self._generators(), found.arrays, "generators")
        state.give_backend(found.arrays)
        self.history.set_state({"spent": 0.0, **found.facts["history"]})
        self.epoch = found.facts["epoch"]
        if found.facts["done"]:
            state.remind(self.callbacks, found.facts["callbacks"], found.arrays)

    def _generators(self) -> list[Any]:
        return [one for sized in self.experiment.sized.values() for one in state.beside_weights(sized.built.model)]

    def _stage(self, index: int) -> None:
        stage = self.spec.fit.stages[index]
        sized = self.experiment.at(index)
        resumed = self.found if self.found and self.found.facts["stage"] == index else None
        plan = self._plan(index, stage, sized)
        begin = resumed.facts["begin"] if resumed else self.epoch
        devices = self.experiment.devices
        steps = -(-len(self.experiment.parts["train"]) // self.experiment.batch_size)
        with devices.scope():
            at_a_time = self._compile(stage, sized, plan, steps)
        self.say(f"stage {index + 1} of {len(self.spec.fit.stages)}: {stages.describe(sized.built.model)}")
        if plan.line:
            self.say(plan.line)
        notes = {**plan.figures, "features": plan.mode, "steps_per_execution": at_a_time}
        self.run.note_stage(index, notes | ({"devices": list(devices.names)} if devices.strategy else {}))
        self.history.stage = index
        best = best_of(stage)
        own = [Averages()] if self.spec.fit.ema is not None else []
        stopping = [stages.early_stopping(stage.early_stopping)] if stage.early_stopping else []
        watch = Watch(
            [*own, *([best] if best else []), *self.callbacks, *stopping, *self.boards],
            self.history,
            self.interruption,
            lambda facts, arrays: self._save({"stage": index, "done": False, **facts}, arrays),
            begin=begin,
            end=begin + stage.epochs,
            steps=steps,
            verbose=self.verbose,
            model=plan.model,
        )
        if resumed:
            watch.go_on_from(resumed)
        with devices.statistics_of_all(plan.model), devices.scope():
            self._fit(plan, watch)
        self.epoch = watch.epoch + 1
        self._end(index, plan.model, best)

    def _plan(self, index: int, stage: Stage, sized: Sized) -> FeaturePlan:
        """How the part that does not train is computed; a run that is resumed does as it did."""
        experiment, fit = self.experiment, self.spec.fit
        noted = self.run.stage_notes(index)
        mode = fit.features if split_frozen(sized.built.model) and fit.teacher is None else "off"
        plan = plan_features(
            sized.built.model,
            experiment.source,
            experiment.parts,
            sized.spec.image,
            mode=noted.get("features", mode),
            views=fit.views,
            augment=sized.spec.augment,
            seed=fit.seed,
            batch_size=experiment.batch_size,
            epochs=stage.epochs,
            targets=experiment.objective.targets,
            sample_weight=experiment.weights,
            cache=experiment.cache,
            precision=noted.get("precision", "auto"),
            straight=keras.backend.backend() != "tensorflow" and experiment.devices.strategy is None,
            say=self.say,
        )
        # By it Keras decides whether the loss is scaled, so that small gradients do not vanish in float16.
        plan.model.dtype_policy = sized.built.model.dtype_policy
        if fit.teacher is not None:
            return replace(plan, model=with_teacher(sized.built.model, experiment.teacher, fit.teacher))
        if id(plan.model) not in self._shared:
            self._shared[id(plan.model)] = experiment.devices.shared(plan.model)
        return replace(plan, model=self._shared[id(plan.model)])

    def _compile(self, stage: Stage, sized: Sized, plan: FeaturePlan, steps: int) -> int:
        """Make the model ready for a stage; the steps that are run at a time."""
        rates = Rates(
            warmup_steps=round(stage.warmup_epochs * steps),
            steps=stage.epochs * steps,
            decay=stage.decay,
            factors=factors(sized.built, stage.layer_decay),
        )
        optimizer = make_optimizer(self.spec, stage.learning_rate, rates)
        wanted = self.spec.compile.steps_per_execution
        if wanted == "auto":
            most = plan.steps_per_execution
            wanted = steps_at_a_time(plan.model, self.experiment.batch_size, steps, self.callbacks, most)
        # Keras 3.15's loop over several steps is not one that TensorFlow can run on several devices.
        wanted = 1 if self.experiment.devices.strategy else part_of(steps, wanted)
        model = plan.model
        if self._compiled == (model, wanted):
            # As `compile` does; but what validates stays as it was traced, for it does not depend on what trains.
            mixed = model.dtype_policy.name == "mixed_float16"
            model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if mixed else optimizer
            model.train_function = None
        else:
            for metric in self.experiment.objective.metrics:
                # Keras forgets to, in the first epoch after it was compiled again: it had seen a validation part.
                metric.reset_state()
            model.compile(
                optimizer=optimizer,
                loss=self.experiment.objective.loss,
                metrics=self.experiment.objective.metrics,
                steps_per_execution=wanted,
                jit_compile=jit_compile(self.spec),
            )
        self._compiled = (model, wanted)
        model.optimizer.build(model.trainable_variables)
        return wanted

    def _fit(self, plan: FeaturePlan, watch: Watch) -> None:
        """Train the epochs of a stage, or what is left of them."""
        even = self.experiment.devices.even
        common: dict[str, Any] = {
            "validation_data": even(plan.validation(), len(self.experiment.parts.get("validation", ()))),
            "callbacks": watch,
            "shuffle": False,  # the pipeline does it
            "verbose": self.verbose,
        }
        epoch = watch.epoch
        if step := watch.first_step:
            rest = even(plan.train(first_epoch=epoch, first_step=step, epochs=None))
            left = watch.steps - step
            # Private: Keras makes the metrics' variables, which have values to be given back, with the first step only.
            plan.model._symbolic_build(data_batch=next(iter(rest)))
            plan.model.fit(rest, steps_per_epoch=left, initial_epoch=epoch, epochs=epoch + 1, **common)
            epoch += 1
        if epoch < watch.end and not watch.stopped:
            endless = even(plan.train(first_epoch=epoch, epochs=None))
            if plan.mode != "cached" and (shortage := self.experiment.cache.shortage()):
                self.say(shortage)
            plan.model.fit(endless, steps_per_epoch=watch.steps, initial_epoch=epoch, epochs=watch.end, **common)
        watch.finish()
        if self.history.diverged:
            raise KerasimgError(
                f"the loss is no number any more (stage {self.history.stage + 1}, epoch {watch.epoch + 1}); "
                f"try a lower learning rate. What there is stands in {self.run.folder} ({kept_until(self.run)})"
            )

    def _end(self, index: int, model: Any, best: Best | None) -> None:
        """Put in place what the stage hands on, and keep it."""
        if best is not None and best.figure is not None:
            model.set_weights(best.weights)
            self.say(f"kept the weights of epoch {best.epoch + 1} ({best.monitor} {best.figure:.4g})")
        elif has_averages(model) and not any(getattr(one, "_ema_weights_in_model", False) for one in self.callbacks):
            model.set_weights(handed_on(model))
        whole = self.experiment.at(index).built.model
        plain = keras.Model(whole.input, whole.output, name=whole.name)  # without the optimizer
        self.file.parent.mkdir(exist_ok=True)
        with replacing(self.run.files.stage_weights_file(index + 1)) as partial:
            plain.save_weights(partial)
        arrays: state.Arrays = {}
        told = state.remember(self.callbacks, arrays)
        facts = {"stage": index, "done": True, "begin": 0, "epoch": self.epoch, "step": 0, "callbacks": told}
        self._save(facts, arrays)
        if self.interruption.asked:
            raise Interrupted("interrupted")

    def _save(self, facts: dict[str, Any], arrays: state.Arrays) -> None:
        model = self.experiment.at(facts["stage"]).built.model
        arrays |= state.take(model.weights, "weights") | state.take(self._generators(), "generators")
        arrays |= state.take_backend()
        rows = {"rows": self.history.rows, "columns": self.history._columns}
        size = self.experiment.batch_size
        checkpoint.write(self.file, {**facts, "batch_size": size, "history": rows}, arrays)


def kept_until(run: Run) -> str:
    """How far a run would go on from, in words."""
    found = checkpoint.facts(run.files.checkpoint_file)
    if found is None:
        return "no checkpoint was written yet"
    epoch, step = found["epoch"], found["step"]
    return f"kept up to step {step:,} of epoch {epoch + 1}" if step else f"kept up to the end of epoch {epoch}"
