"""Detects repeated structure: calls of layers, one after the other -> the same calls with each repeat once, in blocks.

The block that saves most is made first, then the next, until none saves anything; values that differ from call to call
become its arguments. Equal calls that follow each other become one that is repeated, and the number of times is a
value like any other.

A window of a list can be a block if only its last output is used outside of it and at most `MAX_ENTRIES` tensors enter
it. Windows are alike if their layers, the names of their arguments and their wiring are. What they save is counted
approximately, in characters of the spec.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from kerasimg.models.to_spec.draft import (
    ONCE,
    REPEAT,
    Body,
    Draft,
    Item,
    Kind,
    fresh,
    join_repeats,
    move,
    reference,
    text_of,
)

TIMES = "times"
"""The argument of a block for the number of repeats of one of its nodes."""
MAX_WINDOW = 120
"""Most nodes of a list that are tried as one block."""
MAX_ENTRIES = 3
"""Most tensors that may enter a block."""
NODE_COST = 14
"""The cost of a node without its values, in characters: its line, its braces, the word "layer" or "block"."""
BLOCK_COST = 70
"""The cost of a block without its nodes: its name, "args" and "nodes"."""
NAME_COST = 18
"""The cost of a node's name."""
ENTRY_COST = 30
"""The cost, at each call, of each tensor after the first that enters a block."""
LEAST_SAVING = 20


class Window(NamedTuple):
    where: str
    """The block whose body contains it; "" is the main list."""
    start: int
    stop: int


def detect_blocks(plain: Draft, defaults: Mapping[tuple[str, str], Any]) -> Draft:
    """The same calls, with blocks where they make it shorter."""
    draft = Draft(join_repeats(plain.main), {})
    costs = {(target, name): text_of(value) for (target, name), value in defaults.items()}
    while (best := best_windows(draft, costs)) is not None:
        _make_block(draft, best)
        draft.main = join_repeats(draft.main)
        for body in draft.blocks.values():
            body.items = join_repeats(body.items)
    return draft


def _make_block(draft: Draft, windows: Sequence[Window]) -> None:
    """Replace the windows by calls of a new block."""
    places = {"": draft.main, **{name: body.items for name, body in draft.blocks.items()}}
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
    number = str(len(draft.blocks))
    form = "one" if len(entries) == 1 else "named"
    kind = Kind(
        "block", number, (*args.values(), REPEAT), form, tuple("xyz"[: len(entries)]) if form == "named" else ()
    )
    calls = {window: (kind, (*(column[index] for column in args), ONCE)) for index, window in enumerate(windows)}
    for where in dict.fromkeys(window.where for window in windows):
        here = {window.start: (window, *calls[window]) for window in windows if window.where == where}
        replaced = _replaced(places[where], here)
        if where:
            draft.blocks[where].items = replaced
        else:
            draft.main = replaced
    draft.blocks[number] = Body(list(args.values()), len(entries), items)


def _by_weight(body: Sequence[Item], columns: Sequence[Sequence[tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """Each value's name and column in the order in which arguments read best: the width first, repeats last."""
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
            made.append(move(items[position], moved))
            moved.append(len(made) - 1)
            position += 1
    return made


def best_windows(draft: Draft, defaults: Mapping[tuple[str, str], str]) -> list[Window] | None:
    """The windows that save most as calls of one block; None if none saves anything."""
    places = {"": draft.main, **{name: body.items for name, body in draft.blocks.items()}}
    states: dict[Any, int] = {}
    groups: dict[int, list[Window]] = defaultdict(list)
    for where, items in places.items():
        for state, start, stop in _windows(items, states):
            groups[state].append(Window(where, start, stop))
    sums = {where: _sums(items, defaults) for where, items in places.items()}
    candidates = []
    for windows in groups.values():
        if len(windows) > 1 and len(apart := list(_apart(windows))) > 1 and not _is_power(places, apart[0]):
            costs = [sums[window.where][window.stop] - sums[window.where][window.start] for window in apart]
            candidates.append((sum(costs) - max(costs) - BLOCK_COST - NODE_COST * len(costs), apart))
    candidates.sort(key=lambda candidate: (-candidate[0], candidate[1][0]))
    tandems = [(bound, windows) for bound, windows in candidates if _is_tandem(places, windows)]
    return _most(tandems, places, sums, defaults) or _most(candidates, places, sums, defaults)


class _Links(NamedTuple):
    """For each position of a list: the last user of its output, and the span of the positions that share its layer."""

    last_use: list[int]
    first: list[int]
    last: list[int]


def _links(items: Sequence[Item]) -> _Links:
    last_use = [len(items) if position == len(items) - 1 else position for position in range(len(items))]
    first, last = list(range(len(items))), list(range(len(items)))
    for position, item in enumerate(items):
        for source in item.inputs:
            if source >= 0:
                last_use[source] = max(last_use[source], position)
        if item.reused is not None:
            first[position] = item.reused
            last[item.reused] = position
    return _Links(last_use, first, last)


def _windows(items: Sequence[Item], states: dict[Any, int]) -> Iterator[tuple[int, int, int]]:
    """(state, start, stop) of each window that can be a block; windows of the same state are alike."""
    links = _links(items)
    for start in range(len(items)):
        state, used, shared_first, shared_last = 0, -1, start, start
        entries: list[int] = []
        for position in range(start, min(len(items), start + MAX_WINDOW)):
            item = items[position]
            sources = []
            for source in item.inputs:
                if source < start and source not in entries:
                    entries.append(source)
                sources.append(position - source if source >= start else -1 - entries.index(source))
            shared_first = min(shared_first, links.first[position])
            shared_last = max(shared_last, links.last[position])
            if len(entries) > MAX_ENTRIES or shared_first < start:
                break
            reused = None if item.reused is None else position - item.reused
            token = (state, item.kind, tuple(sources), reused)
            state = states.setdefault(token, len(states) + 1)
            if position > start and used <= position and shared_last <= position:
                yield state, start, position + 1
            used = max(used, links.last_use[position])


def _is_tandem(places: Mapping[str, list[Item]], windows: Sequence[Window]) -> bool:
    """Whether two of the windows follow each other and are the same: as calls of a block, they are one, repeated.

    These become blocks first, or a block would contain one of them and its neighbour would stay outside.
    """
    for first, second in pairwise(windows):
        here = places[first.where]
        bodies = [[item.values for item in here[each.start : each.stop]] for each in (first, second)]
        if first.where == second.where and first.stop == second.start and bodies[0] == bodies[1]:
            return len(entries_of(here[first.start : first.stop], first.start)) == 1
    return False


def _is_power(places: Mapping[str, list[Item]], window: Window) -> bool:
    """Whether a window is a shorter one several times over."""
    tokens = [(item.kind, item.values) for item in places[window.where][window.start : window.stop]]
    lengths = (length for length in range(1, len(tokens) // 2 + 1) if len(tokens) % length == 0)
    return any(tokens[length:] == tokens[:-length] for length in lengths)


def _most(
    candidates: Iterable[tuple[int, list[Window]]],
    places: Mapping[str, list[Item]],
    sums: Mapping[str, Sequence[int]],
    defaults: Mapping[tuple[str, str], str],
) -> list[Window] | None:
    """The candidate that saves most.  candidates: each with a bound to what it saves, the highest first."""
    best, most = None, LEAST_SAVING
    for bound, windows in candidates:
        if bound <= most:
            break
        saving = _saving(places, windows, sums, defaults)
        if saving > most:
            best, most = windows, saving
    return best


def _apart(windows: Iterable[Window]) -> Iterator[Window]:
    """The windows that do not overlap, from the left."""
    ends: dict[str, int] = {}
    for window in sorted(windows):
        if window.start >= ends.get(window.where, 0):
            ends[window.where] = window.stop
            yield window


def _sums(items: Sequence[Item], defaults: Mapping[tuple[str, str], str]) -> list[int]:
    sums = [0]
    for item in items:
        sums.append(sums[-1] + _cost(item, item.values, defaults))
    return sums


def _cost(item: Item, values: Sequence[str], defaults: Mapping[tuple[str, str], str]) -> int:
    """The approximate number of characters of a node."""
    cost = NODE_COST + len(item.kind.target) + 12 * (len(item.inputs) > 1)
    for name, value in zip(item.kind.names, values, strict=True):
        if value != (ONCE if name == REPEAT else defaults.get((item.kind.target, name))):
            cost += len(name) + len(value) + 6
    return cost


def columns_of(places: Mapping[str, list[Item]], windows: Sequence[Window]) -> list[list[tuple[str, ...]]]:
    """For each node of alike windows, for each of its values: the value in each window."""
    bodies = [places[window.where][window.start : window.stop] for window in windows]
    return [list(zip(*(item.values for item in items), strict=True)) for items in zip(*bodies, strict=True)]


def varies(column: Sequence[str]) -> bool:
    """Whether a value must be an argument; one that refers to an argument of its own block must."""
    return len(set(column)) > 1 or reference(column[0]) is not None


def _saving(
    places: Mapping[str, list[Item]],
    windows: Sequence[Window],
    sums: Mapping[str, Sequence[int]],
    defaults: Mapping[tuple[str, str], str],
) -> int:
    """The approximate number of characters that these windows save as calls of one block."""
    before = sum(sums[window.where][window.stop] - sums[window.where][window.start] for window in windows)
    columns = columns_of(places, windows)
    body = places[windows[0].where][windows[0].start : windows[0].stop]
    after = BLOCK_COST
    varying: dict[tuple[str, ...], str] = {}
    for item, values in zip(body, columns, strict=True):
        shown = []
        for name, column in zip(item.kind.names, values, strict=True):
            if varies(column):
                varying.setdefault(column, name)
            shown.append(text_of(f"={name}") if varies(column) else column[0])
        after += _cost(item, shown, defaults)
    after += sum(len(name) + 10 for name in varying.values())
    after += NAME_COST * len(_forked(body, windows[0].start))
    further = len(entries_of(body, windows[0].start)) - 1
    after += ENTRY_COST * further * len(windows)
    usual = {column: Counter(column).most_common(1)[0][0] for column in varying}
    rows = [tuple(column[index] for column in varying) for index in range(len(windows))]
    for index, window in enumerate(windows):
        follows = index > 0 and windows[index - 1] == (window.where, windows[index - 1].start, window.start)
        if follows and rows[index] == rows[index - 1]:
            continue
        after += 0 if follows else NODE_COST + 8
        for column, name in varying.items():
            after += 0 if usual[column] == column[index] else len(column[index]) + (4 if follows else len(name) + 6)
    return before - after


def _forked(body: Sequence[Item], start: int) -> set[int]:
    """The nodes of a window whose output is taken by a node other than the next: they need a name."""
    return {
        source for position, item in enumerate(body, start) for source in item.inputs if start <= source != position - 1
    }


def entries_of(body: Sequence[Item], start: int) -> list[int]:
    """The tensors that enter a window, in the order of use."""
    return list(dict.fromkeys(source for item in body for source in item.inputs if source < start))
