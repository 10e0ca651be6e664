"""The folder of a search: its call, its space, its trials and its result."""

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

from kerasimg import log
from kerasimg.backend import BACKENDS, versions
from kerasimg.catalog import Reference, load, locate
from kerasimg.data.items import PART_NAMES
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, is_in_memory
from kerasimg.data.split import record, warn_of_other_labels
from kerasimg.errors import CallError, Fault, SpecError, counted
from kerasimg.files import damaged, read_object, write_json
from kerasimg.run_folder import DATA, SPEC, RunFolder, not_a_folder_of
from kerasimg.spec.formatting import dumps
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.metrics import Goal, goal_of, goals_of
from kerasimg.spec.search import KINDS
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.distillation import check_teacher_place, teacher_digest
from kerasimg.training.engine import total_epochs
from kerasimg.training.run import (
    copy_beside,
    create_folder,
    environment,
    parts_of_record,
    weights_digests,
    weights_of_record,
    with_absolute_path,
)
from kerasimg.training.splits import columns_digest
from kerasimg.tuning.journal import BEST, CALL, SPACE, WINNER
from kerasimg.tuning.space import Space, space_of
from kerasimg.tuning.trials import Trials

_DECODER = json.JSONDecoder()


class _Part:
    """A JSON value with its position in the text, and its items."""

    def __init__(self, begin: int, end: int, value: Any, children: Mapping[Any, _Part]) -> None:
        self.begin, self.end, self.value, self.children = begin, end, value, children


def rewrite(text: str, target: Mapping[str, Any]) -> str:
    """Returns the text of a JSON object with as few changes as possible, so that it reads as `target`.

    Equal values keep their layout. Comments (keys that begin with `//`) keep their place if `target` has them. New keys
    come last.
    """
    root = _parse(text, _skip_spaces(text, 0))
    return text[: root.begin] + _rewritten(text, root, target) + text[root.end :]


def _rewritten(text: str, part: _Part, target: Any) -> str:
    if _same(part.value, target):
        return text[part.begin : part.end]
    if isinstance(part.value, dict) and isinstance(target, dict) and not KINDS.keys() & part.value.keys():
        return _object(text, part, target)
    if isinstance(part.value, list) and isinstance(target, list) and len(part.value) == len(target):
        return _with_children(text, part, dict(enumerate(target)))
    if (chosen := _option(part, target)) is not None:
        return _rewritten(text, chosen, target)
    return _text(target)


def _object(text: str, part: _Part, target: Mapping[str, Any]) -> str:
    """Returns an object with changed values, without removed keys, and with new keys at its end."""
    common = [key for key in part.children if key in target]
    if not common:
        return _text(target)
    begins = _member_begins(text, part)
    gaps = {key: text[len(text[:begin].rstrip()) : begin] for key, begin in begins.items()}
    pieces = [
        gaps[key] + text[begins[key] : part.children[key].begin] + _rewritten(text, part.children[key], target[key])
        for key in common
    ]
    between = gaps[common[-1]] or " "
    pieces += [f"{between}{_text(key)}: {_text(value)}" for key, value in target.items() if key not in part.children]
    last = max(child.end for child in part.children.values())
    return "{" + ",".join(pieces) + text[last : part.end]


def _member_begins(text: str, part: _Part) -> dict[Any, int]:
    """Returns the position of each key of an object."""
    begins, at = {}, part.begin + 1
    for key, child in part.children.items():
        begins[key] = text.index('"', at)
        at = child.end
    return begins


def _with_children(text: str, part: _Part, targets: Mapping[Any, Any]) -> str:
    result, at = "", part.begin
    for key, child in part.children.items():
        result += text[at : child.begin] + _rewritten(text, child, targets[key])
        at = child.end
    return result + text[at : part.end]


def _option(part: _Part, target: Any) -> _Part | None:
    """Returns the option of a $choice from which the target was made; None if no option has its shape."""
    if not isinstance(part.value, dict) or not isinstance(part.value.get("$choice"), dict):
        return None
    options = part.children["$choice"].children.values()
    alike = [option for option in options if _shape(option.value) == _shape(target) and isinstance(target, dict | list)]
    return next((option for option in alike if _same(option.value, target)), alike[0] if len(alike) == 1 else None)


def _shape(value: Any) -> Any:
    return sorted(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else None


def _same(left: Any, right: Any) -> bool:
    return json.dumps(left) == json.dumps(right)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n\ufeff":
        at += 1
    return at


def _parse(text: str, at: int) -> _Part:
    """Parses the value at a position of a valid JSON text."""
    if text[at] not in "{[":
        value, end = _DECODER.raw_decode(text, at)
        return _Part(at, end, value, {})
    closing = "}" if text[at] == "{" else "]"
    children: dict[Any, _Part] = {}
    place = _skip_spaces(text, at + 1)
    while text[place] != closing:
        key: Any = len(children)
        if closing == "}":
            key, place = _DECODER.raw_decode(text, place)
            place = _skip_spaces(text, _skip_spaces(text, place) + 1)
        children[key] = child = _parse(text, place)
        place = _skip_spaces(text, child.end)
        if text[place] == ",":
            place = _skip_spaces(text, place + 1)
    values = {key: child.value for key, child in children.items()}
    return _Part(at, place + 1, values if closing == "}" else list(values.values()), children)


ADVICE = "a search can only go on with the images that it began with; put them back, or search again"


@dataclass(frozen=True)
class Task:
    """What every process of a search knows: folder, spec, data and call."""

    folder: Path
    spec: Spec
    """With defaults for its search values, and with final params."""
    data: Data
    call: Mapping[str, Any]

    @staticmethod
    def open(folder: str | os.PathLike[str], data: Data | None = None) -> Task:
        """Opens the search of a folder; CallError if it has none, or its images were arrays and `data` is None.

        data: the images, if they have moved or were arrays.
        """
        path = Path(folder)
        if not (path / CALL).is_file():
            raise not_a_folder_of("a search", path, CALL)
        call = read_object(path / CALL)
        if not {"data", "params", "digests", "search"} <= call.keys():
            raise damaged(path / CALL, "it is of another version of kerasimg")
        where = call["data"] if data is None else data
        if where is None:
            raise CallError(f"the search in '{folder}' was over images in memory; give them again: data=...")
        return Task(path, load(path / SPEC, **call["params"]), where, call)

    @cached_property
    def space(self) -> Space:
        """The search space."""
        return space_of(self.spec)

    @cached_property
    def goal(self) -> Goal:
        """The metric to optimize, and its direction."""
        return goal_of(self.spec)

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """Every objective, the first foremost."""
        return goals_of(self.spec)

    @property
    def epochs(self) -> int:
        """The most epochs of a trial."""
        return epochs_of(self.spec)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name -> value of all that a score depends on; it must be equal in every process of the search."""
        options = _sha256([_without_paths(self.call["weights"]), self.call["limits"], self.call["on_bad_image"]])
        return {**self.call["digests"], "options": options, **surroundings()}

    @property
    def digest(self) -> str:
        """The digest of `identity`."""
        return _sha256(self.identity)

    def other_surroundings(self) -> list[str]:
        """Returns the differences between this process and the one that started the search: backend, versions."""
        before, now = self.call["surroundings"], surroundings()
        names = dict.fromkeys((*before, *now))
        return [
            f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if before.get(name) != now.get(name)
        ]

    @property
    def number(self) -> str:
        """A random number that identifies this search, also among searches of the same spec and data."""
        return str(self.call["search"])

    @property
    def limits(self) -> dict[str, int] | None:
        """The limits of the caller, and those of `tune.limits` that are checked when a model is built."""
        limits = dict(self.call["limits"] or {})
        if (most := self.spec.tune.limits.params) is not None:
            limits["params"] = min(most, limits.get("params", most))
        return limits or None

    def trials(self, folder: Path, cache: Any = None, deadline: Deadline = NEVER) -> Trials:
        """Returns the trainer of the trials in this process.

        folder: where each trial may save files.  deadline: until when the images may be checked.
        """
        return Trials(
            self.spec,
            self.data,
            folder=folder,
            cache=cache or self.call["cache"],
            weights=weights_of_record(self.call["weights"]),
            limits=self.limits,
            on_bad_image=self.call["on_bad_image"],
            overrides={"tune.direction": self.goal.direction},
            deadline=deadline,
        )

    def check(self, source: Source) -> None:
        """CallError if the images are not those with which the search was started."""
        facts = {"images": len(source), "classes": list(source.classes)}
        if any(self.call[key] != value for key, value in facts.items()):
            raise CallError(
                f"the search in '{self.folder}' began with {counted(self.call['images'], 'image')} of "
                f"{counted(len(self.call['classes']), 'class')}, and {source.where} holds {len(source):,} of "
                f"{len(source.classes)}: its trials could not be compared; search again"
            )
        recorded = read_object(self.folder / DATA)
        if data_digest(data_record(source)) != data_digest(recorded):
            parts_of_record(source, recorded, ADVICE)  # names the images
            raise CallError(f"{source.where}: the images are in another order, or in other parts; {ADVICE}")
        now = digests(self.spec, recorded, source)
        for name, what in (("columns", f"{source.where}: columns of the manifest"), ("files", "the teacher")):
            if name in self.call["digests"] and self.call["digests"][name] != now[name]:
                raise CallError(
                    f"{what} changed since the search in '{self.folder}' began; put it back, or search again"
                )

    @property
    def finished(self) -> bool:
        """Whether the search is finished, with the training of the best spec if it was requested."""
        if not (self.folder / BEST).is_file():
            return False
        return not self.spec.tune.train_best or "run" in read_object(self.folder / WINNER)


def epochs_of(spec: Spec) -> int:
    """Returns the most epochs of a trial of a spec."""
    whole = total_epochs(spec)
    return min(whole, spec.tune.max_epochs or whole)


def data_record(source: Source) -> dict[str, Any]:
    """Returns what a search records of its data: labels, SHA-256 and assigned part of every image."""
    named = {part: np.flatnonzero(source.parts == number) for number, part in enumerate(PART_NAMES)}
    return record(source, {**named, "none": np.flatnonzero(source.parts < 0)})  # type: ignore[dict-item]


def data_digest(recorded: Mapping[str, Any]) -> str:
    """Returns the digest of the images, labels and classes of a data record, independent of the images' folder."""
    return _sha256([recorded["task"], list(recorded["classes"]), recorded["images"]])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _without_paths(weights: Any) -> Any:
    """Returns the description of the argument `weights` without paths, which differ between machines."""
    if not isinstance(weights, dict):
        return weights
    return {name: _without_paths(value) for name, value in weights.items() if name != "file"}


def digests(spec: Spec, recorded: Mapping[str, Any], source: Source) -> dict[str, str]:
    """Returns the digests of the spec with its given params, of a data record, and of what else the spec reads."""
    return {
        "spec": _sha256([spec.document, dict(spec.given)]),
        "data": data_digest(recorded),
        "columns": columns_digest(spec, source),
        "files": _sha256({**weights_digests(spec), **teacher_digest(spec)}),
    }


def surroundings() -> dict[str, str]:
    """Returns the backend of this process, and the versions of packages on which a score depends."""
    backend = keras.backend.backend()
    return {"backend": backend, **versions(dict.fromkeys(("kerasimg", "keras", BACKENDS[backend])))}


def begin(
    ref: Reference, spec: Spec, source: Source, data: Data, out: str | os.PathLike[str], call: Mapping[str, Any]
) -> Task:
    """Creates the folder `<name>-tune-<k>` of a new search; SpecError if the spec has no search values."""
    check_teacher_place(spec)
    space, _ = space_of(spec), goals_of(spec)
    if not space.dimensions:
        message = 'nothing to search: write {"$choice": [...], "default": ...}, $int or $float in place of a value'
        raise SpecError([Fault(spec.file, "", message)])
    in_memory = is_in_memory(source.where)
    where = None if in_memory else str(data) if source.where == "sample" or "tfds:" in source.where else _absolute(data)
    recorded = with_absolute_path(data_record(source), data)
    call_record = {
        "data": where,
        "images": len(source),
        "classes": list(source.classes),
        "params": dict(spec.given),
        "search": secrets.token_hex(8),
        "digests": digests(spec, recorded, source),
        **call,
        "surroundings": surroundings(),
        "environment": environment(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }

    def fill(draft: RunFolder) -> None:
        copy_beside(spec, draft.path)
        (draft.path / SPEC).write_text(spec_text(ref, spec), encoding="utf-8")
        write_json(draft.path / SPACE, space.describe())
        write_json(draft.path / DATA, recorded)
        write_json(draft.path / CALL, call_record)

    folder = create_folder(out, f"{spec.name}-tune", fill).path
    for note in spec.warnings:
        log.warning(str(note))
    warn_of_other_labels(recorded["images"])
    return Task(folder, spec, data, call_record)


def spec_text(ref: Reference, spec: Spec) -> str:
    """Returns the text of a spec, in its author's layout if it is a single file."""
    if isinstance(ref, str | os.PathLike):
        text = locate(ref).path.read_text(encoding="utf-8-sig")
        if not {"extends", "set"} & json.loads(text).keys():
            return rewrite(text, spec.document)
    return dumps(spec.document)


def best_spec_text(task: Task, values: Mapping[str, Any], origin: str) -> str:
    """Returns the text of the spec with values in place of its search values, and a note on their origin."""
    from kerasimg.spec.search import replace

    resolved = load_again(task.spec, chosen=values, other_options=False)
    document = replace(dict(resolved.document), values, lambda path, message: None).document
    if task.spec.given:
        document["params"] = {**document.get("params", {}), **task.spec.given}
    if not resolved.expect_holds:
        document.pop("expect", None)
    document["card"] = {**document.get("card", {}), "origin": origin}
    # Comments of `init` on what is gone.
    if "extends" not in document:
        document.pop("// extends", None)
    if "params" in document:
        document["params"] = {name: value for name, value in document["params"].items() if name != "// search"}
    return rewrite((task.folder / SPEC).read_text(encoding="utf-8"), document)


def _absolute(data: Any) -> str:
    return os.path.abspath(os.fspath(data))
