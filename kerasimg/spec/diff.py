"""Differences between two documents, in the terms of a spec: path, value before, value after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from kerasimg.results import Result
from kerasimg.spec.locations import NODE_KINDS
from kerasimg.spec.reader import is_comment


class _Missing:
    """Marks a value that one side does not have."""

    def __repr__(self) -> str:
        return "(not there)"


MISSING: Any = _Missing()


@dataclass(frozen=True)
class Difference(Result):
    """One place at which two documents differ."""

    path: str
    """As errors write it: `model.hidden.units`, `augment[1] (RandomRotation).factor`."""
    before: Any
    """`MISSING` where only the second has it."""
    after: Any
    """`MISSING` where only the first has it."""

    def __str__(self) -> str:
        if self.before is MISSING:
            return f"+ {self.path} = {_short(self.after)}"
        if self.after is MISSING:
            return f"- {self.path} = {_short(self.before)}"
        return f"  {self.path}: {_short(self.before)} -> {_short(self.after)}"


def differences(before: Any, after: Any, path: str = "") -> Iterator[Difference]:
    """Every difference, in the order of the documents; comments are none.

    Nodes of a list are paired by name, else by what they are in their order, so that one that was put in shows as one
    and does not shift the rest.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _of_objects(before, after, path)
    elif isinstance(before, list) and isinstance(after, list) and _holds_objects([*before, *after]):
        yield from _of_lists(before, after, path)
    elif before != after or isinstance(before, bool) != isinstance(after, bool):
        yield Difference(path, before, after)


def _of_objects(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[Difference]:
    for key in dict.fromkeys([*before, *after]):
        if not is_comment(key):
            here = f"{path}.{key}" if path else key
            yield from differences(before.get(key, MISSING), after.get(key, MISSING), here)


def _of_lists(before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[Difference]:
    """Pairs first what is called the same; what is left between two pairs is compared in its order."""
    matcher = SequenceMatcher(None, [_called(item) for item in before], [_called(item) for item in after], False)
    for _, first, first_end, second, second_end in matcher.get_opcodes():
        old, new = before[first:first_end], after[second:second_end]
        for offset in range(max(len(old), len(new))):
            one = old[offset] if offset < len(old) else MISSING
            other = new[offset] if offset < len(new) else MISSING
            if one is not MISSING and other is not MISSING and _called(one) != _called(other):
                yield Difference(_item(path, first + offset, one), one, MISSING)
                yield Difference(_item(path, second + offset, other), MISSING, other)
                continue
            number = first + offset if other is MISSING else second + offset
            yield from differences(one, other, _item(path, number, one if other is MISSING else other))


def _holds_objects(items: Sequence[Any]) -> bool:
    return any(isinstance(item, Mapping) for item in items)


def _called(item: Any) -> tuple[Any, ...]:
    """The identity of an item of a list: of a node its kind and name."""
    if not isinstance(item, Mapping):
        return (json.dumps(item),)
    return tuple((key, item[key]) for key in (*NODE_KINDS, "name") if isinstance(item.get(key), str))


def _item(path: str, number: int, item: Any) -> str:
    if not isinstance(item, Mapping):
        return f"{path}[{number}]"
    if isinstance(item.get("name"), str):
        return f"{path}.{item['name']}"
    kind = next((item[key] for key in NODE_KINDS if isinstance(item.get(key), str)), None)
    return f"{path}[{number}]" + (f" ({kind})" if kind else "")


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
