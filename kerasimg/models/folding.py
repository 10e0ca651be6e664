"""Calls of layers, one after the other -> the same calls with what repeats said once, in blocks.

The block that saves most is made first, then the next, until none saves anything; values that differ from call to call
become its arguments. Calls that follow each other and are the same become one that is repeated, and the number of
times is a value like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerasimg.models.folded import ONCE, REPEAT, Body, Folded, Item, Kind, fresh, moved_to, repeats_joined, text_of
from kerasimg.models.repeat_finder import Window, best_windows, columns_of, entries_of, varies

TIMES = "times"
"""The argument of a block that says how often one of its nodes is repeated."""


def fold(plain: Folded, defaults: Mapping[tuple[str, str], Any]) -> Folded:
    """The same calls, with blocks where they make it shorter."""
    folded = Folded(repeats_joined(plain.main), {})
    costs = {(target, name): text_of(value) for (target, name), value in defaults.items()}
    while (best := best_windows(folded, costs)) is not None:
        _make_block(folded, best)
        folded.main = repeats_joined(folded.main)
        for body in folded.blocks.values():
            body.items = repeats_joined(body.items)
    return folded


def _make_block(folded: Folded, windows: Sequence[Window]) -> None:
    """Replace the windows by calls of a new block."""
    places = {"": folded.main, **{name: body.items for name, body in folded.blocks.items()}}
    columns = columns_of(places, windows)
    first = windows[0]
    body = places[first.where][first.start : first.stop]
    args: dict[tuple[str, ...], str] = {}
    for name, column in _by_weight(body, columns):
        if varies(column) and column not in args:
            args[column] = fresh(TIMES if name == REPEAT else name, args.values())
    items = []
    entries = entries_of(body, first.start)
    for item, values in zip(body, columns, strict=True):
        shown = [text_of(f"={args[column]}") if varies(column) else column[0] for column in values]
        inputs = tuple(
            source - first.start if source >= first.start else -1 - entries.index(source) for source in item.inputs
        )
        reused = None if item.reused is None else item.reused - first.start
        items.append(Item(item.kind, tuple(shown), inputs, reused))
    number = str(len(folded.blocks))
    form = "one" if len(entries) == 1 else "named"
    kind = Kind(
        "block", number, (*args.values(), REPEAT), form, tuple("xyz"[: len(entries)]) if form == "named" else ()
    )
    calls = {window: (kind, (*(column[index] for column in args), ONCE)) for index, window in enumerate(windows)}
    for where in dict.fromkeys(window.where for window in windows):
        here = {window.start: (window, *calls[window]) for window in windows if window.where == where}
        replaced = _replaced(places[where], here)
        if where:
            folded.blocks[where].items = replaced
        else:
            folded.main = replaced
    folded.blocks[number] = Body(list(args.values()), len(entries), items)


def _by_weight(body: Sequence[Item], columns: Sequence[Sequence[tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """Each value's name and column in the order in which arguments read best: the width first, how often last."""
    named = [
        (name, column)
        for item, values in zip(body, columns, strict=True)
        for name, column in zip(item.kind.names, values, strict=True)
    ]
    weights = {"filters": -2, "units": -2, TIMES: 1, REPEAT: 1}
    return sorted(named, key=lambda pair: weights.get(pair[0], 0))


def _replaced(items: Sequence[Item], calls: Mapping[int, tuple[Window, Kind, tuple[str, ...]]]) -> list[Item]:
    made: list[Item] = []
    moved: list[int] = []
    position = 0
    while position < len(items):
        if position in calls:
            window, kind, values = calls[position]
            entries = entries_of(items[window.start : window.stop], window.start)
            inputs = tuple(source if source < 0 else moved[source] for source in entries)
            made.append(Item(kind, values, inputs))
            moved.extend([len(made) - 1] * (window.stop - window.start))
            position = window.stop
        else:
            made.append(moved_to(items[position], moved))
            moved.append(len(made) - 1)
            position += 1
    return made
