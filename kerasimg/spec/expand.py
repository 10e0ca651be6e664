"""Nodes with macros, tables and repeats -> one call after the other.

The walk is the language's meaning and knows no framework: a `Visitor` makes of each call what it needs, a
symbolic tensor (the builder) or nothing (the check, where shapes are UNKNOWN and so is what depends on them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kerasimg.errors import listed, nearest
from kerasimg.spec.expressions import UNKNOWN, Unknown
from kerasimg.spec.nodes import Block, Node
from kerasimg.spec.places import Path, Report
from kerasimg.spec.reader import shown
from kerasimg.spec.values import evaluate_deep, size_of

MAX_NODES = 20_000
MAX_REPEAT = 10_000
MAX_BLOCK_DEPTH = 32
MAX_WORK = 200_000
"""Values evaluated in all: of arguments, of `let`, of inputs, at each use of them."""
VISIT_WORK = 5
"""What a visit of a node takes besides, in values."""

Handle = Any
"""What a visitor returns for the output of a call."""


class Call(NamedTuple):
    """One layer, backbone or reuse with everything evaluated."""

    kind: str
    target: str
    """The layer class or backbone; for a reuse, the name of the layer that is called again."""
    name: str
    """Unique in the model: the enclosing blocks' names and its own, joined by `_`."""
    owner: str
    """The top-level node that it is part of."""
    arguments: dict[str, Any]
    inputs: Handle | list[Handle] | dict[str, Handle]
    node: Node
    block: str = ""
    """The macro that the top-level node stands for, if it is one."""


class Visitor(Protocol):
    """What makes something of the calls, in order."""

    def visit(self, call: Call) -> Handle:
        """The output of a call."""

    def shape(self, handle: Handle) -> Sequence[Any]:
        """Height, width and channels of an output; None or UNKNOWN for what it has not."""


class ExpansionLimit(Exception):
    """The walk met more than it may; the fault has been reported."""


class _Scope:
    """What the nodes of one list can see."""

    def __init__(self, values: dict[str, Any], entered: Handle, prefix: str, owner: str) -> None:
        self.values = values
        self.entered = entered
        self.previous: Handle = entered
        self.prefix = prefix
        self.owner = owner
        self.outputs: dict[str, Handle] = {}
        self.layers: dict[str, str] = {}
        self.skipped: set[str] = set()
        self.named_by: dict[str, Path] = {}


class Expansion:
    """One walk over the nodes of a spec."""

    def __init__(self, blocks: Mapping[str, Block], visitor: Visitor, report: Report) -> None:
        self.blocks = blocks
        self.visitor = visitor
        self.report = report
        self.visited = 0
        self.work = 0
        self.names: set[str] = set()
        self.reserved: dict[str, _Scope] = {}
        self.counts: dict[str, int] = {}
        self.stack: list[str] = []
        self.params: Mapping[str, Any] = {}

    def run(self, nodes: Sequence[Node], params: Mapping[str, Any], entered: Handle) -> Handle:
        """The output of the last node. params: what expressions may name. entered: the input."""
        self.params = params
        scope = _Scope({**params, **self._shape_names(entered)}, entered, "", "")
        return self._run(nodes, scope)

    def _run(self, nodes: Sequence[Node], scope: _Scope) -> Handle:
        for node in nodes:
            for variant in node.rows or (node,):
                if variant.name:
                    self.reserved.setdefault(scope.prefix + variant.name, scope)
        for node in nodes:
            rows = node.rows if node.rows is not None else (node,)
            for index, row in enumerate(rows):
                counter = {"i": index, "n": len(rows)} if node.rows is not None else {}
                self._run_repeated(row, scope, counter)
        return scope.previous

    def _run_repeated(self, node: Node, scope: _Scope, counter: dict[str, int]) -> None:
        if node.repeat is None:
            self._run_once(node, scope, counter)
            return
        count = self._evaluate(node, "repeat", node.repeat, {**scope.values, **counter})
        if count is UNKNOWN:
            self._run_once(node, scope, {"i": UNKNOWN, "n": UNKNOWN})
        elif isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_REPEAT:
            self.report(_place(node, "repeat"), f"expected an integer from 0 to {MAX_REPEAT:,}, got {shown(count)}")
        else:
            for index in range(count):
                self._run_once(node, scope, {"i": index, "n": count})

    def _run_once(self, node: Node, scope: _Scope, counter: Mapping[str, Any]) -> None:
        self.visited += 1
        self.work += VISIT_WORK
        if self.visited > MAX_NODES:
            self.report(node.path, f"the model has more than {MAX_NODES:,} nodes once expanded")
            raise ExpansionLimit
        values = {**scope.values, **counter}
        when = self._evaluate(node, "when", node.when, values)
        if when is False:
            if node.name:
                scope.skipped.add(node.name)
            return
        if when is not True and when is not UNKNOWN:
            self.report(_place(node, "when"), f"expected true or false, got {shown(when)}")
        inputs = self._inputs(node, scope)
        arguments = {key: self._evaluate(node, key, value, values) for key, value in node.arguments.items()}
        name = self._name(node, scope)
        owner = scope.owner or name
        if node.kind == "block":
            output = self._enter(node, name, owner, arguments, inputs, {**scope.values, **counter})
        else:
            target = self._reused(node, scope) if node.kind == "reuse" else node.target
            output = self.visitor.visit(
                Call(node.kind, target, name, owner, arguments, inputs, node, next(iter(self.stack), ""))
            )
        if node.kind == "layer":
            scope.layers[node.name or name] = name
        if node.name:
            scope.outputs[node.name] = output
            scope.skipped.discard(node.name)
        scope.previous = output

    def _enter(
        self, node: Node, name: str, owner: str, arguments: dict[str, Any], inputs: Any, values: dict[str, Any]
    ) -> Handle:
        """The output of a block's body; its values are the params, its arguments, `let`, and the call's i and n."""
        block = self.blocks.get(node.target)
        if block is None:
            there = listed(self.blocks) or "none"
            self.report(
                _place(node, "block"), f"no block '{node.target}'{nearest(node.target, self.blocks)} (blocks: {there})"
            )
            return UNKNOWN
        if block.name in self.stack or len(self.stack) >= MAX_BLOCK_DEPTH:
            chain = " -> ".join([*self.stack[-6:], block.name])
            self.report(_place(node, "block"), f"blocks inside blocks without end: {chain}")
            return UNKNOWN
        for key in arguments.keys() - block.args.keys():
            there = listed(block.args) or "none"
            self.report(
                _place(node, key),
                f"no such argument of block '{block.name}'{nearest(key, block.args)} (arguments: {there})",
            )
        for key, default in block.args.items():
            if default is None and key not in arguments:
                self.report(node.path, f"missing '{key}', which block '{block.name}' needs")
        entered = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        scope = _Scope(self._block_values(block, arguments, entered, values), entered, f"{name}_", owner)
        if isinstance(inputs, dict):
            scope.outputs.update(inputs)
        self.stack.append(block.name)
        output = self._run(block.nodes, scope)
        self.stack.pop()
        return output

    def _block_values(
        self, block: Block, arguments: Mapping[str, Any], entered: Handle, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a body's expressions see: params, the call's i and n, the input's shape, arguments, then `let`."""
        counter = {"i": values.get("i", 0), "n": values.get("n", 1)}
        inner = {**self.params, **counter, **self._shape_names(entered)}
        defaults = {
            key: UNKNOWN if default is None else self._evaluate_at(default, inner, (*block.path, "args", key))
            for key, default in block.args.items()
            if key not in arguments
        }
        inner |= defaults | {key: value for key, value in arguments.items() if key in block.args}
        for key, value in block.let.items():
            inner[key] = self._evaluate_at(value, inner, (*block.path, "let", key))
        return inner

    def _evaluate(self, node: Node, key: str, value: Any, values: Mapping[str, Any]) -> Any:
        return self._evaluate_at(value, values, _place(node, key))

    def _evaluate_at(self, value: Any, values: Mapping[str, Any], path: Path) -> Any:
        result = evaluate_deep(value, values, path, self.report)
        self._spend(max(size_of(value, MAX_WORK), size_of(result, MAX_WORK)), path)
        return result

    def _spend(self, work: int, path: Path) -> None:
        self.work += work
        if self.work > MAX_WORK:
            self.report(path, f"the model takes more than {MAX_WORK:,} values once expanded")
            raise ExpansionLimit

    def _shape_names(self, entered: Handle) -> dict[str, Any]:
        first = entered[0] if isinstance(entered, list) else entered
        height, width, channels = self.visitor.shape(first)
        return {"in_height": height, "in_width": width, "in_channels": channels}

    def _inputs(self, node: Node, scope: _Scope) -> Any:
        match node.inputs:
            case None:
                return scope.previous
            case str() as name:
                return self._look_up(name, node, ("inputs",), scope)
            case list() as names:
                self._spend(len(names), _place(node, "inputs"))
                return [self._look_up(name, node, ("inputs", index), scope) for index, name in enumerate(names)]
            case dict() as names:
                return {key: self._look_up(name, node, ("inputs", key), scope) for key, name in names.items()}
            case Unknown():
                return UNKNOWN

    def _look_up(self, name: str, node: Node, at: Path, scope: _Scope) -> Handle:
        if name == "in":
            return scope.entered
        if name == "prev":
            return scope.previous
        if name in scope.outputs:
            return scope.outputs[name]
        place = (*_place(node, "inputs"), *at[1:])
        self.report(place, _no_such(name, scope.outputs, scope, ("in", "prev")))
        return UNKNOWN

    def _reused(self, node: Node, scope: _Scope) -> str:
        if node.target not in scope.layers:
            self.report(_place(node, "reuse"), _no_such(node.target, scope.layers, scope, ()))
        for key in node.arguments:
            self.report(_place(node, key), "a reuse has no arguments; the layer keeps its own")
        return scope.layers.get(node.target, "")

    def _name(self, node: Node, scope: _Scope) -> str:
        """Unique in the model; a repeated or unnamed node is numbered as Keras numbers its layers."""
        if node.name and scope.named_by.setdefault(node.name, node.path) != node.path:
            self.report(_place(node, "name"), f"'{node.name}' is the name of an earlier node")
        base = name = scope.prefix + (node.name or snake_case(node.target))
        own = base if node.name and self.reserved[base] is scope else None
        while name in self.names or (name in self.reserved and name != own):
            self.counts[base] = self.counts.get(base, 0) + 1
            name = f"{base}_{self.counts[base]}"
        self.names.add(name)
        return name


def snake_case(name: str) -> str:
    """A class name as Keras names its layers: Conv2D -> conv2d; of a file, its stem."""
    stem = re.sub(r"\W", "_", name.rsplit("/", 1)[-1].removesuffix(".json"))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", stem)).lower()


def _place(node: Node, key: str) -> Path:
    return node.places.get(key, node.path)


def _no_such(name: str, known: Mapping[str, Any], scope: _Scope, also: tuple[str, ...]) -> str:
    if name in scope.skipped:
        return f"node '{name}' was left out by its 'when'"
    there = listed([*known, *also]) or "none"
    return f"no earlier node '{name}' here{nearest(name, known)} (there are: {there})"
