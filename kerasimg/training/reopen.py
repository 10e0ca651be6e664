"""A run's folder -> the experiment that it was, so that it can go on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.catalog import load
from kerasimg.data.items import ManyFaults, Part
from kerasimg.data.readers.soft_labels import digest
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, is_in_memory, open_source
from kerasimg.data.split import record
from kerasimg.errors import CallError, Fault, WeightsError
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.run_folder import CLASSES, DATA, TRAINING, RunFolder
from kerasimg.training import checkpoint
from kerasimg.training.distillation import check_same_teacher
from kerasimg.training.prepare import Experiment, prepare

RUN_ADVICE = "the run can only go on with the images that it began with; or train anew"


def experiment(run: RunFolder, data: Data | None, cache: Any) -> Experiment:
    """What a run was training, with the same images in the same parts."""
    call = run.required(TRAINING)
    spec = load(run.spec_file)
    check_same_teacher(spec, call)
    # With a checkpoint no other weights are needed.
    begun = checkpoint.facts(run.checkpoint_file) is not None
    weights = None if begun else recalled_weights(call["weights"])
    kept = run.required(DATA)
    if data is None and is_in_memory(kept["where"]):
        raise CallError(
            "the run was trained on arrays, which it did not keep; give them: kerasimg.resume(run, data=...)"
        )
    source = open_source(kept["where"] if data is None else data, spec.task, classes=run.required(CLASSES))
    log.info(source.describe())
    parts = recalled(source, kept)
    if source.soft and digest(source, parts["train"]) != call["soft_labels"]:
        raise ManyFaults(
            [
                Fault(source.where, "", "the shares of the classes have changed"),
                Fault(source.where, "", RUN_ADVICE),
            ]
        )
    return prepare(
        spec,
        source,
        weights=weights,
        limits=call["limits"],
        on_bad_image=None,
        cache=cache or call["cache"],
        parts=parts,
    )


def recalled(source: Source, kept: Mapping[str, Any], advice: str = RUN_ADVICE) -> dict[Part, np.ndarray]:
    """The indices of the images of each part, as a run or a search has noted them.

    DataError names those that have gone, or are not what they were.  advice: what the error says to do.
    """
    places = {item_id: index for index, item_id in enumerate(map(source.columns.id, range(len(source))))}
    images = kept["images"]
    faults = [
        Fault(source.where, one["id"], "was trained with and is no longer there")
        for one in images
        if one["id"] not in places
    ]
    if faults:
        raise ManyFaults([*faults, Fault(source.where, "", advice)])
    parts: dict[Part, np.ndarray] = {}
    for part in dict.fromkeys(one["part"] for one in images):
        parts[part] = np.array([places[one["id"]] for one in images if one["part"] == part], np.int64)
    for old, new in zip(images, record(source, parts)["images"], strict=True):
        if old["sha256"] != new["sha256"]:
            faults.append(Fault(source.where, old["id"], "is not the image that was trained with: it has changed"))
        elif sorted(old["labels"]) != sorted(new["labels"]):
            faults.append(Fault(source.where, old["id"], f"was labelled {old['labels']}, and is now {new['labels']}"))
    if faults:
        raise ManyFaults([*faults, Fault(source.where, "", advice)])
    return parts


def described(weights: Any) -> Any:
    """The argument `weights` of `train`, as JSON has it: files by their path and hash."""
    if weights == AS_THE_SPEC_SAYS:
        return "as the spec says"
    if isinstance(weights, Mapping):
        return {"each": {name: described(one) for name, one in weights.items()}}
    if weights is None or weights == "imagenet":
        return weights
    path = Path(weights)
    return {"file": os.path.abspath(path), "sha256": _sha256(path)}


def recalled_weights(told: Any) -> Any:
    """The argument again; WeightsError where a file has gone or changed."""
    if told == "as the spec says":
        return AS_THE_SPEC_SAYS
    if not isinstance(told, dict):
        return told
    if "each" in told:
        return {name: recalled_weights(one) for name, one in told["each"].items()}
    path = Path(told["file"])
    if not path.is_file():
        raise WeightsError(f"the weights file '{path}', which the run began with, is no longer there; put it back")
    if _sha256(path) != told["sha256"]:
        raise WeightsError(f"the weights file '{path}' is not the one that the run began with: its content has changed")
    return path


def kind_of(cache: Any) -> str:
    """What kind of cache an argument asks for."""
    return str(getattr(cache, "kind", cache))


def located(data: dict[str, Any], given: Data) -> dict[str, Any]:
    """The record of the data, with a path that holds from any folder."""
    if isinstance(given, str | os.PathLike) and given != "sample":
        return {**data, "where": os.path.abspath(given)}
    return data


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
