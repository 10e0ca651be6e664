"""`kerasimg.dataset`: the batches of a spec, for a training loop of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasimg.catalog import Reference, load_with, merged_params
from kerasimg.data.augment import compile_augment
from kerasimg.data.cache import CacheKind
from kerasimg.data.items import PARTS, Part
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, nearest
from kerasimg.training.auto_settings import batch_size_of
from kerasimg.training.prepare import prepare
from kerasimg.training.splits import seed_of

IRRELEVANT = {"fit.precision": "float32", "compile.jit_compile": False}
"""What a probe would choose, and the batches do not depend on."""


def dataset(
    spec: Reference,
    data: Data,
    part: Part = "train",
    *,
    cache: CacheKind = "auto",
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **more_params: Any,
) -> Any:
    """The batches that `model.fit` takes, for a training loop of your own.

    Images are split, decoded, resized and, in the train part, shuffled and augmented as the spec says; labels have the
    form that the spec's loss takes, and samples are weighted as `fit.class_weight` says.

    Args:
        spec: a zoo name, the path of a spec, a dict, or a loaded spec.
        data: labelled images, as for `kerasimg.train`.
        part: "train", "validation" or "test".
        cache: where decoded images are cached: "auto", "memory", "disk" or "off".
        overrides: edits by path.
        params: values of the spec's params.
        **more_params: values of the spec's params, as keywords.

    Returns:
        Batches of `(images, labels)` or `(images, labels, weights)`, one epoch, images float32 of 0-255: a
        `tf.data.Dataset` on TensorFlow, a `keras.utils.PyDataset` on JAX and PyTorch.

    Raises:
        SpecError: if the spec is wrong.
        DataError: if the data cannot be read.
        CallError: if the data has no such part.

    Example:
        >>> images, labels = next(iter(kerasimg.dataset("photos.json", "photos/")))
        >>> tuple(images.shape), tuple(labels.shape)
        ((8, 8, 8, 3), (8,))
    """
    options: dict[str, Any] = {"params": merged_params(params, more_params), "edits": overrides, "partial": True}
    loaded = load_with(spec, **options)
    if part not in tuple(PARTS):
        raise CallError(f"no part '{part}'{nearest(part, PARTS)} (parts: train, validation, test)")
    batch_size = batch_size_of(loaded)
    experiment = prepare(
        loaded, data, overrides=IRRELEVANT, weights=None, on_bad_image=None, cache=cache, distribute=False
    )
    loaded, parts = experiment.spec, experiment.parts
    if PARTS[part] not in parts:
        raise CallError(f"the data in {experiment.source.where} has no {part} part (it has: {', '.join(parts)})")
    train = part == "train"
    return batches(
        experiment.source,
        parts[PARTS[part]],
        loaded.image,
        batch_size=batch_size,
        shuffle=train,
        seed=seed_of(loaded),
        augment=compile_augment(loaded.augment, loaded.image, seed_of(loaded)) if train else None,
        targets=experiment.objective.targets,
        sample_weight=experiment.weights if train else None,
        cache=cache,
        exact=not train,
    )
