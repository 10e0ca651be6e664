"""`kerasimg.dataset`: the batches of a spec, for a training loop of the user's own."""

from __future__ import annotations

from typing import Any

from kerasimg.data.augment import compile_augment
from kerasimg.data.items import PARTS
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import Data
from kerasimg.errors import CallError, nearest
from kerasimg.spec.load import Spec
from kerasimg.training.auto_settings import batch_size_of
from kerasimg.training.prepare import prepare
from kerasimg.training.splits import seed_of

IRRELEVANT = {"fit.precision": "float32", "compile.jit_compile": False}
"""What a probe would choose, and the batches do not depend on."""


def dataset(spec: Spec, data: Data, part: str, *, cache: Any = "auto") -> Any:
    """One epoch of the batches that `fit` takes, as training reads them; see `kerasimg.dataset`."""
    if part not in PARTS:
        raise CallError(f"no part '{part}'{nearest(part, PARTS)} (parts: train, validation, test)")
    batch_size = batch_size_of(spec)
    experiment = prepare(spec, data, edits=IRRELEVANT, weights=None, on_bad_image=None, cache=cache, distribute=False)
    spec, parts = experiment.spec, experiment.parts
    if PARTS[part] not in parts:
        raise CallError(f"the data in {experiment.source.where} has no {part} part (it has: {', '.join(parts)})")
    train = part == "train"
    return batches(
        experiment.source,
        parts[PARTS[part]],
        spec.image,
        batch_size=batch_size,
        shuffle=train,
        seed=seed_of(spec),
        augment=compile_augment(spec.augment, spec.image, seed_of(spec)) if train else None,
        targets=experiment.objective.targets,
        sample_weight=experiment.weights if train else None,
        cache=cache,
        exact=not train,
    )
