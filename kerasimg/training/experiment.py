"""What a training is made of, all of it checked before the first epoch: spec, pictures, models, objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasimg.catalog import Reference, load
from kerasimg.data.cache import Cache
from kerasimg.data.items import Part
from kerasimg.data.sources import Data, Source, open_source
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.models.build import Built, construct
from kerasimg.models.classifier import check_outputs
from kerasimg.models.frozen import split_frozen
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.load import Spec, load_again
from kerasimg.training import stages
from kerasimg.training.counting import label_weights, picture_weights
from kerasimg.training.devices import ONE, Devices
from kerasimg.training.distillation import open_teacher
from kerasimg.training.objective import Objective, make_objective
from kerasimg.training.sizes import Size, Sized, models_by_size, size_of

Parts = Mapping[Part, np.ndarray]


@dataclass(frozen=True)
class Experiment:
    """A spec and pictures, and the models that are to learn from them."""

    spec: Spec
    source: Source
    parts: Parts
    """Indices of the pictures of each part."""
    sized: Mapping[Size, Sized]
    """The model, for each size of pictures that a stage has."""
    objective: Objective
    weights: np.ndarray | None
    """How much each picture of the train part counts; None: all alike."""
    cache: Cache
    """What keeps decoded pictures, over all stages."""
    as_built: Mapping[Size, stages.Trainable]
    """Which layers train where no stage says otherwise."""
    teacher: Any = None
    """The model to learn from besides; None: from the labels alone."""
    devices: Devices = ONE
    """What it runs on."""

    @property
    def built(self) -> Built:
        """The model that comes out."""
        return self.sized[self.spec.image.size[0], self.spec.image.size[1]].built

    def at(self, index: int) -> Sized:
        """The model of a stage, by its number, and the spec at its size."""
        return self.sized[size_of(self.spec.fit.stages[index], self.spec)]

    def enter(self, index: int) -> Sized:
        """The model of a stage, with what trains in it trainable, and nothing else."""
        sized = self.at(index)
        stages.put(self.as_built[size_of(self.spec.fit.stages[index], self.spec)])
        for stage in self.spec.fit.stages[: index + 1]:
            stages.enter(stage, sized.built)
        return sized

    @property
    def batch_size(self) -> int:
        """Pictures per step, which is a number by now."""
        size = self.spec.fit.batch_size
        if not isinstance(size, int):
            raise CallError(f"fit.batch_size: expected a number, got {size!r}")
        return size

    @property
    def held_out(self) -> Part | None:
        """The part that judges."""
        return next((part for part in ("test", "validation") if part in self.parts), None)


def load_for(
    ref: Reference, data: Data, edits: Mapping[str, Any] | None, params: dict[str, Any]
) -> tuple[Spec, Source]:
    """The spec, with the data's number of classes, and the data."""
    draft = load(ref, set=edits, partial=True, **params)
    source = open_source(data, draft.task)
    found = {}
    if "num_classes" in draft.params:
        given = draft.params["num_classes"] if "num_classes" in draft.given else len(source.classes)
        if given != len(source.classes):
            raise CallError(f"num_classes={given}, and the data has {len(source.classes)} classes; leave it out")
        found = {"num_classes": given}
    if found == {name: draft.params[name] for name in found} and UNKNOWN not in draft.params.values():
        return draft, source
    # What a search could choose was checked with the draft.
    return load_again(draft, params=found, other_options=False), source


def make_models(
    spec: Spec, weights: Any, limits: Mapping[str, int] | None, devices: Devices = ONE
) -> Mapping[Size, Sized]:
    """The models of a spec, by the size of their pictures, as the seed has them."""
    keras.utils.set_random_seed(spec.fit.seed)
    with _dtype_policy(spec.fit.precision), devices.scope():
        built = construct(spec, weights=weights, limits=limits)
        return models_by_size(spec, built, limits)


def assemble(
    spec: Spec, source: Source, parts: Parts, sized: Mapping[Size, Sized], cache: Any, devices: Devices = ONE
) -> Experiment:
    """The experiment; SpecError or DataError where its parts do not go together."""
    built = sized[spec.image.size[0], spec.image.size[1]].built
    train = parts["train"]
    weighed = label_weights(spec, source, train)
    with devices.scope():  # metrics have variables
        objective = make_objective(spec, built.model, len(source.classes), weighed, source.soft)
    stages.check_stages(spec, built, "validation" in parts)
    weights = picture_weights(spec, source, train)
    as_built = {size: stages.trainable(one.built.model) for size, one in sized.items()}
    kept = cache if isinstance(cache, Cache) else Cache(cache)
    teacher = open_teacher(spec, built.model, source.classes)
    experiment = Experiment(spec, source, parts, sized, objective, weights, kept, as_built, teacher, devices)
    wanted = spec.fit.features
    frozen = (split_frozen(experiment.enter(index).built.model) for index in range(len(spec.fit.stages)))
    if wanted in ("cached", "fresh") and not any(frozen):
        message = f'"{wanted}" cannot be had: in no stage is a part frozen that comes before the first that trains'
        raise SpecError([Fault(spec.file, "fit.features", message)])
    return experiment


def check_model(spec: Spec, source: Source, sized: Mapping[Size, Sized]) -> None:
    """SpecError where the model's output, its loss or its metrics cannot be for these classes."""
    model = sized[spec.image.size[0], spec.image.size[1]].built.model
    check_outputs(model, spec, source.classes)
    make_objective(spec, model, len(source.classes), soft=source.soft)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
