"""Prepare an experiment from a spec and data, checked before the first epoch.

`prepare` serves `train`, `resume`, `find_learning_rate`, `dataset`, the trials of a search and `HyperSpec`: it
loads the spec, opens the data, chooses what is "auto", builds and checks the models, checks the images, splits them and
makes the loss. A caller that has some of it already (the split of an earlier run, the model of a tuner) passes it in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import keras
import numpy as np

from kerasimg import log
from kerasimg.catalog import RECIPES, Reference, load, own_weights
from kerasimg.data.cache import Cache
from kerasimg.data.image_files import NO_HEIC
from kerasimg.data.items import Part
from kerasimg.data.readable import OnBadImage, require_readable
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, open_source
from kerasimg.errors import CallError, Fault, SpecError, counted, listed
from kerasimg.models.build import Built, construct
from kerasimg.models.classifier import check_outputs
from kerasimg.models.graph import AS_THE_SPEC_SAYS, Graph
from kerasimg.models.split_model import split_frozen
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.load import Spec, load_again
from kerasimg.training import stages
from kerasimg.training.auto_settings import (
    Choices,
    batch_size_of,
    dtype_policy,
    precision_of,
    steps_of_epoch,
    train_images,
)
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.devices import ONE, Devices, devices_for
from kerasimg.training.distillation import check_teacher_place, locate_teacher, open_teacher
from kerasimg.training.features import wants_features
from kerasimg.training.objective import Objective, image_weights, label_weights, make_objective
from kerasimg.training.quantization_aware import check_quantization_aware
from kerasimg.training.splits import Parts, seed_of, split_images
from kerasimg.training.stages import Size, size_of


class Sized(NamedTuple):
    """The model for one image size, and the spec with that size."""

    spec: Spec
    built: Built


Models = Mapping[Size, Sized]
"""(height, width) -> the model of that size, for each size of a stage."""

LEAST_STEPS = 300
"""Least number of optimizer steps of a recipe: with few images, the epochs of the recipe have too few steps."""
MOST_EPOCHS = 100
"""Largest number of epochs to which those of a recipe are raised."""


@dataclass(frozen=True)
class Experiment:
    """A spec, images, and the models to train on them."""

    spec: Spec
    source: Source
    parts: Parts
    """Indices of the images of each part."""
    sized: Models
    """The model, for each image size that a stage has."""
    objective: Objective
    weights: np.ndarray | None
    """The weight of each image of the train part; None: all are 1."""
    cache: Cache
    """The cache of decoded images, for all stages."""
    as_built: Mapping[Size, stages.Trainable]
    """Which layers are trainable as built, before any stage changes that."""
    teacher: Any = None
    """The teacher model for distillation; None: there is none."""
    devices: Devices = ONE
    """The devices of the training."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Choices and measurements for the record of a run: "tried", "teacher"."""
    deadline: Deadline = NEVER
    """When the training ends with what it has reached."""

    @property
    def built(self) -> Built:
        """The resulting model, which has the image size of the spec."""
        return self.sized[self.spec.image.size[0], self.spec.image.size[1]].built

    def at(self, index: int) -> Sized:
        """Returns the model of a stage, by its index, and the spec with its image size."""
        return self.sized[size_of(self.spec.fit.stages[index], self.spec)]

    def enter(self, index: int) -> Sized:
        """Returns the model of a stage, and sets which of its layers are trainable."""
        sized = self.at(index)
        stages.restore_trainable(self.as_built[size_of(self.spec.fit.stages[index], self.spec)])
        for stage in self.spec.fit.stages[: index + 1]:
            stages.enter(stage, sized.built)
        return sized

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return batch_size_of(self.spec)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.parts["train"]) // self.batch_size)

    @property
    def held_out(self) -> Part | None:
        """The part to evaluate on."""
        return next((part for part in ("test", "validation") if part in self.parts), None)


def prepare(
    ref: Reference,
    data: Data | Source,
    *,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage | None = "fail",
    cache: Any = "auto",
    parts: Parts | None = None,
    choices: Choices | None = None,
    make: Callable[[Spec], Models] | None = None,
    distribute: bool = True,
    deadline: Deadline = NEVER,
) -> Experiment:
    """Returns a checked experiment, ready to train; SpecError, DataError or WeightsError if something is wrong.

    ref, params, weights, limits, cache: as for `train`; overrides: edits of the spec, by path.
    data: the images, or a source that is open already; then `ref` is a loaded spec, with its number of classes.
    on_bad_image: "fail" or "skip"; None: the images were checked before.
    parts: the indices of each part; None: as the spec splits the images.
    choices: what earlier probes chose.  make: makes the models of a spec.  None: new ones.
    distribute: whether the training may run on several devices.
    deadline: when the training ends; OutOfTime if the images are still being checked then.
    """
    weights = weights_of(ref, weights)
    if isinstance(data, Source) and isinstance(ref, Spec):
        spec, source = ref, data  # the caller that loaded the spec has checked the place of its teacher
    else:
        spec, source = load_and_report(ref, data, overrides, params)
    spec, teacher = locate_teacher(spec)
    spec, tried = (choices or Choices(limits)).settle(spec, source)
    devices = devices_for(spec) if distribute else ONE
    sized = make(spec) if make else make_models(spec, weights, limits, devices)
    check_model(spec, source, sized)
    image_cache = cache if isinstance(cache, Cache) else Cache(cache)
    if on_bad_image is not None:
        first = sized[size_of(spec.fit.stages[0], spec)].spec
        source = check_images(source, first, on_bad_image, image_cache, deadline)
    notes = teacher | ({"tried": tried} if tried else {})
    experiment = _assemble(spec, source, parts or split_images(spec, source), sized, image_cache, devices, notes)
    return replace(experiment, deadline=deadline)


def weights_of(ref: Reference, weights: Any) -> Any:
    """Returns the argument `weights`, or the pack that `ref` names if the choice is left to the spec."""
    return (own_weights(ref) or weights) if weights == AS_THE_SPEC_SAYS else weights


def load_and_report(
    ref: Reference, data: Data, overrides: Mapping[str, Any] | None, params: Mapping[str, Any] | None
) -> tuple[Spec, Source]:
    """As `load_for`, of a spec to train; reports what the data is, and the warnings of the spec."""
    spec, source = load_for(ref, data, overrides, params)
    check_teacher_place(spec)
    log.once(source.describe())
    for note in spec.warnings:
        log.warning(str(note))
    return spec, source


def load_for(
    ref: Reference, data: Data, overrides: Mapping[str, Any] | None, params: Mapping[str, Any] | None
) -> tuple[Spec, Source]:
    """Returns the spec, with the number of classes of the data, and the data."""
    draft = load(ref, overrides=overrides, partial=True, **(params or {}))
    source = open_source(data, draft.task, positive=draft.positive_class)
    params = _epochs_for_few_images(draft, source)
    if "num_classes" in draft.params:
        given = draft.params["num_classes"] if "num_classes" in draft.given else len(source.classes)
        if given != len(source.classes):
            raise CallError(
                f"num_classes={given}, and the data has {counted(len(source.classes), 'class')}; leave it out"
            )
        params["num_classes"] = given
    if params == {name: draft.params[name] for name in params} and UNKNOWN not in draft.params.values():
        return draft, source
    # The other options of search values were checked with the draft.
    return load_again(draft, params=params, other_options=False), source


def _epochs_for_few_images(draft: Spec, source: Source) -> dict[str, Any]:
    """Returns params that raise a zoo recipe's epochs to LEAST_STEPS steps with few images, to MOST_EPOCHS at most.

    Only epochs that are left to the recipe are raised, all by one factor; if the caller or a derived spec sets the
    epochs of any stage, nothing is raised.
    """
    stages_written = draft.document.get("fit", {}).get("stages", ())
    names = [str(stage.get("epochs")).removeprefix("=") for stage in stages_written]
    usual = {
        name: value
        for name in names
        if isinstance(value := draft.params.get(name), int)
        and name not in draft.given
        and draft.origins.of(("params", name)).startswith(f"zoo/{RECIPES}/")
    }
    if not usual or len(usual) < len({*names}):
        return {}
    images = train_images(source, draft)
    about = "" if (source.parts == 0).any() else "about "
    steps = steps_of_epoch(draft, images)
    before = sum(usual[name] for name in names)
    after = min(MOST_EPOCHS, -(-LEAST_STEPS // steps))
    if after <= before:
        return {}
    log.once(
        f"epochs: {after} instead of the recipe's {before}, since {about}{counted(images, 'training image', 'are')} "
        f"only {counted(steps, 'step')} per epoch; train and tune take another number: "
        + " ".join(f"--set {name}=N" for name in usual)
        + f" (in Python {', '.join(f'{name}=N' for name in usual)})"
    )
    return {name: -(-value * after // before) for name, value in usual.items()}


def check_images(
    source: Source, spec: Spec, on_bad_image: OnBadImage, cache: Cache, deadline: Deadline = NEVER
) -> Source:
    """Returns the source after checking that every image is readable; unreadable images are skipped or a DataError."""

    def progress(done: int, of: int) -> None:
        log.info(f"checked {done:,} of {counted(of, 'image')}")
        deadline.check("the images were checked")

    checked = require_readable(
        source,
        on_bad_image,
        progress=progress,
        image=spec.image,
        cache=cache,
    )
    if checked.skipped:
        bad = checked.skipped
        line = f"{counted(len(bad), 'unreadable image')} left out: {listed((each.id for each in bad), 5)}"
        missing = sum(each.reason == NO_HEIC for each in bad)
        log.once(f'{line}; {missing:,} of them HEIC: pip install "kerasimg[heic]"' if missing else line)
    return checked


class Seeder:
    """Seeds all random numbers, as keras.utils.set_random_seed does.

    For a seed that was set before, TensorFlow's own generator, which no Keras layer uses, is not seeded: seeding it
    makes TensorFlow compile every graph again.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def __call__(self, seed: int) -> None:
        """Seed with this number."""
        if self._last != seed:
            keras.utils.set_random_seed(seed)
            self._last = seed
        random.seed(seed)
        np.random.seed(seed)


def make_models(
    spec: Spec,
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    devices: Devices = ONE,
    *,
    visitor: type[Graph] = Graph,
    seed: Callable[[int], None] = keras.utils.set_random_seed,
) -> Models:
    """Returns the models of a spec by image size, initialized with its seed; SpecError if the weights' shapes differ.

    visitor: builds their layers.  seed: seeds the random numbers.
    """
    seed(seed_of(spec))
    with dtype_policy(precision_of(spec)), devices.scope():
        built = construct(spec, weights=weights, limits=limits, visitor=visitor)
        own = (spec.image.size[0], spec.image.size[1])
        made = {own: Sized(spec, built)}
        for index, stage in enumerate(spec.fit.stages):
            size = size_of(stage, spec)
            if size in made:
                continue
            resized = load(spec, overrides={"image.size": list(size)})
            other = construct(resized, weights=None, limits=limits)
            if _shapes(other) != _shapes(built):
                message = (
                    f"at {size[0]}x{size[1]} the weights of the model have other shapes than at {own[0]}x{own[1]}; "
                    "progressive resizing needs a model that pools before its dense layers"
                )
                raise SpecError([Fault(spec.file, f"fit.stages[{index}].size", message)])
            made[size] = Sized(resized, other)
    return made


LEAST_PRETRAINED_PX = 32
"""The stride of the usual backbones: smaller images end as one place of the last map, most of it padding."""


def check_model(spec: Spec, source: Source, sized: Models) -> None:
    """SpecError if the model's output, its loss or its metrics do not match these classes."""
    sides = [min(size) for size in sized]
    if min(sides) < LEAST_PRETRAINED_PX and any(
        node.kind == "backbone" and node.arguments.get("weights") is not None for node in spec.nodes
    ):
        log.warning(
            f"{spec.file}: image.size: at {min(sides)} px the pretrained backbone sees next to nothing; "
            f"set it to {LEAST_PRETRAINED_PX} or more (--size), or train recipes/from_scratch"
        )
    model = sized[spec.image.size[0], spec.image.size[1]].built.model
    check_outputs(model, spec, source.classes)
    make_objective(spec, model, len(source.classes), soft=source.soft)


def _assemble(
    spec: Spec,
    source: Source,
    parts: Parts,
    sized: Models,
    cache: Cache,
    devices: Devices,
    notes: Mapping[str, Any],
) -> Experiment:
    """Returns the experiment; SpecError or DataError if its parts are not compatible."""
    built = sized[spec.image.size[0], spec.image.size[1]].built
    train = parts["train"]
    weighed = label_weights(spec, source, train)
    with devices.scope():  # metrics have variables
        objective = make_objective(spec, built.model, len(source.classes), weighed, source.soft)
    stages.check_stages(spec, built, "validation" in parts)
    weights = image_weights(spec, source, train)
    as_built = {size: stages.trainable(entry.built.model) for size, entry in sized.items()}
    check_quantization_aware(spec)
    teacher = open_teacher(spec, built.model, source.classes)
    experiment = Experiment(
        spec, source, parts, sized, objective, weights, cache, as_built, teacher, devices, dict(notes)
    )
    frozen = (split_frozen(experiment.enter(index).built.model) for index in range(len(spec.fit.stages)))
    if (wanted := wants_features(spec)) is not None and not any(frozen):
        message = f'"{wanted}" cannot be had: in no stage is a part frozen that comes before the first that trains'
        raise SpecError([Fault(spec.file, "fit.features", message)])
    return experiment


def _shapes(built: Built) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in built.model.weights]
