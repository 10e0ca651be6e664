"""`kerasimg.train`: spec and pictures in, a trained and judged run out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from kerasimg.catalog import Reference, load
from kerasimg.data.augment import make_augment
from kerasimg.data.check import OnBadImage, require_sound
from kerasimg.data.items import Part
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import Data, Source, open_source
from kerasimg.data.split import record, split
from kerasimg.errors import CallError, KerasimgError
from kerasimg.evaluation.evaluate import judge
from kerasimg.models.build import construct
from kerasimg.models.classifier import MODEL_FILE, Classifier, check_outputs
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.models.objects import make, make_layer
from kerasimg.spec.load import Spec
from kerasimg.training import stages
from kerasimg.training.history import History
from kerasimg.training.objective import Objective, make_objective, make_optimizer
from kerasimg.training.run import Run
from kerasimg.training.sizes import Size, Sized, models_by_size, size_of

Say = Callable[[str], None]
Parts = Mapping[Part, np.ndarray]


def train(
    ref: Reference,
    *,
    data: Data,
    out: str | os.PathLike[str] = "runs",
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    set: Mapping[str, Any] | None = None,
    verbose: int | str = "auto",
    say: Say = print,
    **params: Any,
) -> Run:
    """Train the classifier of a spec, judge it on held-out pictures, and keep all of it in a new folder.

    ref: a zoo name, the path of a spec, a dict, or a loaded spec.  params, set: its params, and edits by path.
    data: a folder with a folder per class, a manifest (.csv, .jsonl), an .npz, (images, labels), or "sample".
    out: the folder in which the run gets its own, `<name>-<k>`.
    weights, limits: as for `build`.
    on_bad_image: "fail" names every unreadable picture before the first epoch; "skip" leaves them out.
    verbose: as for `keras.Model.fit`.  say: told in one line what is going on.

    Raises SpecError, DataError, WeightsError or CallError before the first epoch; KerasimgError when the loss is no
    number any more.
    """
    spec, source = _spec_for(ref, data, set, params)
    keras.utils.set_random_seed(spec.fit.seed)
    with _dtype_policy(spec.fit.precision):
        built = construct(spec, weights=weights, limits=limits)
        sized = models_by_size(spec, built, limits)
    check_outputs(built.model, spec, source.classes)
    objective = make_objective(spec, built.model, len(source.classes))
    say(source.describe())
    source = require_sound(source, on_bad_image, progress=lambda done, of: say(f"checked {done:,} of {of:,} pictures"))
    parts = split(source, spec.fit.validation_split, spec.fit.test_split, spec.fit.seed)
    stages.check_stages(spec, built, "validation" in parts)
    class_weight = _class_weight(spec, source, parts["train"])
    run = Run.create(out, spec.name)
    run.write_start(spec, source.classes, _located(record(source, parts), data))
    say(f"training {', '.join(f'{part} {len(indices):,}' for part, indices in parts.items())} -> {run.folder}")
    _fit(spec, sized, objective, source, parts, class_weight, run, verbose, say)
    classifier = Classifier(built.model, spec, source.classes, run.folder)
    classifier.save(run.folder / MODEL_FILE)
    held_out: Part | None = next((part for part in ("test", "validation") if part in parts), None)
    if held_out is not None:
        judge(classifier, source, parts[held_out], run.folder / "evaluation", part=held_out)
    return run


def _spec_for(
    ref: Reference, data: Data, edits: Mapping[str, Any] | None, params: dict[str, Any]
) -> tuple[Spec, Source]:
    """The spec, with the data's number of classes, and the data."""
    draft = load(ref, set=edits, partial=True, **params)
    source = open_source(data, draft.task)
    if "num_classes" in draft.params:
        given = params.setdefault("num_classes", len(source.classes))
        if given != len(source.classes):
            raise CallError(f"num_classes={given}, and the data has {len(source.classes)} classes; leave it out")
    return load(ref, set=edits, **params), source


def _located(data: dict[str, Any], given: Data) -> dict[str, Any]:
    """The record of the data, with a path that holds from any folder."""
    if isinstance(given, (str, os.PathLike)) and given != "sample":
        return {**data, "where": os.path.abspath(given)}
    return data


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _fit(
    spec: Spec,
    sized: Mapping[Size, Sized],
    objective: Objective,
    source: Source,
    parts: Parts,
    class_weight: dict[int, float] | None,
    run: Run,
    verbose: int | str,
    say: Say,
) -> None:
    history = History(run.folder / "history.csv")
    checkpoints = run.folder / "checkpoints"
    checkpoints.mkdir()
    datasets = {size: _datasets(one.spec, source, parts, objective) for size, one in sized.items()}
    last = built = sized[spec.image.size[0], spec.image.size[1]].built
    epoch = 0
    for index, stage in enumerate(spec.fit.stages):
        size = size_of(stage, spec)
        before, built = built, sized[size].built
        if built is not before:
            built.model.set_weights(before.model.get_weights())
            for earlier in spec.fit.stages[:index]:
                stages.enter(earlier, built)
        stages.enter(stage, built)
        train_batches, validation_batches = datasets[size]
        built.model.compile(
            optimizer=make_optimizer(spec, stage.learning_rate),
            loss=objective.loss,
            metrics=objective.metrics,
            steps_per_execution=spec.compile.steps_per_execution,
            jit_compile=spec.compile.jit_compile,
        )
        say(f"stage {index + 1} of {len(spec.fit.stages)}: {stages.describe(built.model)}")
        history.stage = index
        callbacks = [history, keras.callbacks.TerminateOnNaN(), *(make("callbacks", one) for one in spec.fit.callbacks)]
        if stage.early_stopping:
            callbacks.append(stages.early_stopping(stage.early_stopping))
        fitted = built.model.fit(
            train_batches,
            validation_data=validation_batches,
            initial_epoch=epoch,
            epochs=epoch + stage.epochs,
            class_weight=class_weight,
            callbacks=callbacks,
            shuffle=False,  # the pipeline does it
            verbose=verbose,
        )
        if history.diverged:
            raise KerasimgError(
                f"the loss is no number any more (stage {index + 1}, epoch {epoch + len(fitted.epoch)}); "
                f"try a lower learning rate. What there is stands in {run.folder}"
            )
        epoch += len(fitted.epoch)
        built.model.save_weights(checkpoints / f"stage-{index + 1}.weights.h5")
    if built is not last:
        last.model.set_weights(built.model.get_weights())


def _datasets(spec: Spec, source: Source, parts: Parts, objective: Objective) -> tuple[Any, Any]:
    """Batches to train on, shuffled and augmented, and to validate by; None where there is no such part."""
    layers = [
        make_layer(name, _seeded(name, arguments, spec, index)) for index, (name, arguments) in enumerate(spec.augment)
    ]
    common: dict[str, Any] = {"batch_size": spec.fit.batch_size, "targets": objective.targets}
    augment = make_augment(layers) if layers else None
    training = batches(source, parts["train"], spec.image, shuffle=True, seed=spec.fit.seed, augment=augment, **common)
    if "validation" not in parts:
        return training, None
    return training, batches(source, parts["validation"], spec.image, **common)


def _seeded(name: str, arguments: Mapping[str, Any], spec: Spec, index: int) -> dict[str, Any]:
    """An augmentation layer's arguments with the run's seed and the pipeline's range of pixels, where it takes them."""
    from kerasimg.spec.arguments import entry

    takes = (entry("layers", name) or {"args": {}})["args"]
    defaults = {"seed": spec.fit.seed * 1000 + index, "value_range": [0, 255]}
    return {**{key: value for key, value in defaults.items() if key in takes}, **arguments}


def _class_weight(spec: Spec, source: Source, indices: np.ndarray) -> dict[int, float] | None:
    """Class number -> n / (classes * n of the class), or its square root."""
    if spec.fit.class_weight == "none":
        return None
    if spec.task == "multilabel":
        raise CallError('fit.class_weight: a picture with several labels has no class to weigh by; leave it "none"')
    counts = np.bincount(source.label_ids(indices), minlength=len(source.classes))
    weights = len(indices) / (len(counts) * np.maximum(counts, 1))
    if spec.fit.class_weight == "sqrt":
        weights = np.sqrt(weights)
    return {number: float(weight) for number, weight in enumerate(weights)}
