"""Removes arguments of blocks that are not needed: a value that is always the same, or follows from another.

A block's arguments are observed call by call. One that is always the same value
becomes that value; one that is always the number of channels that enter, or a whole multiple or part of those or of
another argument, becomes that expression.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kerasimg.models.to_spec.draft import IMAGE, Body, Draft, FlatCall, Item, fresh, join_repeats
from kerasimg.spec.expressions import evaluate, is_expression, parse
from kerasimg.spec.values import names_in

LEAST_EVIDENCE = 3
"""Calls of a block, before what holds for all of them counts as a rule."""

_EXPRESSION = re.compile(r'"=[^"]*"')

Values = Mapping[str, Any]
"""The arguments of one call of a block, and `in_channels`."""


def simplify_arguments(draft: Draft, calls: Sequence[FlatCall], channels: int) -> Draft:
    """The same blocks with fewer arguments.  calls: those of the draft.  channels: of the image."""
    made = _copy(draft)
    seen = _Observer(made, calls, channels).observe()
    for number, body in made.blocks.items():
        pinned: set[str] = set()
        for name in reversed(list(body.args)):
            if name in pinned:
                continue
            series = [values[name] for values in seen[number]]
            if all(_exactly(value, series[0]) for value in series):
                _substitute(made, number, name, json.dumps(series[0], ensure_ascii=False))
                continue
            others = [other for other in body.args if other != name]
            if (found := _relation(series, others, seen[number])) is not None:
                pinned |= found.bases
                _substitute(made, number, name, json.dumps(found.value, ensure_ascii=False))
    while _drop_unused(made):
        pass
    for number in made.blocks:
        _renumber(made, number)
    made.main = join_repeats(made.main)
    for body in made.blocks.values():
        body.items = join_repeats(body.items)
    return made


class _Observer:
    """Runs through a draft call by call."""

    def __init__(self, draft: Draft, calls: Sequence[FlatCall], channels: int) -> None:
        self.draft = draft
        self.calls = calls
        self.channels = channels
        self.count = 0
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def observe(self) -> Mapping[str, list[dict[str, Any]]]:
        """The arguments of every call of every block."""
        self._run(self.draft.main, {}, [IMAGE])
        return self.seen

    def _run(self, items: Sequence[Item], values: Values, entered: Sequence[int]) -> int:
        outputs: list[int] = []
        for item in items:
            given = dict(zip(item.kind.names, (_evaluated(value, values) for value in item.values), strict=True))
            sources = [entered[-1 - source] if source < 0 else outputs[source] for source in item.inputs]
            for _ in range(given.pop("repeat")):
                sources = [self._call(item, given, sources)]
            outputs.append(sources[0])
        return outputs[-1]

    def _call(self, item: Item, given: Mapping[str, Any], sources: list[int]) -> int:
        if item.kind.kind != "block":
            self.count += 1
            return self.count - 1
        first = sources[0]
        values = {**given, "in_channels": self.channels if first == IMAGE else self.calls[first].channels}
        self.seen[item.kind.target].append(values)
        return self._run(self.draft.blocks[item.kind.target].items, values, sources)


def _evaluated(text: str, values: Values) -> Any:
    value = json.loads(text)
    return evaluate(parse(value), values) if is_expression(value) else value


def _exactly(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


class _Relation(NamedTuple):
    """The value that an argument always equals."""

    value: Any
    """As a spec has it, with expressions."""
    bases: frozenset[str]
    """The arguments that describe it."""


def _relation(series: Sequence[Any], others: Sequence[str], seen: Sequence[Values]) -> _Relation | None:
    """The value that an argument always equals, in terms of the input channels and the other arguments."""
    if all(isinstance(value, list) and len(value) == len(series[0]) for value in series):
        found = [
            _constant(column) or _relation(column, others, seen) for column in map(list, zip(*series, strict=True))
        ]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        return _Relation([part.value for part in parts], frozenset().union(*(part.bases for part in parts)))
    if not all(map(_is_count, series)) or len(seen) < LEAST_EVIDENCE:
        return None
    bases = {base: [values[base] for values in seen] for base in ("in_channels", *others)}
    bases = {base: values for base, values in bases.items() if all(map(_is_count, values))}
    if series == bases.get("in_channels"):
        return _Relation("=in_channels", frozenset())
    for base, values in bases.items():
        factor = series[0] // values[0]
        if factor > 0 and len(set(values)) > 1 and series == [factor * value for value in values]:
            return _Relation(f"={base}" if factor == 1 else f"={factor} * {base}", frozenset({base}))
    whole = bases.get("in_channels", [0])
    part = whole[0] // series[0]
    if part > 1 and whole == [part * value for value in series]:
        return _Relation(f"=in_channels // {part}", frozenset())
    return None


def _constant(column: Sequence[Any]) -> _Relation | None:
    same = all(_exactly(value, column[0]) for value in column)
    return _Relation(column[0], frozenset()) if same else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _substitute(draft: Draft, number: str, name: str, text: str) -> None:
    """Write a value in place of an argument of a block, and no longer give it."""
    body = draft.blocks[number]
    old = json.dumps(f"={name}")
    for item in body.items:
        item.values = tuple(text if value == old else value for value in item.values)
    _remove(draft, number, name)


def _drop_unused(draft: Draft) -> bool:
    """Remove the arguments that the body of their block does not use; whether there were any."""
    unused: list[tuple[str, str]] = []
    for number, body in draft.blocks.items():
        used = frozenset().union(*(names_in(json.loads(value)) for item in body.items for value in item.values))
        unused.extend((number, name) for name in body.args if name not in used)
    for number, name in unused:
        _remove(draft, number, name)
    return bool(unused)


def _renumber(draft: Draft, number: str) -> None:
    """Number the arguments of a block that are left: filters, filters_3 -> filters, filters_2."""
    body = draft.blocks[number]
    renamed: dict[str, str] = {}
    for name in body.args:
        renamed[name] = fresh(re.sub(r"_\d+$", "", name), renamed.values())
    if all(name == new for name, new in renamed.items()):
        return
    names = re.compile(rf"\b({'|'.join(renamed)})\b")
    for item in body.items:
        item.values = tuple(
            _EXPRESSION.sub(lambda found: names.sub(lambda name: renamed[name[0]], found[0]), value)
            for value in item.values
        )
    body.args = [renamed[name] for name in body.args]
    for items in draft.lists():
        for item in items:
            if (item.kind.kind, item.kind.target) == ("block", number):
                item.kind = item.kind._replace(names=tuple(renamed.get(name, name) for name in item.kind.names))


def _remove(draft: Draft, number: str, name: str) -> None:
    draft.blocks[number].args.remove(name)
    for items in draft.lists():
        for item in items:
            if (item.kind.kind, item.kind.target) == ("block", number):
                place = item.kind.names.index(name)
                item.kind = item.kind._replace(names=_without(item.kind.names, place))
                item.values = _without(item.values, place)


def _without(values: tuple[str, ...], place: int) -> tuple[str, ...]:
    return values[:place] + values[place + 1 :]


def _copy(draft: Draft) -> Draft:
    return Draft(
        [Item(**vars(item)) for item in draft.main],
        {
            number: Body(list(body.args), body.entries, [Item(**vars(item)) for item in body.items])
            for number, body in draft.blocks.items()
        },
    )
