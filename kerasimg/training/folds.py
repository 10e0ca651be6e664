"""`kerasimg.cross_val_predict`: predictions for every picture by a model that was not trained on it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from sklearn.model_selection import KFold, StratifiedKFold

from kerasimg.catalog import Reference, load
from kerasimg.data.sources import Data, Source, open_source
from kerasimg.errors import CallError
from kerasimg.evaluation.predictions import Predictions, read_predictions
from kerasimg.spec.load import Spec
from kerasimg.training.splits import seed_of, split_images
from kerasimg.training.train import train

FOLDS = 5


def cross_val_predict(
    ref: Reference,
    *,
    data: Data,
    folds: int = FOLDS,
    set: Mapping[str, Any] | None = None,
    verbose: int | str = "auto",
    say: Callable[[str], None] = print,
    **params: Any,
) -> Predictions:
    """Train a spec `folds` times, each time without one part of the pictures, and predict that part.

    ref, data, set, params, verbose, say: as for `train`.  folds: 2 or more; the parts that the data names do not count.
    Within each fold the spec's validation share is drawn from the pictures that are trained on. The runs are not kept.

    Returns the predictions in the order of the data; each picture's is out of fold.
    """
    if folds < 2:
        raise CallError(f"folds: expected 2 or more, got {folds}")
    draft = load(ref, set=set, partial=True, **params)
    source = open_source(data, draft.task)
    fold_of = _folds(source, folds, seed_of(draft))
    found: dict[str, tuple[np.ndarray, Any, Any]] = {}
    classes: list[str] = list(source.classes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [_path(source, index, folder) for index in range(len(source))]
        place = {os.path.normpath(path): index for index, path in enumerate(paths)}
        for fold in range(folds):
            say(f"fold {fold + 1} of {folds}")
            manifest = folder / "fold.jsonl"
            _write_manifest(manifest, source, paths, _parts(source, fold_of == fold, draft))
            run = train(ref, data=manifest, out=folder / "runs", set=set, verbose=verbose, say=say, **params)
            said = read_predictions(run.files.evaluation.predictions_file, draft.task)
            if said.classes != classes:
                raise CallError("a class has too few pictures to be in every fold; ask for fewer folds")
            for row, name in enumerate(said.ids):
                index = place[os.path.normpath(name)]
                found[source.items[index].id] = (said.truth[row], said.probabilities[row], said.decision[row])
    ids = [item.id for item in source.items]
    truth, p, decision = (np.stack([found[name][k] for name in ids]) for k in range(3))
    return Predictions(ids, truth, p, classes, decision, {})


def _folds(source: Source, folds: int, seed: int) -> np.ndarray:
    """The fold of each picture, (N,), each class spread evenly where a picture has one."""
    labels = source.label_ids()
    fold_of = np.zeros(len(source), dtype=int)
    if source.task == "multilabel":
        splits = KFold(folds, shuffle=True, random_state=seed).split(labels)
    else:
        counts = np.bincount(labels, minlength=len(source.classes))
        if counts.min() < folds:
            few = source.classes[int(counts.argmin())]
            raise CallError(f"folds: class '{few}' has {counts.min()} pictures, fewer than {folds} folds")
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (_, chosen) in enumerate(splits):
        fold_of[chosen] = fold
    return fold_of


def _path(source: Source, index: int, folder: Path) -> str:
    """A file that holds the picture: its own, or one that is written into `folder`."""
    picture = source.items[index].picture
    if isinstance(picture, str):
        return os.path.abspath(picture)
    path = folder / f"{index:08}.png"
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        if picture.dtype != np.uint8:
            raise CallError(f"out-of-fold training takes arrays of uint8, not {picture.dtype}")
        pixels = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
        PIL.Image.fromarray(pixels).save(path)
    return str(path)


def _parts(source: Source, held_out: np.ndarray, spec: Spec) -> np.ndarray:
    """The part of each picture in a fold, (N,) of str.

    What is validated on is drawn by the pictures' own names: those of the fold's files depend on where they stand.
    """
    items = [replace(item, part="test" if out else None) for item, out in zip(source.items, held_out, strict=True)]
    drawn = split_images(spec, replace(source, items=items), test=False)
    names = np.full(len(source), "train", dtype="<U10")
    for part, indices in drawn.items():
        names[indices] = part
    return names


def _write_manifest(path: Path, source: Source, paths: list[str], parts: np.ndarray) -> None:
    lines = [
        json.dumps({"path": place, "labels": list(item.labels), "split": str(part)})
        for place, item, part in zip(paths, source.items, parts, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
