"""The draft of a spec's model: lists of nodes, and the blocks that they call.

Pure: it knows neither Keras nor JSON documents. A value is JSON text, so that values compare as they are written
(1, 1.0 and true are three), and one that refers to an argument of the enclosing block is the text of "=name".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

IMAGE = -1
"""The image, as an input of a call."""

REPEAT = "repeat"
"""The last value of every node: the number of repeats."""
ONCE = "1"


class FlatCall(NamedTuple):
    """One call of a layer."""

    kind: str
    """layer, or reuse: the layer of an earlier call again."""
    target: str
    arguments: Mapping[str, Any]
    form: str
    """one, list or named: the form of its inputs."""
    keys: tuple[str, ...]
    """The names of named inputs."""
    inputs: tuple[int, ...]
    """The calls whose outputs it takes; -1 is the image."""
    channels: int | None
    """Last dimension of its output."""
    reused: int | None = None
    """For a reuse, the call that made the layer."""
    name: str = ""
    """The layer's name in the model that was read."""


class Kind(NamedTuple):
    """A node without its values: nodes of the same kind can become one node of a block."""

    kind: str
    target: str
    """A layer class, or the number of a block."""
    names: tuple[str, ...]
    """Names of its values; the last is always "repeat"."""
    form: str
    keys: tuple[str, ...]


@dataclass
class Item:
    """A node of a list."""

    kind: Kind
    values: tuple[str, ...]
    """JSON text of each value; of an argument of the enclosing block, that of "=name"."""
    inputs: tuple[int, ...]
    """Positions in the list; -1, -2, ... are what entered the enclosing block."""
    reused: int | None = None
    name: str = ""

    @property
    def repeat(self) -> str:
        """The number of repeats, as JSON text."""
        return self.values[-1]


@dataclass
class Body:
    """The draft of a block: its arguments, the number of tensors that enter it, its nodes."""

    args: list[str]
    entries: int
    items: list[Item]


@dataclass
class Draft:
    """A model as a list of nodes and the blocks that they call, by number."""

    main: list[Item]
    blocks: dict[str, Body]

    def lists(self) -> Iterator[list[Item]]:
        """Every list of nodes."""
        yield self.main
        for body in self.blocks.values():
            yield body.items


def reference(value: str) -> str | None:
    """The name of the argument that a value refers to; None for a value of its own."""
    return value[2:-1] if value.startswith('"=') else None


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def fresh(name: str, taken: Iterable[str]) -> str:
    """The name, numbered where it is taken."""
    taken = set(taken)
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def draft_of(calls: Sequence[FlatCall], defaults: Mapping[tuple[str, str], Any]) -> Draft:
    """The calls as nodes, without blocks.

    defaults: by (class, argument), for each argument that some calls give and others leave out.
    """
    names: dict[str, list[str]] = {}
    for call in calls:
        known = names.setdefault(call.target, [])
        known.extend(name for name in call.arguments if name not in known)
    items = []
    for call in calls:
        given = {
            name: call.arguments[name] if name in call.arguments else defaults[call.target, name]
            for name in (names[call.target] if call.kind == "layer" else ())
        }
        kind = Kind(call.kind, call.target, (*given, REPEAT), call.form, call.keys)
        values = (*map(text_of, given.values()), ONCE)
        items.append(Item(kind, values, call.inputs, call.reused, call.name))
    return Draft(items, {})


def join_repeats(items: list[Item]) -> list[Item]:
    """The list with equal calls that follow each other as one call that is repeated."""
    users = Counter(source for item in items for source in item.inputs)
    linked = {item.reused for item in items if item.reused is not None}
    made: list[Item] = []
    moved: list[int] = []
    for position, item in enumerate(items):
        last = made[-1] if made else None
        joins = (
            last is not None
            and item.inputs == (position - 1,)
            and (item.kind, item.values[:-1]) == (last.kind, last.values[:-1])
            and item.kind.form == "one"
            and last.inputs == (len(made) - 2,)  # what is repeated takes the node before it, each time
            and users[position - 1] == 1
            and not {position, position - 1} & linked
            and item.kind.kind != "reuse"
            and reference(item.repeat) is None
            and reference(last.repeat) is None
        )
        if last is not None and joins:
            made[-1] = _repeated(last, int(last.repeat) + int(item.repeat))
        else:
            made.append(move(item, moved))
        moved.append(len(made) - 1)
    return made


def _repeated(item: Item, times: int) -> Item:
    return Item(item.kind, (*item.values[:-1], str(times)), item.inputs, item.reused, "")


def move(item: Item, moved: Sequence[int]) -> Item:
    """The item with its inputs at their new positions."""
    inputs = tuple(source if source < 0 else moved[source] for source in item.inputs)
    reused = None if item.reused is None else moved[item.reused]
    return Item(item.kind, item.values, inputs, reused, item.name)


def inline(draft: Draft, number: str) -> Draft | None:
    """The same calls with the nodes of a block in place of its calls; None if a repeat prevents it."""
    body = draft.blocks[number]
    kind = ("block", number)
    for items in draft.lists():
        for position, item in enumerate(items):
            entered = item.inputs == (position - 1,) or body.items[0].repeat == ONCE
            if (item.kind.kind, item.kind.target) == kind and not (item.repeat == ONCE and entered):
                return None
    blocks = {
        other: Body(one.args, one.entries, _opened(one.items, kind, body))
        for other, one in draft.blocks.items()
        if other != number
    }
    return Draft(_opened(draft.main, kind, body), blocks)


def _opened(items: Sequence[Item], kind: tuple[str, str], body: Body) -> list[Item]:
    made: list[Item] = []
    moved: list[int] = []
    for item in items:
        here = move(item, moved)
        if (item.kind.kind, item.kind.target) == kind:
            given = {text_of(f"={name}"): value for name, value in zip(item.kind.names, item.values, strict=True)}
            start = len(made)
            for inner in body.items:
                inputs = tuple(here.inputs[-1 - one] if one < 0 else start + one for one in inner.inputs)
                values = tuple(given.get(value, value) for value in inner.values)
                reused = None if inner.reused is None else start + inner.reused
                made.append(Item(inner.kind, values, inputs, reused))
        else:
            made.append(here)
        moved.append(len(made) - 1)
    return made
