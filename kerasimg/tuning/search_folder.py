"""The folder of a search: what it was called with, its space, its trials, and what came out."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasimg.backend import BACKENDS, versions
from kerasimg.catalog import Reference, load, locate
from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, is_in_memory
from kerasimg.data.split import record
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.files import damaged, read_object, write_json
from kerasimg.run_folder import DATA, SPEC, RunFolder
from kerasimg.spec.formatting import dumps
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.metrics import Goal, goal_of
from kerasimg.training import reopen
from kerasimg.training.distillation import check_teacher_place
from kerasimg.training.engine import total_epochs
from kerasimg.training.run import copy_beside, create_folder, environment
from kerasimg.tuning.journal import BEST, CALL, SPACE
from kerasimg.tuning.json_edit import rewrite
from kerasimg.tuning.space import Space, space_of

ADVICE = "a search can only go on with the images that it began with; put them back, or search anew"


@dataclass(frozen=True)
class Task:
    """What a search is about, as every one of its processes knows it."""

    folder: Path
    spec: Spec
    """With its search values at their defaults, and its params final."""
    data: Data
    call: Mapping[str, Any]

    @staticmethod
    def open(folder: str | os.PathLike[str], data: Data | None = None) -> Task:
        """The search of a folder; CallError where it holds none, or its images are not there.

        data: the images, where they have moved, or were arrays.
        """
        path = Path(folder)
        if not (path / CALL).is_file():
            raise CallError(f"'{folder}' is not the folder of a search: it holds no {CALL}")
        call = read_object(path / CALL)
        if not {"data", "params", "digests", "search"} <= call.keys():
            raise damaged(path / CALL, "it is of another version of kerasimg")
        where = call["data"] if data is None else data
        if where is None:
            raise CallError(f"the search in '{folder}' was over images in memory; give them again: data=...")
        return Task(path, load(path / SPEC, **call["params"]), where, call)

    @cached_property
    def space(self) -> Space:
        """What is searched."""
        return space_of(self.spec)

    @cached_property
    def goal(self) -> Goal:
        """What is optimised."""
        return goal_of(self.spec)

    @property
    def epochs(self) -> int:
        """Those that a trial has at most."""
        return epochs_of(self.spec)

    @cached_property
    def identity(self) -> dict[str, str]:
        """All that a score depends on, which must be the same in every process of the search: name -> value."""
        options = _sha256([_without_paths(self.call["weights"]), self.call["limits"], self.call["on_bad_image"]])
        return {**self.call["digests"], "options": options, **surroundings()}

    @property
    def digest(self) -> str:
        """Of that."""
        return _sha256(self.identity)

    def other_surroundings(self) -> list[str]:
        """What this process has otherwise than the one that began the search: backend, versions."""
        before, now = self.call["surroundings"], surroundings()
        names = dict.fromkeys((*before, *now))
        return [
            f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if before.get(name) != now.get(name)
        ]

    @property
    def number(self) -> str:
        """The random number that tells this search from every other, also of the same spec and data."""
        return str(self.call["search"])

    @property
    def limits(self) -> dict[str, int] | None:
        """Those of the caller and those of `tune.limits` that the dry run keeps."""
        given = dict(self.call["limits"] or {})
        if (most := self.spec.tune.limits.params) is not None:
            given["params"] = min(most, given.get("params", most))
        return given or None

    def trials(self, folder: Path, cache: Any = None) -> Any:
        """What trains the trials in this process. folder: in which each may keep something."""
        from kerasimg.tuning.model_limits import Limited, is_measured
        from kerasimg.tuning.trials import Trials

        trials = Trials(
            self.spec,
            self.data,
            folder=folder,
            cache=cache or self.call["cache"],
            weights=reopen.recalled_weights(self.call["weights"]),
            limits=self.limits,
            on_bad_image=self.call["on_bad_image"],
            overrides={"tune.direction": self.goal.direction},
        )
        return Limited(trials, self.spec, trials.source.classes) if is_measured(self.spec.tune.limits) else trials

    def check(self, source: Source) -> None:
        """CallError where the images are not those that the search began with."""
        found = {"images": len(source), "classes": list(source.classes)}
        if any(self.call[key] != value for key, value in found.items()):
            raise CallError(
                f"the search in '{self.folder}' began with {self.call['images']:,} images of "
                f"{len(self.call['classes'])} classes, and {source.where} holds {len(source):,} of "
                f"{len(source.classes)}: its trials could not be compared; search anew"
            )
        kept = read_object(self.folder / DATA)
        if data_digest(data_record(source)) != data_digest(kept):
            reopen.recalled(source, kept, ADVICE)  # names the images
            raise CallError(f"{source.where}: the images are in another order, or in other parts; {ADVICE}")

    @property
    def finished(self) -> bool:
        """Whether the search has come to its end."""
        return (self.folder / BEST).is_file()


def epochs_of(spec: Spec) -> int:
    """The epochs that a trial of a spec has at most."""
    whole = total_epochs(spec)
    return min(whole, spec.tune.max_epochs or whole)


def data_record(source: Source) -> dict[str, Any]:
    """What a search keeps of its data: every image with its labels, its SHA-256 and the part that the data names."""
    named = {part: np.flatnonzero(source.parts == number) for number, part in enumerate(PART_NAMES)}
    return record(source, {**named, "none": np.flatnonzero(source.parts < 0)})  # type: ignore[dict-item]


def data_digest(kept: Mapping[str, Any]) -> str:
    """Of the images, labels and classes of a record of data, wherever the images are."""
    return _sha256([kept["task"], list(kept["classes"]), kept["images"]])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _without_paths(weights: Any) -> Any:
    """The description of the argument `weights` by content alone: another machine has the file elsewhere."""
    if not isinstance(weights, dict):
        return weights
    return {name: _without_paths(value) for name, value in weights.items() if name != "file"}


def digests(spec: Spec, kept: Mapping[str, Any]) -> dict[str, str]:
    """Of the spec with the values given for its params, and of the data.  kept: the record of the data."""
    return {"spec": _sha256([spec.document, dict(spec.given)]), "data": data_digest(kept)}


def surroundings() -> dict[str, str]:
    """The backend of this process, and the versions of what a score depends on."""
    backend = keras.backend.backend()
    return {"backend": backend, **versions(dict.fromkeys(("kerasimg", "keras", BACKENDS[backend])))}


def begin(
    ref: Reference, spec: Spec, source: Source, data: Data, out: str | os.PathLike[str], call: Mapping[str, Any]
) -> Task:
    """A new folder `<name>-tune-<k>` with what a search starts from; SpecError where it has nothing to search."""
    check_teacher_place(spec)
    space, _ = space_of(spec), goal_of(spec)
    if not space.dimensions:
        message = 'nothing to search: write {"$choice": [...], "default": ...}, $int or $float where a value stands'
        raise SpecError([Fault(spec.file, "", message)])
    in_memory = is_in_memory(source.where)
    where = None if in_memory else str(data) if source.where == "sample" or "tfds:" in source.where else _located(data)
    kept = reopen.located(data_record(source), data)
    told = {
        "data": where,
        "images": len(source),
        "classes": list(source.classes),
        "params": dict(spec.given),
        "search": secrets.token_hex(8),
        "digests": digests(spec, kept),
        **call,
        "surroundings": surroundings(),
        "environment": environment(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }

    def fill(draft: RunFolder) -> None:
        copy_beside(spec, draft.path)
        (draft.path / SPEC).write_text(as_written(ref, spec), encoding="utf-8")
        write_json(draft.path / SPACE, space.describe())
        write_json(draft.path / DATA, kept)
        write_json(draft.path / CALL, told)

    folder = create_folder(out, f"{spec.name}-tune", fill).path
    return Task(folder, spec, data, told)


def as_written(ref: Reference, spec: Spec) -> str:
    """The text of a spec, as its author wrote it as far as it stands in one file."""
    if isinstance(ref, str | os.PathLike):
        text = locate(ref).path.read_text(encoding="utf-8-sig")
        if not {"extends", "set"} & json.loads(text).keys():
            return rewrite(text, spec.document)
    return dumps(spec.document)


def with_winners(task: Task, values: Mapping[str, Any], origin: str) -> str:
    """The text of the spec with values in place of its search values, and a note of where they come from."""
    from kerasimg.spec.search import replace

    resolved = load_again(task.spec, chosen=values, other_options=False)
    document = replace(dict(resolved.document), values, lambda path, message: None).document
    if task.spec.given:
        document["params"] = {**document.get("params", {}), **task.spec.given}
    if not resolved.expect_holds:
        document.pop("expect", None)
    document["card"] = {**document.get("card", {}), "origin": origin}
    return rewrite((task.folder / SPEC).read_text(encoding="utf-8"), document)


def _located(data: Any) -> str:
    return os.path.abspath(os.fspath(data))
