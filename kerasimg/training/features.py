"""How the frozen part of a model is computed during training: once, in every epoch, or as any other layer.

- cached: the features of each image, or of `views` augmented views of it, are computed once and stored on disk; the
  rest of the model trains on them.
- fresh: images are augmented in every epoch and pass the frozen part, an inference engine, in the input pipeline; the
  gradient runs through the rest alone.
- off: the whole model trains on images.

The rest consists of the model's own layers, so no weights have to be copied back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np

from kerasimg.data.augment import Augmentation, compile_augment
from kerasimg.data.batches import labels_for
from kerasimg.data.cache import about_pixels, memory_room, open_cache
from kerasimg.data.items import Part, evenly_spaced
from kerasimg.data.loading import Loader
from kerasimg.data.pipeline import Targets, batches, feed, map_batches, numbers
from kerasimg.data.shuffling import Order, Shard, steps
from kerasimg.data.source import Source
from kerasimg.errors import CallError
from kerasimg.evaluation.evaluate import Chosen
from kerasimg.evaluation.known import Passes, own_passes
from kerasimg.models.classifier import Classifier, Values
from kerasimg.models.compiled_predict import has_gpu, in_batches, outputs_of
from kerasimg.models.flat_graph import flatten
from kerasimg.models.inference import TRIAL_FROM, Engine, Precision, engine, engine_of_record, reference, settle
from kerasimg.models.known import outputs_and_features
from kerasimg.models.split_model import Split, digest, split_frozen
from kerasimg.remembered import circumstances, recall, remember
from kerasimg.spec.document import Image
from kerasimg.spec.load import Spec
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.feature_rows import (
    BATCH,
    Exact,
    FeatureBatches,
    Recipe,
    Rows,
    Stored,
    rows_of,
    rows_of_pixels,
    stored_as,
)

Mode = Literal["off", "cached", "fresh"]
Wanted = Literal["auto", "off", "cached", "fresh"]
WORTH = 0.1
"""Least share of the frozen part in the work of a training step for `auto` to split the model."""
LARGEST_SEAM = 4.0
"""Largest size of features on disk, in sizes of the image, for `auto` to cache them."""
CHECKED = 16
"""Images on which the split model is compared with the whole one."""
STEPS_PER_EXECUTION = 50
PASSES = "_kerasimg_passes"
"""The attribute of a model that hands its engine, and its exact pass, on to `passes_by_features`; it is not saved."""
PREFETCH = 64
"""Batches of features to prefetch: they are small, and a step is short."""


@dataclass(frozen=True, eq=False)
class StageData:
    """The images of a stage, and how they become batches."""

    source: Source
    parts: Mapping[Part, np.ndarray]
    """Indices into the source; "train", and maybe "validation"."""
    image: Image
    augment: Sequence[Any] = ()
    """The spec's augmentation layers."""
    seed: int = 0
    batch_size: int = 32
    epochs: int = 1
    """Of the stage."""
    targets: Targets = "sparse"
    sample_weight: np.ndarray | None = None
    """One per training image, float32."""
    cache: Any = "auto"
    deadline: Deadline = NEVER
    """When computing features ends with OutOfTime; those so far are stored."""

    @cached_property
    def augmentation(self) -> Augmentation | None:
        """`augment`, compiled."""
        return compile_augment(self.augment, self.image, self.seed)

    def images(self, part: Part, **options: Any) -> Any:
        """Returns batches of images of a part, not augmented."""
        common = {"batch_size": self.batch_size, "targets": self.targets, "cache": self.cache, "exact": False}
        return batches(self.source, self.parts[part], self.image, **{**common, **options})

    def training_images(self, **options: Any) -> Any:
        """Returns batches to train on: shuffled, augmented, weighted."""
        settings = {"augment": self.augmentation, "sample_weight": self.sample_weight, "seed": self.seed}
        return self.images("train", shuffle=True, **settings, **options)


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """How a stage is trained."""

    mode: Mode
    line: str
    """The choice and its reason, for the log."""
    model: keras.Model
    """The model to compile and fit: the rest, made of the model's own layers, or the whole model."""
    data: StageData
    engine: Engine | None = None
    rows: Mapping[Part, Rows] = field(default_factory=dict)
    """Features in memory."""

    def train(
        self,
        first_epoch: int = 0,
        epochs: int | None = 1,
        first_step: int = 0,
        shard: Shard = (0, 1),
        drop_remainder: bool = False,
    ) -> Any:
        """Returns batches to train `model` on; the arguments are those of `batches`."""
        place: dict[str, Any] = {"first_epoch": first_epoch, "epochs": epochs, "first_step": first_step}
        if "train" not in self.rows:
            images = self.data.training_images(**place, shard=shard, drop_remainder=drop_remainder)
            return self._through_engine(images)
        data = self.data
        order = Order(len(data.parts["train"]), data.batch_size, True, data.seed, drop_remainder, shard)
        return self._features("train", order, *numbers(order, **place), data.sample_weight)

    def validation(self) -> Any:
        """Returns batches to validate `model` on; None without a validation part."""
        if "validation" not in self.data.parts:
            return None
        if "validation" not in self.rows:
            return self._through_engine(self.data.images("validation"))
        order = Order(len(self.data.parts["validation"]), self.data.batch_size)
        return self._features("validation", order, 0, order.steps, None)

    @property
    def steps_per_execution(self) -> int | None:
        """The largest number of steps per execution; None: no limit."""
        if self.mode == "off":
            return None
        if "train" not in self.rows:
            return 1  # a step is as long as the frozen part takes
        return min(STEPS_PER_EXECUTION, steps(len(self.data.parts["train"]), self.data.batch_size))

    @property
    def figures(self) -> dict[str, Any]:
        """Facts for the record of the run; a resumed run needs `precision` again."""
        figures: dict[str, Any] = {"line": self.line}
        if self.engine is not None:
            figures |= {"precision": self.engine.form, "engine": self.engine.figures}
        for part, rows in self.rows.items():
            figures[f"{part}_features"] = {
                "rows": len(rows.parts[0]),
                "found": rows.reused,
                "computed": rows.computed,
                "seconds": round(rows.seconds, 3),
                "bytes": rows.nbytes,
                "stored": str(rows.parts[0].dtype),
                "on_disk": rows.on_disk,
            }
        return figures

    def _features(self, part: Part, order: Order, first: int, end: int | None, weights: np.ndarray | None) -> Any:
        """Returns batches of the features of a part."""
        data = self.data
        labels = labels_for(data.source, data.parts[part], data.targets)
        features = FeatureBatches(self.rows[part], labels, len(data.source.classes), order, data.targets, weights)
        return feed(features, first, end, features.finish, PREFETCH)

    def _through_engine(self, images: Any) -> Any:
        """Batches of images as batches of what `model` takes."""
        run = self.engine
        if run is None:
            return images

        def features(x: Any, *others: Any) -> tuple[Any, ...]:
            tensors = tuple(run(x))
            return (tensors if len(tensors) > 1 else tensors[0], *others)

        return map_batches(images, features)


class Settings(NamedTuple):
    """The settings of a spec for features."""

    mode: Wanted
    views: int | None


def settings_of(spec: Spec) -> Settings:
    """Returns the settings of a spec for features."""
    return Settings(spec.fit.features, spec.fit.views)


def has_features(spec: Spec) -> bool:
    """Whether the frozen part of a model may be computed apart from the training."""
    return settings_of(spec).mode != "off"


def wants_features(spec: Spec) -> str | None:
    """Returns "cached" or "fresh" if a spec requires it; None if it leaves the choice or says "off"."""
    mode = settings_of(spec).mode
    return mode if mode in ("cached", "fresh") else None


class No(NamedTuple):
    """Why something is not done."""

    reason: str


def plan_features(
    model: keras.Model,
    data: StageData,
    *,
    mode: Wanted = "auto",
    views: int | None = None,
    precision: Precision = "auto",
) -> FeaturePlan:
    """Decide how a stage's frozen part is computed, and compute features that are cached.

    model: with `trainable` set for the stage.
    views: number of augmented views of each image, used in turn; None: new ones in every epoch.
    precision: see `models.inference.settle`.
    CallError if the requested mode is not possible; `auto` chooses another one and logs why.
    """
    if mode not in get_args(Wanted):
        raise CallError(f"fit.features: expected one of {', '.join(get_args(Wanted))}, got '{mode}'")
    turns = min(views or 1, data.epochs) if data.augmentation else 1
    if mode == "off":
        return FeaturePlan("off", "", model, data)
    split = _worth_it(model, mode)
    if isinstance(split, No):
        return _off(model, data, mode, split)
    chosen = _chosen(mode, data, split, views, turns)
    if isinstance(chosen, No):
        return _off(model, data, mode, chosen)
    exact = Exact(split)
    try:
        engine, stored = _checked_engine(model, exact, data, chosen, turns, precision)
    except CallError as error:
        return _off(model, data, mode, No(str(error)))
    if chosen == "fresh" and (reason := _no_use(engine, mode)):
        return _off(model, data, mode, reason)
    rows = _rows(data, engine, chosen, turns, stored)
    setattr(model, PASSES, (engine, exact))
    return FeaturePlan(chosen, _line(chosen, engine, rows, data, turns), split.rest, data, engine, rows)


def passes_by_features(classifier: Classifier, notes: Mapping[str, Any], cache: Any) -> Passes | None:
    """Returns how a trained classifier is asked by the features of its frozen part; None if that was not apart.

    These features are read from the cache, else computed and stored there; of the images as they are, not augmented.

    notes: of the last stage of the training.
    """
    made, frozen = classifier.model.__dict__.pop(PASSES, (None, None))
    if notes.get("features") not in ("cached", "fresh") or classifier.head is None:
        return None
    image = classifier.spec.image
    split = split_frozen(outputs_and_features(classifier.model))
    if split is None or len(split.shapes) != 1 or not _is_small(split, image):
        return None
    if frozen is None or frozen.split.digest != split.digest:
        made, frozen = None, Exact(split)
    if made is None or made.form != notes["precision"]:
        try:
            made = engine(split, BATCH, notes["precision"])
        except CallError:  # resumed on another machine
            return None
    fast = Recipe(made, image, notes.get("validation_features", {}).get("stored", "float32"))
    rest = outputs_of(split.rest)
    own = own_passes(classifier)
    classifier.use_pass(lambda images, size=0: rest(frozen.run(images, size)[0], size))

    def exact(images: Chosen) -> Values:
        if len(images.indices) * split.elements * 4 > memory_room():
            return own.exact(images)
        recipe, what = Recipe(frozen, image, "float32"), f"{images.part} images"
        [seam] = rows_of(recipe, images.source, images.indices, 1, "off", what).parts
        return Values(*in_batches(rest, seam))

    def draft(images: Chosen | np.ndarray) -> np.ndarray:
        if isinstance(images, Chosen):
            [seam] = rows_of(fast, images.source, images.indices, 1, cache, "images for known.json").parts
        else:
            [seam] = rows_of_pixels(fast, images)
        return in_batches(rest, seam.astype(np.float32))[1]

    return Passes(exact, draft)


def _off(model: keras.Model, data: StageData, mode: Wanted, no: No) -> FeaturePlan:
    if mode != "auto":
        raise CallError(f'fit.features: "{mode}" cannot be had: {no.reason}; write "auto" or "off"')
    return FeaturePlan("off", f"features: off, for {no.reason}", model, data)


def _worth_it(model: keras.Model, mode: Wanted) -> Split | No:
    """Returns the split model, or why it is not split."""
    split = split_frozen(model)
    if split is None:
        return No("no layer with weights is frozen before the first that trains")
    if not all(size is not None for shape in split.shapes for size in shape):
        return No("what comes out of the frozen part has no fixed size")
    frozen, rest = multiplications(split.frozen), multiplications(split.rest)
    share = frozen / max(1, frozen + 3 * rest)  # one pass forward; two back, for the values and the weights
    if mode == "auto" and share < WORTH:
        return No(f"the frozen part is {share:.0%} of the work")
    return split


def multiplications(model: keras.Model) -> int:
    """Estimates the multiplications per image: those of the kernels at each position of the output."""
    total = 0
    for call in flatten(model).calls:
        kernels = sum(
            math.prod(weight.shape) for weight in getattr(call.operation, "weights", ()) if len(weight.shape) > 1
        )
        total += kernels * math.prod(size or 1 for size in call.node.outputs[0].shape[1:-1])
    return total


def _chosen(mode: Wanted, data: StageData, split: Split, views: int | None, turns: int) -> Mode | No:
    """Returns "cached" or "fresh", or why neither is possible."""
    needed = len(data.parts["train"]) * turns * split.elements * 2
    fits = needed <= memory_room()
    blends_weights = data.augmentation is not None and data.augmentation.blends and data.sample_weight is not None
    if mode == "cached":
        if data.augmentation and views is None:
            return No('with augmentation, "cached" needs fit.views, how many views of each image to draw')
        if blends_weights:
            return No('weights of images are blended with their labels in each epoch, which "cached" cannot')
        return "cached" if fits else No(f"the features would take {needed / 1e9:.1f} GB, more than there is memory for")
    small = _is_small(split, data.image)
    if mode == "auto" and (views is not None or not data.augmentation) and fits and small and not blends_weights:
        return "cached"
    if mode == "auto" and has_gpu():
        return No(
            "new views in each epoch pass it on the GPU, within the training step; fit.views has it computed once"
        )
    return "fresh"


def _is_small(split: Split, image: Image) -> bool:
    """Whether features of an image on disk are small enough beside its pixels."""
    return split.elements * 2 <= LARGEST_SEAM * math.prod((*image.size, image.channels))


def _checked_engine(
    model: keras.Model, exact: Exact, data: StageData, chosen: Mode, turns: int, precision: Precision
) -> tuple[Engine, Stored]:
    """Returns the engine, compared with the whole model on some training images, and the type for its features.

    exact: the frozen part as an evaluation runs it.
    What an earlier run found for the same model, images and versions on such a machine is not computed again.
    """
    split, train = exact.split, np.asarray(data.parts["train"])
    some = train[evenly_spaced(len(train), CHECKED)]
    work = len(train) * (turns if chosen == "cached" else data.epochs) + len(data.parts.get("validation", ()))
    about = {
        "result": "the frozen part compared with the whole model",
        "frozen": split.digest,
        "rest": digest(split.rest),
        "images": hashlib.sha256(np.ascontiguousarray(data.source.keys(some)).tobytes()).hexdigest(),
        "pixels": about_pixels(data.image, exact=False),
        "options": [precision, work >= TRIAL_FROM, data.batch_size, data.source.task],
        **circumstances(),
    }
    if (found := recall(about)) is not None:
        return engine_of_record(split, data.batch_size, found["engine"]), found["stored"]
    loader = Loader(data.source, some, data.image, open_cache(data.cache), exact=False)
    images = loader.load(np.arange(len(some))).astype(np.float32)  # not augmented: (N, H, W, C)
    task = data.source.task
    whole = reference(model, split, exact.run, images, task) if len(split.shapes) == 1 else None
    options: dict[str, Any] = {"precision": precision, "work": work, "task": task, "whole": whole}
    made = settle(model, split, images, batch_size=data.batch_size, **options)
    stored = stored_as(made.compute(images))
    remember(about, {"engine": made.record, "stored": stored})
    return made, stored


def _no_use(engine: Engine, mode: Wanted) -> No | None:
    """Returns why an engine cannot run in every epoch, or is not worth it; else None."""
    rates = engine.rates
    if mode == "auto" and engine.form == "plain":
        return No("; ".join(["the frozen part has no faster form here", *engine.said]))
    if mode == "auto" and "plain" in rates and rates[engine.form] < 1.05 * rates["plain"]:
        return No(f"no gain was measured ({rates[engine.form]:,.0f} images/s, Keras {rates['plain']:,.0f})")
    return None


def _rows(data: StageData, engine: Engine, chosen: Mode, turns: int, stored: Stored) -> dict[Part, Rows]:
    rows: dict[Part, Rows] = {}
    plain = Recipe(engine, data.image, stored, targets=data.targets)
    if chosen == "cached":
        recipe = plain
        if data.augmentation is not None:
            recipe = Recipe(
                engine, data.image, stored, data.augment, data.augmentation, data.seed, data.batch_size, data.targets
            )
        rows["train"] = rows_of(
            recipe, data.source, data.parts["train"], turns, data.cache, "training images", data.deadline
        )
    if "validation" in data.parts:
        indices = data.parts["validation"]
        if len(indices) * engine.split.elements * 4 <= memory_room():
            rows["validation"] = rows_of(plain, data.source, indices, 1, data.cache, "validation images", data.deadline)
    return rows


def _line(chosen: Mode, engine: Engine, rows: Mapping[Part, Rows], data: StageData, turns: int) -> str:
    """Returns the choice in one line."""
    computed, reused = (sum(getattr(part, name) for part in rows.values()) for name in ("computed", "reused"))
    seconds = sum(part.seconds for part in rows.values())
    if chosen == "fresh":
        return f"features: fresh in every epoch; {engine.line}"
    what = f"{turns} augmented {'view' if turns == 1 else 'views'} of each image" if data.augmentation else "each image"
    counts = f"{computed:,} computed in {seconds:.1f} s, {reused:,} read from the cache"
    return f"features: cached, computed once for {what} ({counts}); {engine.line}"
