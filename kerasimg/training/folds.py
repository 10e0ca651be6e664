"""`kerasimg.cross_val_predict`: predictions for every image by a model that was not trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from kerasimg import log
from kerasimg.catalog import Reference, merged_params
from kerasimg.data.cache import Cache
from kerasimg.data.readable import OnBadImage
from kerasimg.data.source import Source
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, counted
from kerasimg.evaluation.evaluate import predicted
from kerasimg.evaluation.predictions import Predictions, decide
from kerasimg.log import Verbose
from kerasimg.models.classifier import Classifier
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.spec.load import Spec
from kerasimg.training.auto_settings import Choices
from kerasimg.training.engine import Engine
from kerasimg.training.prepare import check_images, load_and_report, prepare, weights_of
from kerasimg.training.splits import Parts, group_numbers_of, seed_of, split_images
from kerasimg.training.train import with_flips_of_spec

FOLDS = 5


@log.applies_verbose
def cross_val_predict(
    spec: Reference,
    *,
    data: Data,
    folds: int = FOLDS,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    on_bad_image: OnBadImage = "fail",
    verbose: Verbose = 1,
    **more_params: Any,
) -> Predictions:
    """Predict every image by a model that was not trained on it (cross-validation).

    The spec is trained `folds` times; within each fold its validation share is drawn from the training images. The runs
    are not saved.

    Args:
        spec: as for `kerasimg.train`.
        data: as for `kerasimg.train`; a split that the data names is ignored.
        folds: number of folds, 2 or more.
        overrides: edits by path.
        params: values of the spec's params.
        on_bad_image: as for `kerasimg.train`.
        verbose: 0, 1 or 2, as for `kerasimg.train`.
        **more_params: values of the spec's params, as keywords.

    Returns:
        The `Predictions` in the order of the data.

    Raises:
        CallError: if a class has fewer images than there are folds.

    Example:
        >>> predictions = kerasimg.cross_val_predict("photos.json", data="photos/", folds=2, verbose=0)
        >>> predictions.probabilities.shape
        (24, 2)
    """
    if folds < 2:
        raise CallError(f"folds: expected 2 or more, got {folds}")
    loaded, source = load_and_report(spec, data, overrides, merged_params(params, more_params))
    cache = Cache("auto")
    source = check_images(source, loaded, on_bad_image, cache)
    fold_of = _folds(source, folds, seed_of(loaded), group_numbers_of(loaded, source))
    choices = Choices(None)
    p: Any = None
    for fold in range(folds):
        log.info(f"fold {fold + 1} of {folds}")
        parts = _parts(source, fold_of == fold, loaded)
        experiment = prepare(
            loaded,
            source,
            weights=weights_of(spec, AS_THE_SPEC_SAYS),
            on_bad_image=None,
            cache=cache,
            parts=parts,
            choices=choices,
        )
        Engine(experiment, verbose=verbose).train()
        classifier = Classifier(experiment.built.model, experiment.spec, source.classes, None)
        probabilities = predicted(with_flips_of_spec(classifier, experiment), source, parts["test"])
        p = np.zeros((len(source), *probabilities.shape[1:]), probabilities.dtype) if p is None else p
        p[parts["test"]] = probabilities
    ids = [item.id for item in source.items]
    decision, _ = decide(p, loaded.task)
    return Predictions(ids, source.label_ids(), p, list(source.classes), decision, {})


def _folds(source: Source, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Returns the fold of each image, (N,), stratified by class unless the task is multilabel; groups are not split."""
    labels = source.label_ids()
    fold_of = np.zeros(len(source), dtype=int)
    if groups is not None and groups.max() + 1 < folds:
        raise CallError(
            f"folds: the data has {counted(groups.max() + 1, 'group')} (fit.group), fewer than {counted(folds, 'fold')}"
        )
    if groups is not None and source.task == "multilabel":
        splits = GroupKFold(folds, shuffle=True, random_state=seed).split(labels, groups=groups)
    elif groups is not None:
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    elif source.task == "multilabel":
        splits = KFold(folds, shuffle=True, random_state=seed).split(labels)
    else:
        counts = np.bincount(labels, minlength=len(source.classes))
        if counts.min() < folds:
            few = source.classes[int(counts.argmin())]
            raise CallError(
                f"folds: class '{few}' has {counted(counts.min(), 'image')}, fewer than {counted(folds, 'fold')}"
            )
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (_, chosen) in enumerate(splits):
        fold_of[chosen] = fold
    return fold_of


def _parts(source: Source, held_out: np.ndarray, spec: Spec) -> Parts:
    """Returns the indices of each part; the test part is the fold."""
    items = [replace(item, part="test" if out else None) for item, out in zip(source.items, held_out, strict=True)]
    return split_images(spec, replace(source, items=items), test=False)
