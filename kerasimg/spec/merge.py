"""Merges documents: a parent and its child key by key, then edits by path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kerasimg.errors import listed, nearest
from kerasimg.spec.document import KEYS, SECTIONS
from kerasimg.spec.locations import Origins, Path, Report
from kerasimg.spec.reader import kind_of, shown
from kerasimg.spec.settings import meant

# They say what the parent is and was found to be; of the child they need not be true.
NOT_INHERITED = ("$schema", "name", "about", "card", "pretrained", "expect", "extends", "set")
SETTABLE = frozenset(KEYS) - {"$schema", "kerasimg", "extends", "set"}
"""The keys of a spec that an edit may name."""
MAX_EDITS = 500
MAX_INDEX_DIGITS = 6


def merge(parent: dict[str, Any], child: dict[str, Any], origins: Origins, source: str) -> dict[str, Any]:
    """The child on top of its parent: objects key by key, lists and scalars replaced.

    A search value replaces any earlier value; so does `{"type": ...}` of another type.
    """
    inherited = {key: value for key, value in parent.items() if key not in NOT_INHERITED}
    return _merge(inherited, child, (), origins, source)


def _merge(parent: Any, child: Any, path: Path, origins: Origins, source: str) -> Any:
    if not isinstance(parent, dict) or not isinstance(child, dict) or _replaces(parent, child):
        origins.set(path, source)
        return child
    merged = dict(parent)
    for key, value in child.items():
        merged[key] = _merge(parent[key], value, (*path, key), origins, source) if key in parent else value
        if key not in parent:
            origins.set((*path, key), source)
    return merged


def _replaces(parent: dict[str, Any], child: dict[str, Any]) -> bool:
    return any(key.startswith("$") for key in child if key != "$schema") or parent.get("type") != child.get(
        "type", parent.get("type")
    )


def edit(
    document: dict[str, Any], edits: Mapping[str, Any], origins: Origins, source: str, report: Report
) -> dict[str, Any]:
    """A copy of the document with each edit (`"model.hidden.units": 64`) made; what matches nothing is reported.

    source: the file in whose `set` they stand, or the option of the command line, "--set".
    """
    if not edits:
        return document
    option = source.startswith("--")
    if len(edits) > MAX_EDITS:
        report((source,) if option else ("set",), f"more than {MAX_EDITS} edits")
        return document
    document = copy.deepcopy(document)
    for text, value in edits.items():
        path: Path = ()
        place: Any = document
        steps = text.split(".")
        try:
            for step in steps[:-1]:
                key = _find(place, step, path)
                place, path = place[key], (*path, key)
            key = _find(place, steps[-1], path, new=True)
        except LookupError as error:
            message = str(error.args[0])
            message += "" if "did you mean" in message or "(names:" in message else meant(text, document)
            report((f"{source} {text}",) if option else ("set", text), message)
            continue
        place[key] = value
        origins.set((*path, key), f"{source} {text}" if option else f"{source} (set)")
    return document


def _find(place: Any, step: str, path: Path, new: bool = False) -> str | int:
    """The key or index that one step of an edit's path means; a section's defaults count as written."""
    where = ".".join(map(str, path)) or "the spec"
    if isinstance(place, list):
        for index, item in enumerate(place):
            if isinstance(item, dict) and item.get("name") == step:
                return index
        if step.isdecimal() and len(step) <= MAX_INDEX_DIGITS and int(step) < len(place):
            return int(step)
        names = [item["name"] for item in place if isinstance(item, dict) and isinstance(item.get("name"), str)]
        there = f"names: {listed(names) or 'none'}; indices: 0 to {len(place) - 1}" if place else "it is empty"
        raise LookupError(f"{where} has no item {shown(step)}{nearest(step, names)} ({there})")
    if not isinstance(place, dict):
        raise LookupError(f"{where} is {kind_of(place)}, with nothing in it to set")
    if step not in place:
        _write_default(place, step, path)
    if step not in place and not (new and (step in SETTABLE if not path else path not in (("params",), ("blocks",)))):
        raise LookupError(f"{where} has no {shown(step)}{nearest(step, place)} (there are: {listed(place) or 'none'})")
    if not path and step not in SETTABLE:
        raise LookupError(f"{step} cannot be set; write it in the file")
    return step


def _write_default(place: dict[str, Any], step: str, path: Path) -> None:
    if (not path and step in SECTIONS) or (not path and step in ("params", "blocks")):
        place[step] = {}
    elif len(path) == 1 and path[0] in SECTIONS:
        field = SECTIONS[str(path[0])].model_fields.get(step)
        if field is not None:
            default = SECTIONS[str(path[0])].model_validate({}).model_dump(mode="json")[step]
            if default is not None:
                place[step] = default
