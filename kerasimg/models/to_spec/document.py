"""A draft -> the `model` and `blocks` of a spec: names for blocks and nodes, defaults, tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kerasimg.models.to_spec.draft import ONCE, REPEAT, Body, Draft, Item, fresh, reference
from kerasimg.spec.expand import snake_case
from kerasimg.spec.nodes import NAME, RESERVED_NAMES

Defaults = Mapping[tuple[str, str], Any]

SHORT_NAMES: Mapping[str, str] = {
    "Conv2D": "conv",
    "DepthwiseConv2D": "depthwise",
    "SeparableConv2D": "separable",
    "BatchNormalization": "bn",
    "LayerNormalization": "norm",
    "ReLU": "relu",
    "ZeroPadding2D": "pad",
    "MaxPooling2D": "pool",
    "AveragePooling2D": "pool",
    "Activation": "act",
    "MultiHeadAttention": "attention",
    "Concatenate": "concat",
}
MERGES = ("Add", "Concatenate", "Multiply", "Average", "Maximum", "Minimum", "Subtract")
LINE_COST = 10
"""The cost of a line besides its characters."""
MAX_SPELLED = 4
"""A block of at most this many nodes is named after all of them: conv_bn_relu."""


def document(draft: Draft, defaults: Defaults) -> dict[str, Any]:
    """{"blocks": ..., "model": ...}.  defaults: by (layer, argument)."""
    return _Writer(draft, defaults).write()


class _Writer:
    def __init__(self, draft: Draft, defaults: Defaults) -> None:
        self.draft = draft
        self.defaults = {key: json.dumps(value, ensure_ascii=False) for key, value in defaults.items()}
        self.block_names: dict[str, str] = {}
        self.order: list[str] = []
        self._name_blocks(draft.main)
        self.usual = {number: self._usual(number, body) for number, body in draft.blocks.items()}

    def write(self) -> dict[str, Any]:
        """The two sections."""
        model = self._nodes(self.draft.main, top=True)
        blocks = {self.block_names[number]: self._block(number) for number in self.order}
        return {**({"blocks": blocks} if blocks else {}), "model": model}

    def _name_blocks(self, items: Sequence[Item]) -> None:
        """Name the blocks that a list calls, those inside of them first."""
        for item in items:
            if item.kind.kind == "block" and item.kind.target not in self.block_names:
                body = self.draft.blocks[item.kind.target]
                self._name_blocks(body.items)
                name = self._block_name(body)
                self.block_names[item.kind.target] = fresh(name, self.block_names.values())
                self.order.append(item.kind.target)

    def _block_name(self, body: Body) -> str:
        leaves = [self._short_name(item) for item in body.items]
        targets = [item.kind.target for item in body.items]
        last = body.items[-1]
        merged = [item for item in body.items if item.kind.target in MERGES]
        if len(leaves) <= MAX_SPELLED and not merged and len(name := "_".join(leaves)) <= 28:
            return name
        if "Multiply" in targets and "GlobalAveragePooling2D" in targets and last.kind.target == "Multiply":
            return "squeeze_excite"
        if any(item.kind.target == "Add" and min(item.inputs) < 0 for item in merged):
            return "residual"
        if any(item.kind.target == "Concatenate" and -1 in item.inputs for item in merged):
            return "dense_unit"
        if any(item.kind.target == "Concatenate" for item in merged):
            return "branches"
        if any(item.kind.kind == "block" and item.repeat != ONCE for item in body.items):
            return "stage"
        return "unit"

    def _short_name(self, item: Item) -> str:
        if item.kind.kind == "block":
            return self.block_names[item.kind.target]
        if item.kind.target == "Activation":
            named = json.loads(item.values[item.kind.names.index("activation")])
            if isinstance(named, str) and reference(json.dumps(named)) is None:
                return named
        return SHORT_NAMES.get(item.kind.target) or snake_case(item.kind.target) or "again"

    def _usual(self, number: str, body: Body) -> dict[str, str]:
        """The arguments of a block that have the same value in most of its calls, and that value."""
        calls = [
            dict(zip(item.kind.names, item.values, strict=True))
            for items in self.draft.lists()
            for item in items
            if (item.kind.kind, item.kind.target) == ("block", number)
        ]
        usual = {}
        for name in body.args:
            own = Counter(call[name] for call in calls if call[name] != "null" and not call[name].startswith('"='))
            if own and (most := own.most_common(1)[0])[1] > 1:
                usual[name] = most[0]
        return usual

    def _block(self, number: str) -> dict[str, Any]:
        body = self.draft.blocks[number]
        args = {name: json.loads(self.usual[number].get(name, "null")) for name in body.args}
        return {**({"args": args} if args else {}), "nodes": self._nodes(body.items, top=False, entries=body.entries)}

    def _nodes(self, items: Sequence[Item], *, top: bool, entries: int = 1) -> list[dict[str, Any]]:
        names = self._names(items, top, "xyz"[:entries] if entries > 1 else "")
        users = Counter(source for item in items for source in item.inputs)
        nodes: list[dict[str, Any]] = []
        position = 0
        while position < len(items):
            stop = self._run_end(items, position, users, len(items) - top)
            singles = [self._node(items, one, names) for one in range(position, stop)]
            table = self._table(items, position, stop, names) if stop - position > 1 else None
            if table is not None and _length([table]) < _length(singles):
                nodes.append(table)
            else:
                nodes.extend(singles)
            position = stop
        return nodes

    def _run_end(self, items: Sequence[Item], start: int, users: Mapping[int, int], end: int) -> int:
        """The end, before `end`, of a run of calls that could be the rows of a table."""
        linked = {item.reused for item in items if item.reused is not None}
        first = items[start]
        alone = first.kind.form != "one" or first.kind.kind == "reuse" or start in linked
        if alone or first.inputs != (start - 1,):
            return start + 1
        stop = start + 1
        while (
            stop < end
            and items[stop].kind == first.kind
            and items[stop].inputs == (stop - 1,)
            and users[stop - 1] == 1
            and stop not in linked
        ):
            stop += 1
        return stop

    def _node(self, items: Sequence[Item], position: int, names: Mapping[int, str]) -> dict[str, Any]:
        item = items[position]
        node = self._head(item, names.get(position))
        if item.kind.kind == "reuse" and item.reused is not None:
            node["reuse"] = names[item.reused]
        inputs = [_source(source, position, names) for source in item.inputs]
        if item.kind.form == "list":
            node["inputs"] = inputs
        elif item.kind.form == "named":
            node["inputs"] = dict(zip(item.kind.keys, inputs, strict=True))
        elif item.inputs != (position - 1,):
            node["inputs"] = inputs[0]
        return {**node, **self._given(item, item.kind.names)}

    def _table(self, items: Sequence[Item], start: int, stop: int, names: Mapping[int, str]) -> dict[str, Any] | None:
        run = items[start:stop]
        columns = dict(zip(run[0].kind.names, zip(*(item.values for item in run), strict=True), strict=True))
        varying = [name for name, values in columns.items() if len(set(values)) > 1]
        if not varying:
            return None
        needed = names.get(stop - 1) if stop - 1 in _referenced(items) else None
        shared = self._given(run[0], [name for name in columns if name not in varying])
        rows = [[json.loads(value) for value in row] for row in zip(*(columns[name] for name in varying), strict=True)]
        return {**self._head(run[0], needed), **shared, "table": [varying, *rows]}

    def _head(self, item: Item, name: str | None) -> dict[str, Any]:
        kind, target = item.kind.kind, item.kind.target
        head: dict[str, Any] = {kind: self.block_names[target] if kind == "block" else target}
        return {**head, "name": name} if name else head

    def _given(self, item: Item, names: Iterable[str]) -> dict[str, Any]:
        """The values of a node, of these names, that are not as they would be anyway."""
        kind, target = item.kind.kind, item.kind.target
        values = dict(zip(item.kind.names, item.values, strict=True))
        wanted = sorted(names, key=lambda name: name != REPEAT)
        given = {}
        for name in wanted:
            default = self.usual[target].get(name) if kind == "block" else self.defaults.get((target, name))
            if values[name] != (ONCE if name == REPEAT else default):
                given[name] = json.loads(values[name])
        return given

    def _names(self, items: Sequence[Item], top: bool, taken: str) -> dict[int, str]:
        """Names of the nodes that others refer to, and, at the top, of those that a person named."""
        users = Counter(source for item in items for source in {*item.inputs})
        referenced = _referenced(items)
        names: dict[int, str] = {}
        for position, item in enumerate(items):
            own = item.name if top and _is_given(item) else ""
            if own and own not in names.values():
                names[position] = own
        for position in sorted(referenced - names.keys()):
            base = "fork" if users[position] > 1 else "branch"
            base = snake_case(items[position].kind.target) if _is_linked(items, position) else base
            names[position] = fresh(base, [*names.values(), *taken])
        return names


def _referenced(items: Sequence[Item]) -> set[int]:
    """Positions that cannot do without a name: another node than the next takes their output, or their layer."""
    outputs = {
        source for position, item in enumerate(items) for source in item.inputs if source not in (position - 1, -1)
    }
    return {source for source in outputs if source >= 0} | {item.reused for item in items if item.reused is not None}


def _is_linked(items: Sequence[Item], position: int) -> bool:
    return any(item.reused == position for item in items)


def _is_given(item: Item) -> bool:
    """Whether a layer's name was chosen by a person, and can be a node's."""
    automatic = re.fullmatch(rf"{re.escape(snake_case(item.kind.target))}(_\d+)?", item.name)
    return bool(NAME.fullmatch(item.name)) and not automatic and item.name not in RESERVED_NAMES


def _source(source: int, position: int, names: Mapping[int, str]) -> str:
    if source == -1:
        return "in"
    if source < 0:
        return "xyz"[-1 - source]
    return "prev" if source == position - 1 else names[source]


def _length(nodes: Sequence[Mapping[str, Any]]) -> int:
    """About how much of a page nodes take: their characters, and their lines; a table has one a row, and three more."""
    lines = sum(len(node["table"]) + 2 if "table" in node else 1 for node in nodes)
    return LINE_COST * lines + sum(len(json.dumps(node, ensure_ascii=False)) for node in nodes)
