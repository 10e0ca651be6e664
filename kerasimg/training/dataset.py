"""`kerasimg.dataset`: the batches of a spec, for a training loop of the user's own."""

from __future__ import annotations

from typing import Any

from kerasimg.data.augment import compile_augment
from kerasimg.data.items import PARTS
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import Data
from kerasimg.data.split import split
from kerasimg.errors import CallError, nearest
from kerasimg.spec.load import Spec
from kerasimg.training.counting import label_weights, picture_weights
from kerasimg.training.experiment import check_model, load_for, make_models
from kerasimg.training.objective import make_objective


def dataset(spec: Spec, data: Data, part: str, *, cache: Any = "auto") -> Any:
    """One epoch of the batches that `fit` takes, as training reads them; see `kerasimg.dataset`."""
    if part not in PARTS:
        raise CallError(f"no part '{part}'{nearest(part, PARTS)} (parts: train, validation, test)")
    spec, source = load_for(spec, data, None, {})
    if not isinstance(spec.fit.batch_size, int):
        raise CallError(
            f"fit.batch_size: expected a number, got {spec.fit.batch_size!r}, which only a training can choose; "
            'give overrides={"fit.batch_size": 32}'
        )
    parts = split(source, spec.fit.validation_split, spec.fit.test_split, spec.fit.seed)
    if PARTS[part] not in parts:
        raise CallError(f"the data in {source.where} has no {part} part (it has: {', '.join(parts)})")
    indices = parts[PARTS[part]]
    sized = make_models(spec, None, None)
    check_model(spec, source, sized)
    model = sized[spec.image.size[0], spec.image.size[1]].built.model
    train = part == "train"
    objective = make_objective(
        spec, model, len(source.classes), label_weights(spec, source, parts["train"]), source.soft
    )
    return batches(
        source,
        indices,
        spec.image,
        batch_size=spec.fit.batch_size,
        shuffle=train,
        seed=spec.fit.seed,
        augment=compile_augment(spec.augment, spec.image, spec.fit.seed) if train else None,
        targets=objective.targets,
        sample_weight=picture_weights(spec, source, indices) if train else None,
        cache=cache,
        exact=not train,
    )
