"""A stage of a trial trained by Keras' own `fit`: on any backend, with any callbacks, for any model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from kerasimg.models.frozen import split_frozen
from kerasimg.training.blocks import factors
from kerasimg.training.distillation import with_teacher
from kerasimg.training.experiment import Experiment
from kerasimg.training.features import FeaturePlan, plan_features
from kerasimg.training.objective import jit_compile, make_optimizer
from kerasimg.training.rates import Rates
from kerasimg.training.speed import part_of, steps_at_a_time


class ByKeras:
    """One stage."""

    def __init__(self, experiment: Experiment, index: int, plan: FeaturePlan, callbacks: list[Any]) -> None:
        """callbacks: those of the spec."""
        self.plan, self.model = plan, plan.model
        self.steps = steps_of(experiment)
        spec = experiment.spec
        wanted = spec.compile.steps_per_execution
        if wanted == "auto":
            wanted = steps_at_a_time(plan.model, experiment.batch_size, self.steps, callbacks, plan.steps_per_execution)
        for metric in experiment.objective.metrics:
            metric.reset_state()
        self.model.compile(
            optimizer=optimizer_of(experiment, index),
            loss=experiment.objective.loss,
            metrics=experiment.objective.metrics,
            steps_per_execution=part_of(self.steps, wanted),
            jit_compile=jit_compile(spec),
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def fit(self, callbacks: list[Any], first: int, end: int) -> None:
        """Train epochs from `first` up to `end`, or until a callback has set `model.stop_training`."""
        self.model.fit(
            self.plan.train(first_epoch=first, epochs=None),
            steps_per_epoch=self.steps,
            initial_epoch=first,
            epochs=end,
            validation_data=self.plan.validation(),
            callbacks=keras.callbacks.CallbackList(
                callbacks, add_history=True, model=self.model, epochs=end, steps=self.steps
            ),
            shuffle=False,
            verbose=0,
        )


def steps_of(experiment: Experiment) -> int:
    """Steps of an epoch."""
    return -(-len(experiment.parts["train"]) // experiment.batch_size)


def optimizer_of(experiment: Experiment, index: int) -> Any:
    """A fresh optimizer for a stage, not yet built."""
    stage, steps = experiment.spec.fit.stages[index], steps_of(experiment)
    rates = Rates(
        warmup_steps=round(stage.warmup_epochs * steps),
        steps=stage.epochs * steps,
        decay=stage.decay,
        factors=factors(experiment.at(index).built, stage.layer_decay),
    )
    return make_optimizer(experiment.spec, stage.learning_rate, rates)


def plan_of(experiment: Experiment, index: int) -> FeaturePlan:
    """How the part that does not train in a stage is computed, as `training.loop` decides it."""
    fit, sized = experiment.spec.fit, experiment.at(index)
    plan = plan_features(
        sized.built.model,
        experiment.source,
        experiment.parts,
        sized.spec.image,
        mode=fit.features if split_frozen(sized.built.model) and fit.teacher is None else "off",
        views=fit.views,
        augment=sized.spec.augment,
        seed=fit.seed,
        batch_size=experiment.batch_size,
        epochs=fit.stages[index].epochs,
        targets=experiment.objective.targets,
        sample_weight=experiment.weights,
        cache=experiment.cache,
    )
    if fit.teacher is None:
        return plan
    return replace(plan, model=with_teacher(sized.built.model, experiment.teacher, fit.teacher))
