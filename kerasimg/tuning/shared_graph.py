"""Models that several trials train, one after the other, each from weights of its own beginning."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kerasimg.models.build import construct
from kerasimg.models.graph import Graph
from kerasimg.spec.load import Spec
from kerasimg.training.experiment import Experiment, Parts
from kerasimg.training.features import FeaturePlan
from kerasimg.training.objective import BLENDING
from kerasimg.training.sizes import Size, Sized, models_by_size
from kerasimg.training.speed import acts_on_steps
from kerasimg.tuning.by_keras import plan_of
from kerasimg.tuning.lifted import Rate, lift_rates, optimizer_signature
from kerasimg.tuning.outline import Outline
from kerasimg.tuning.tables import Tables
from kerasimg.tuning.whole_epochs import Compiled, Table, WholeEpochs

SEEDS = 2
"""Of so many seeds a model's first weights are kept."""

Build = Callable[[Spec], Mapping[Size, Sized]]


def can_share(spec: Spec, callbacks: list[Any]) -> bool:
    """Whether what a spec trains fits into whole epochs in a graph that is used again."""
    fit = spec.fit
    return (
        keras.backend.backend() == "tensorflow"
        and fit.teacher is None
        and fit.precision != "mixed_float16"  # its scale of the loss is one more state
        and not any(map(acts_on_steps, callbacks))
    )


def signature(spec: Spec, outline: Outline, head: bool = False) -> str:
    """The same for two specs whose trials can train the same compiled graphs.  head: whether that is all there is."""
    fit = spec.fit.model_dump(mode="json")
    data = {key: fit[key] for key in ("seed", "validation_split", "test_split", "batch_size", "views", "features")}
    stages = [
        {
            key: value
            for key, value in stage.items()
            if key not in ("learning_rate", "early_stopping", "keep", "monitor", "mode")
        }
        for stage in fit["stages"]
    ]
    timed = any(stage["decay"] != "none" or stage["warmup_epochs"] for stage in stages)
    own_data = timed or not is_of_any_data(spec, outline)
    if not own_data:
        stages = [{key: value for key, value in stage.items() if key != "epochs"} for stage in stages]
    said = {
        "model": outline.calls,
        "head": head,
        "image": spec.image.model_dump(mode="json"),
        "task": spec.task,
        "optimizers": optimizer_signature(spec),
        "compile": {key: getattr(spec.compile, key) for key in ("loss", "metrics", "jit_compile")},
        "fit": {key: fit[key] for key in ("precision", "ema", "class_weight", "sample_weight")},
        "stages": stages,
        "augment": [[name, dict(arguments)] for name, arguments in spec.augment],
        "data": data if own_data else None,
        "blends": any(name in BLENDING for name, _ in spec.augment),
    }
    return json.dumps(said, sort_keys=True, default=repr)


def is_of_any_data(spec: Spec, outline: Outline) -> bool:
    """Whether nothing that depends on the pictures is computed ahead of the training, or a number in its graph."""
    frozen = outline.frozen or any(stage.freeze for stage in spec.fit.stages)
    weighted = spec.task == "multilabel" and spec.fit.class_weight != "none"
    return not (frozen or weighted or spec.augment)


class SharedModel:
    """The models of an experiment, compiled, and what a trial needs to begin with them anew."""

    def __init__(
        self, experiment: Experiment, outline: Outline, build: Build, plans: Mapping[int, FeaturePlan] | None = None
    ) -> None:
        """experiment: just made, as its spec's seed has it.  build: makes the like with another seed.

        plans: of the stages, where they are known.
        """
        self.experiment = experiment
        self.build = build
        self._begin = {experiment.spec.fit.seed: self._values()}
        self._compiled: dict[int, Compiled] = {}
        self._plans: dict[int, FeaturePlan] = dict(plans or {})
        self._in_memory: dict[int, tuple[FeaturePlan, tuple[Table | None, Table | None]]] = {}
        self._rates: list[dict[str, Rate]] = [
            lift_rates(sized.built.model, outline.rates) for sized in experiment.sized.values()
        ]
        self.gradients: set[str] = set()
        """To be forgotten with it, see `memory.noted_gradients`."""
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

    def stage(
        self, index: int, tables: Tables, computing: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> WholeEpochs:
        """A stage of the trial, ready to be trained.  computing: see `ahead`."""
        plan = self._plan(index)
        if index not in self._compiled:
            earlier = next((one for one in self._compiled.values() if one.model is plan.model), None)
            self._compiled[index] = Compiled(self.experiment, index, plan.model, earlier)
        if index not in self._in_memory or self._in_memory[index][0] is not plan:
            self._in_memory[index] = plan, tables.of(plan)
        return WholeEpochs(self.experiment, index, plan, self._compiled[index], self._in_memory[index][1], computing)

    @property
    def nbytes(self) -> int:
        """Of its weights, in all the places where they are kept."""
        values = next(iter(self._begin.values()))
        return sum(value.nbytes for value in values) * (len(self._begin) + 3)

    def _plan(self, index: int) -> FeaturePlan:
        known = self._plans.get(index)
        if known is None or (known.mode == "off" and known.job.augmentation is None):
            # Cheap, and of this trial's data; the model is the same.
            self._plans[index] = plan_of(self.experiment, index)
        return self._plans[index]

    def _variables(self) -> list[Any]:
        return [one for sized in self.experiment.sized.values() for one in sized.built.model.variables]

    def _values(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(one)) for one in self._variables()]

    def _of_seed(self, spec: Spec) -> list[np.ndarray]:
        """What the variables are in a model made anew with the spec's seed."""
        seed = spec.fit.seed
        if seed not in self._begin:
            made = self.build(spec)
            found = [one for sized in made.values() for one in sized.built.model.variables]
            self._begin[seed] = [np.array(keras.ops.convert_to_numpy(one)) for one in found]
            for old in list(self._begin)[:-SEEDS]:
                del self._begin[old]
        return self._begin[seed]


def models_of(
    spec: Spec, weights: Any, limits: Mapping[str, int] | None, visitor: type[Graph] = Graph
) -> Mapping[Size, Sized]:
    """The models of a spec, by the size of their pictures, as `training.experiment.make_models` makes them."""
    before = keras.config.dtype_policy()
    _seed(spec.fit.seed)
    keras.config.set_dtype_policy(spec.fit.precision)
    try:
        built = construct(spec, weights=weights, limits=limits, visitor=visitor)
        return models_by_size(spec, built, limits)
    finally:
        keras.config.set_dtype_policy(before)


def _seed(seed: int) -> None:
    """As keras.utils.set_random_seed, but for what would have TensorFlow compile every graph once more."""
    if _seeded != [seed]:
        keras.utils.set_random_seed(seed)
        _seeded[:] = [seed]
    random.seed(seed)
    np.random.seed(seed)


_seeded: list[int] = []
"""What TensorFlow's own generator, which no layer of Keras uses, was seeded with last."""
