"""`kerasimg.HyperSpec`: a spec for those who have KerasTuner code of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras_tuner import HyperModel

from kerasimg.catalog import Reference, load
from kerasimg.data.augment import compile_augment
from kerasimg.data.cache import Cache
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import Source, open_source
from kerasimg.data.split import split
from kerasimg.errors import CallError
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.spec.load import Spec
from kerasimg.training.experiment import Experiment, Parts, assemble, make_models
from kerasimg.training.sizes import size_of
from kerasimg.tuning.by_keras import optimizer_of
from kerasimg.tuning.hyper_parameters import declare
from kerasimg.tuning.space import resolve, space_of


class HyperSpec(HyperModel):
    """The models that a spec with search values can be, for any tuner of KerasTuner.

        tuner = keras_tuner.RandomSearch(kerasimg.HyperSpec("simple_cnn"), objective=..., max_trials=20)
        tuner.search(x, y, validation_data=(x_val, y_val))

    Each search value is a hyperparameter named by its path, in conditional scopes; `build` gives a compiled model.
    """

    def __init__(
        self,
        ref: Reference,
        *,
        weights: Any = AS_THE_SPEC_SAYS,
        limits: Mapping[str, int] | None = None,
        set: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> None:
        """As for `kerasimg.build`; set: edits by path."""
        self.spec = load(ref, set=set, **params)
        self.space = space_of(self.spec)
        super().__init__(name=self.spec.name)
        self.weights, self.limits = weights, limits
        self._made: WeakKeyDictionary[Any, tuple[Spec, Any]] = WeakKeyDictionary()
        self._opened: tuple[Any, Source] | None = None
        self._cache = Cache("auto")

    def resolve(self, hp: Any) -> Spec:
        """The spec with the values of a `keras_tuner.HyperParameters`: a spec again, to share as a file."""
        declare(self.space, hp)
        return resolve(self.spec, self.space.values(hp.values))

    def build(self, hp: Any) -> keras.Model:
        """The model for these values, compiled as its first stage is trained."""
        spec = self.resolve(hp)
        sized = make_models(spec, self.weights, self.limits)
        model = sized[size_of(spec.fit.stages[0], spec)].built.model
        self._made[model] = spec, sized
        classes = int(spec.params.get("num_classes") or model.output_shape[-1])
        from kerasimg.training.objective import make_objective, make_optimizer

        objective = make_objective(spec, model, classes)
        optimizer = make_optimizer(spec, spec.fit.stages[0].learning_rate)
        model.compile(optimizer=optimizer, loss=objective.loss, metrics=objective.metrics)
        return model

    def fit(self, hp: Any, model: keras.Model, *data: Any, **kwargs: Any) -> Any:
        """Train a model of `build` as the spec's `fit` says, stage by stage; a `keras.callbacks.History`.

        data: (x, y) as arrays, or what `kerasimg.train` takes, a folder for instance: both go through the spec's image
        section and augmentation. Anything else, a tf.data.Dataset for instance, goes to `model.fit` as it is.
        validation_data: (x, y) as arrays; left out: a part of the pictures, as `fit.validation_split` says.
        epochs, initial_epoch, callbacks, verbose: as for `model.fit`; epochs left out: those of the stages.
        """
        spec, sized = self._made.get(model, (None, None))
        if spec is None:
            raise CallError("fit: the model was not made by this object's build")
        whole = sum(stage.epochs for stage in spec.fit.stages)
        kwargs.setdefault("epochs", whole)
        if not _is_ours(data):
            return model.fit(*data, **kwargs)
        experiment = self._experiment(spec, sized, data, kwargs.pop("validation_data", None))
        first, last = kwargs.pop("initial_epoch", 0), kwargs.pop("epochs")
        histories = []
        begin = 0
        for index, stage in enumerate(spec.fit.stages):
            end = begin + stage.epochs if index + 1 < len(spec.fit.stages) else max(last, begin + stage.epochs)
            if max(begin, first) < min(end, last):
                histories.append(_stage(experiment, index, model, max(begin, first), min(end, last), kwargs))
            begin = end
        return _joined(histories)

    def _experiment(self, spec: Spec, sized: Any, data: Sequence[Any], validation: Any) -> Experiment:
        if len({size_of(stage, spec) for stage in spec.fit.stages}) > 1:
            raise CallError("fit: stages of different picture sizes are for kerasimg.tune; a tuner keeps one model")
        source = self._source(spec, data)
        parts: Parts = split(source, spec.fit.validation_split, spec.fit.test_split, spec.fit.seed)
        if validation is not None:
            source, parts = _with_validation(spec, data, validation)
        return assemble(spec, source, parts, sized, self._cache)

    def _source(self, spec: Spec, data: Sequence[Any]) -> Source:
        """The pictures, opened once for all trials."""
        key = data[0]
        if self._opened is None or self._opened[0] is not key:
            self._opened = key, open_source(data[0] if len(data) == 1 else tuple(data), spec.task)
        return self._opened[1]


def _is_ours(data: Sequence[Any]) -> bool:
    if len(data) == 1:
        return isinstance(data[0], str | os.PathLike)
    return len(data) == 2 and all(isinstance(one, np.ndarray | list) for one in data)


def _with_validation(spec: Spec, data: Sequence[Any], validation: Any) -> tuple[Source, Parts]:
    """Both as one source, of which the second is the validation part."""
    (x, y), (x_val, y_val) = data, validation
    source = open_source((np.concatenate([x, x_val]), np.concatenate([y, y_val])), spec.task)
    return source, {"train": np.arange(len(x)), "validation": np.arange(len(x), len(x) + len(x_val))}


def _stage(experiment: Experiment, index: int, model: keras.Model, first: int, end: int, kwargs: Any) -> Any:
    """Train the epochs of a stage with Keras' own `fit`."""
    spec = experiment.spec
    sized = experiment.enter(index)
    model.compile(
        optimizer=optimizer_of(experiment, index),
        loss=experiment.objective.loss,
        metrics=experiment.objective.metrics,
        jit_compile=spec.compile.jit_compile,
    )
    common: dict[str, Any] = {"batch_size": experiment.batch_size, "targets": experiment.objective.targets}
    common["cache"] = experiment.cache
    image = sized.spec.image
    train = batches(
        experiment.source,
        experiment.parts["train"],
        image,
        shuffle=True,
        seed=spec.fit.seed,
        augment=compile_augment(sized.spec.augment, image, spec.fit.seed),
        sample_weight=experiment.weights,
        exact=False,
        first_epoch=first,
        epochs=None,
        **common,
    )
    held_out = experiment.parts.get("validation")
    told = {} if held_out is None else {"validation_data": batches(experiment.source, held_out, image, **common)}
    steps = -(-len(experiment.parts["train"]) // experiment.batch_size)
    how = {**kwargs, **told, "shuffle": False, "steps_per_epoch": steps}
    return model.fit(train, initial_epoch=first, epochs=end, **how)


def _joined(histories: Sequence[Any]) -> Any:
    """Several of Keras' histories as one."""
    if not histories:
        raise CallError("fit: no epoch is left to be trained")
    whole = histories[-1]
    figures = {key: [value for one in histories for value in one.history.get(key, [])] for key in whole.history}
    whole.epoch = [epoch for one in histories for epoch in one.epoch]
    whole.history = figures
    return whole
