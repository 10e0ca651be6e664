"""Nodes with macros, tables and repeats -> one call after the other.

The walk is the language's meaning and knows no framework: a `Visitor` makes of each call what it needs, a
symbolic tensor (the builder) or nothing (the check, where shapes are UNKNOWN and so is what depends on them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kerasimg.errors import listed, nearest
from kerasimg.spec.expressions import UNKNOWN, Unknown
from kerasimg.spec.locations import Path, Report
from kerasimg.spec.nodes import Block, Node
from kerasimg.spec.reader import shown
from kerasimg.spec.values import evaluate_deep, size_of, with_expression

MAX_NODES = 20_000
MAX_REPEAT = 10_000
MAX_BLOCK_DEPTH = 32
MAX_WORK = 200_000
"""Values evaluated in all: of arguments, of `let`, of inputs, at each use of them."""
VISIT_WORK = 5
"""The cost of visiting a node, in values."""
SIDES = ("height", "width", "channels")
OF_PREVIOUS = tuple(f"prev_{side}" for side in SIDES)
"""What an expression calls the sides of the output of the node before."""

Handle = Any
"""The value that a visitor returns for the output of a call."""
Makers = frozenset[int]
"""The numbers of the calls that an output may come from; empty for the image."""


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
    """The macro that the top-level node names, if it is one."""
    origin: str = ""
    """Which table row, blocks and repeats it comes from: `model[3] row 2 -> stage -> bottleneck[0]`; empty where the
    path of the node says it all."""


class Visitor(Protocol):
    """Visits the calls in order."""

    def visit(self, call: Call) -> Handle:
        """The output of a call; of several feature maps, a dict of them by name, of which the last is the node's."""

    def shape(self, handle: Handle) -> Sequence[Any]:
        """Height, width and channels of an output; None or UNKNOWN for what it has not."""


class ExpansionLimit(Exception):
    """The walk met more than it may; the fault has been reported."""


class _Scope:
    """The names that the nodes of one list can see.

    `makers` says of each output, by name, which calls it may come from; of what has no name, `entered_from` and
    `previous_from` do.
    """

    def __init__(self, values: dict[str, Any], entered: Handle, entered_from: Makers, prefix: str, owner: str) -> None:
        self.values = values
        self.entered = entered
        self.entered_from = entered_from
        self.previous: Handle = entered
        self.previous_from = entered_from
        self.prefix = prefix
        self.owner = owner
        self.outputs: dict[str, Handle] = {}
        self.makers: dict[str, Makers] = {}
        self.layers: dict[str, str] = {}
        """Name of a layer or backbone node -> that of its call."""
        self.blocks: dict[str, _Entered] = {}
        self.skipped: set[str] = set()
        self.named_by: dict[str, Path] = {}


class _Made(NamedTuple):
    """A call that was visited, and what its output depends on."""

    name: str
    within: tuple[Path, ...]
    """The paths of the nodes that it is part of, from the top-level one to its own."""
    instances: tuple[int, ...]
    """Of each of those nodes, a number for all its rows and repeats, and one for each of them."""
    inputs: Makers


class _NodeNames(Mapping[str, Any]):
    """Names and their values; the shape of the node before is asked for when an expression needs it.

    A visitor may not know the shape without building the node.
    """

    def __init__(self, known: Mapping[str, Any], shape_names: Callable[[], Mapping[str, Any]]) -> None:
        self._known, self._shape_names = known, shape_names

    def __getitem__(self, name: str) -> Any:
        return self._shape_names()[name] if name in OF_PREVIOUS else self._known[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from OF_PREVIOUS

    def __len__(self) -> int:
        return len(self._known) + len(OF_PREVIOUS)


class _Entered(NamedTuple):
    """A call of a block, as `reuse` repeats it."""

    node: Node
    arguments: dict[str, Any]
    values: dict[str, Any]
    made: list[tuple[Path, str]]
    """In order, the path of the node and the layer of each call that it made."""


class Expansion:
    """One walk over the nodes of a spec."""

    def __init__(self, blocks: Mapping[str, Block], visitor: Visitor, report: Report) -> None:
        self.blocks = blocks
        self.visitor = visitor
        self._report = report
        self._reported: set[tuple[Path, str]] = set()
        self._made: list[_Made] = []
        self._within: list[tuple[Path, int]] = []
        """The nodes that the walk is inside of, each with the number of all its visits (below 0) and of this one."""
        self._excused: set[int] = set()
        """Calls that a node takes which its `when` leaves out."""
        self._origin: list[list[str]] = [["", ""]]
        """Of the top-level node and of each block entered: its name, and the row and repeat that the walk is at."""
        self._of_layer: dict[str, int] = {}
        self._layers: list[tuple[Path, str]] = []
        """Of each call that was visited, the path of its node and the name of its layer."""
        self._again: list[Iterator[tuple[Path, str]]] = []
        """Of each block that is being called again, the calls that are still to be repeated."""
        self.visited = 0
        self.work = 0
        self.names: set[str] = set()
        self.reserved: dict[str, _Scope] = {}
        self.counts: dict[str, int] = {}
        self.stack: list[str] = []
        self.params: Mapping[str, Any] = {}
        self.outputs: dict[str, Handle] = {}
        """The output of each top-level node that was visited, by the name of its call."""

    def run(self, nodes: Sequence[Node], params: Mapping[str, Any], entered: Handle, *, whole: bool = True) -> Handle:
        """Returns the output of the last node.

        Args:
            nodes: of `model` or `augment`.
            params: what expressions may name.
            entered: the input.
            whole: report nodes whose output is not used; False for a part of a model.
        """
        self.params = params
        scope = _Scope({**params, **self._shape_names(entered)}, entered, frozenset(), "", "")
        output = self._run(nodes, scope)
        self._used = self._reachable(scope.previous_from)
        if whole:
            self._report_unused()
        return output

    @property
    def unused(self) -> frozenset[str]:
        """The names of the calls that the output of the walk does not depend on."""
        return frozenset(made.name for number, made in enumerate(self._made) if number not in self._used)

    def report(self, path: Path, message: str, origin: str | None = None) -> None:
        """Report a fault once, with the table row, blocks and repeats that the walk is at.

        Args:
            path: where in the document.
            message: what is wrong.
            origin: instead of where the walk is; "" for a fault that does not depend on it.
        """
        if (path, message) in self._reported:
            return
        self._reported.add((path, message))
        origin = self.origin() if origin is None else origin
        self._report(path, f"{origin}: {message}" if origin else message)

    def _report_expression(self, path: Path, message: str) -> None:
        """Report an expression that has no value; a name that is unknown is so from wherever the block is called."""
        self.report(path, message, "" if ": unknown name '" in message else None)

    def origin(self) -> str:
        """Where the walk is: `model[3] row 2 -> stage -> bottleneck[0]`; empty where the path of the node says it."""
        if len(self._origin) == 1 and not self._origin[0][1]:
            return ""
        return " -> ".join(f"{name}{place}" for name, place in self._origin)

    def _reachable(self, makers: Makers) -> set[int]:
        """The numbers of the calls that these and all before them are."""
        found: set[int] = set()
        rest = list(makers)
        while rest:
            number = rest.pop()
            if number not in found:
                found.add(number)
                rest.extend(self._made[number].inputs - found)
        return found

    def _report_unused(self) -> None:
        """Report each outermost node of which nothing is used, the last one of a chain of them."""
        excused = self._reachable(frozenset(self._excused)) - self._used
        dead = {number for number in range(len(self._made)) if number not in self._used and number not in excused}
        alive = {visit for number, made in enumerate(self._made) if number not in dead for visit in made.instances}
        ends = dead.difference(*(self._made[number].inputs for number in dead))  # where what is before them is lost
        for path in dict.fromkeys(
            next(path for path, visit in zip(made.within, made.instances, strict=True) if visit not in alive)
            for made in (self._made[number] for number in sorted(ends))
        ):
            message = (
                "its output is used by no later node and is not the model's, which is that of the last node: "
                "name it in the 'inputs' of a later node, or remove it"
            )
            self.report(path, message, "")

    def _run(self, nodes: Sequence[Node], scope: _Scope) -> Handle:
        for node in nodes:
            for variant in node.rows or (node,):
                if variant.name:
                    self.reserved.setdefault(scope.prefix + variant.name, scope)
        for node in nodes:
            rows = node.rows if node.rows is not None else (node,)
            if len(self._origin) == 1:
                self._origin[0][0] = "".join(f"[{step}]" if isinstance(step, int) else step for step in node.path[:2])
            self._within.append((node.path, -self.visited))
            for index, row in enumerate(rows):
                counter = {"i": index, "n": len(rows)} if node.rows is not None else {}
                self._origin[-1][1] = f" row {index + 1}" if node.rows is not None else ""
                self._run_repeated(row, scope, counter)
            self._origin[-1][1] = ""
            self._within.pop()
        return scope.previous

    def _run_repeated(self, node: Node, scope: _Scope, counter: dict[str, int]) -> None:
        if node.repeat is None:
            self._run_once(node, scope, counter)
            return
        count = self._evaluate(node, "repeat", node.repeat, self._values(scope, counter))
        if count is UNKNOWN:
            self._run_once(node, scope, {"i": UNKNOWN, "n": UNKNOWN}, certain=False)
        elif isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_REPEAT:
            message = f"expected an integer from 0 to {MAX_REPEAT:,}, got {shown(count)}"
            self.report(_place(node, "repeat"), with_expression(node.repeat, message))
        else:
            row = self._origin[-1][1]
            for index in range(count):
                if node.kind != "block":
                    self._origin[-1][1] = f"{row} i = {index}"
                self._run_once(node, scope, {"i": index, "n": count})

    def _run_once(self, node: Node, scope: _Scope, counter: Mapping[str, Any], *, certain: bool = True) -> None:
        """Visit a node.  certain: whether it is there at all, as far as `repeat` says."""
        self.visited += 1
        self.work += VISIT_WORK
        if self.visited > MAX_NODES:
            self.report(node.path, f"the model has more than {MAX_NODES:,} nodes once expanded")
            raise ExpansionLimit
        values = self._values(scope, counter)
        when = self._evaluate(node, "when", node.when, values)
        if when is False:
            if node.name:
                scope.skipped.add(node.name)
            self._excused |= self._makers(node, scope)
            return
        if when is not True and when is not UNKNOWN:
            message = f"expected true or false, got {shown(when)}"
            self.report(_place(node, "when"), with_expression(node.when, message))
        self._within.append((node.path, self.visited))
        inputs = self._inputs(node, scope)
        makers = self._makers(node, scope)
        arguments = {key: self._evaluate(node, key, value, values) for key, value in node.arguments.items()}
        name = self._name(node, scope)
        owner = scope.owner or name
        entered = scope.blocks.get(node.target) if node.kind == "reuse" and not node.arguments else None
        maps: Mapping[str, Handle] = {}
        if node.kind == "block" or entered is not None:
            repeated = f"[{counter['i']}]" if node.repeat is not None and "i" in counter else ""
            named = self._input_makers(node, scope)
            values = {**scope.values, **counter}
            if entered is not None:
                self._again.append(iter(entered.made))
                arguments, values = entered.arguments, entered.values
            first = len(self._layers)
            called = node if entered is None else node._replace(target=entered.node.target)
            output, made_by = self._enter(called, name, owner, arguments, inputs, makers, named, values, repeated)
            if entered is not None:
                self._again.pop()
            elif node.name:
                scope.blocks[node.name] = _Entered(node, arguments, values, self._layers[first:])
        else:
            kind, target = node.kind, self._reused(node, scope) if node.kind == "reuse" else node.target
            layer = name
            if self._again and kind != "reuse":
                kind, arguments = "reuse", {}
                layer = target = self._repeated(node)
            elif kind == "reuse":
                layer = target
            block = next(iter(self.stack), "")
            output = self.visitor.visit(Call(kind, target, name, owner, arguments, inputs, node, block, self.origin()))
            if isinstance(output, dict):
                maps, output = output, [*output.values()][-1]
            if kind == "reuse" and target in self._of_layer:
                makers |= {self._of_layer[target]}
            made_by = frozenset({len(self._made)})
            self._of_layer[name] = len(self._made)
            self._layers.append((node.path, layer))
            paths, instances = zip(*self._within, strict=True)
            self._made.append(_Made(name, paths, instances, makers))
        if when is UNKNOWN or not certain:  # what it would hand on if it were left out may be used, too
            made_by |= scope.previous_from | scope.makers.get(node.name or "", frozenset())
        if node.kind in ("layer", "backbone"):
            scope.layers[node.name or name] = layer
        if not scope.owner:
            self.outputs[name] = output
        if node.name:
            for key, handle in {"": output, **{f".{key}": handle for key, handle in maps.items()}}.items():
                scope.outputs[node.name + key] = handle
                scope.makers[node.name + key] = made_by
            scope.skipped.discard(node.name)
        scope.previous, scope.previous_from = output, made_by
        self._within.pop()

    def _enter(
        self,
        node: Node,
        name: str,
        owner: str,
        arguments: dict[str, Any],
        inputs: Any,
        makers: Makers,
        named_makers: Mapping[str, Makers],
        values: dict[str, Any],
        repeated: str,
    ) -> tuple[Handle, Makers]:
        """The output of a block's body; its values are the params, its arguments, `let`, and the call's i and n."""
        block = self.blocks.get(node.target)
        if block is None:
            there = listed(self.blocks) or "none"
            self.report(
                _place(node, "block"), f"no block '{node.target}'{nearest(node.target, self.blocks)} (blocks: {there})"
            )
            return UNKNOWN, makers
        if block.name in self.stack or len(self.stack) >= MAX_BLOCK_DEPTH:
            chain = " -> ".join([*self.stack[-6:], block.name])
            self.report(_place(node, "block"), f"blocks inside blocks without end: {chain}", "")
            return UNKNOWN, makers
        for key in sorted(arguments.keys() - block.args.keys()):
            there = listed(block.args) or "none"
            self.report(
                node.columns.get(key, _place(node, key)),
                f"no such argument of block '{block.name}'{nearest(key, block.args)} (arguments: {there})",
                "" if key in node.columns else None,
            )
        for key, default in block.args.items():
            if default is None and key not in arguments:
                place = (*node.path, "table", 0) if node.columns else node.path
                message = f"missing '{key}', which block '{block.name}' needs"
                self.report(place, message, "" if node.columns else None)
        entered = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        entered_from = next(iter(named_makers.values())) if named_makers else makers
        self._origin.append([block.name + repeated, ""])
        scope = _Scope(self._block_values(block, arguments, entered, values), entered, entered_from, f"{name}_", owner)
        if isinstance(inputs, dict):
            scope.outputs.update(inputs)
            scope.makers.update(named_makers)
        self.stack.append(block.name)
        output = self._run(block.nodes, scope)
        self.stack.pop()
        self._origin.pop()
        return output, scope.previous_from

    def _block_values(
        self, block: Block, arguments: Mapping[str, Any], entered: Handle, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a body's expressions see: params, the call's i and n, the input's shape, arguments, then `let`."""
        counter = {"i": values.get("i", 0), "n": values.get("n", 1)}
        inner = {**self.params, **counter, **self._shape_names(entered)}
        for key, default in block.args.items():
            if key in arguments:
                inner[key] = arguments[key]
            else:
                place = (*block.path, "args", key)
                inner[key] = UNKNOWN if default is None else self._evaluate_at(default, inner, place)
        for key, value in block.let.items():
            inner[key] = self._evaluate_at(value, inner, (*block.path, "let", key))
        return inner

    def _evaluate(self, node: Node, key: str, value: Any, values: Mapping[str, Any]) -> Any:
        return self._evaluate_at(value, values, _place(node, key))

    def _evaluate_at(self, value: Any, values: Mapping[str, Any], path: Path) -> Any:
        result = evaluate_deep(value, values, path, self._report_expression)
        self._spend(max(size_of(value, MAX_WORK), size_of(result, MAX_WORK)), path)
        return result

    def _spend(self, work: int, path: Path) -> None:
        self.work += work
        if self.work > MAX_WORK:
            self.report(path, f"the model takes more than {MAX_WORK:,} values once expanded")
            raise ExpansionLimit

    def _values(self, scope: _Scope, counter: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the expressions of a node see: the names of its list, its own i and n, the shape of the node before."""
        previous = scope.previous
        return _NodeNames({**scope.values, **counter}, lambda: self._shape_names(previous, "prev"))

    def _shape_names(self, handle: Handle, prefix: str = "in") -> dict[str, Any]:
        first = handle[0] if isinstance(handle, list) else handle
        sides = zip(SIDES, self.visitor.shape(first), strict=True)
        return {f"{prefix}_{side}": value for side, value in sides}

    def _repeated(self, node: Node) -> str:
        """The layer that a node of a block had when the block was called first."""
        path, layer = next(self._again[-1], ((), ""))
        if path != node.path:
            message = "is not what the block did when it was called first: another shape leads to other nodes"
            self.report(node.path, message)
            return ""
        return layer

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

    def _makers(self, node: Node, scope: _Scope) -> Makers:
        """The calls that the inputs of a node may come from."""
        match node.inputs:
            case str() as name:
                return self._makers_of(name, scope)
            case list() as names:
                return frozenset().union(*(self._makers_of(name, scope) for name in names))
            case dict():
                return frozenset().union(*self._input_makers(node, scope).values())
        return scope.previous_from

    def _input_makers(self, node: Node, scope: _Scope) -> dict[str, Makers]:
        """The same of each named input."""
        named = node.inputs if isinstance(node.inputs, dict) else {}
        return {key: self._makers_of(name, scope) for key, name in named.items()}

    @staticmethod
    def _makers_of(name: str, scope: _Scope) -> Makers:
        if name in ("in", "prev"):
            return scope.entered_from if name == "in" else scope.previous_from
        return scope.makers.get(name, frozenset())

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
            message = _not_reusable(node.target, scope, self.stack, self.reserved)
            self.report(_place(node, "reuse"), message)
        for key in node.arguments:
            self.report(_place(node, key), "a reuse has no arguments; the node keeps its own")
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


def _not_reusable(name: str, scope: _Scope, stack: Sequence[str], reserved: Mapping[str, Any]) -> str:
    """Says why a name cannot be reused, and what to do."""
    if name in scope.outputs:
        return (
            f"'{name}' is an input of the block, and only a node can be called again: name a layer, a block or a "
            "backbone of this list"
        )
    if stack and name in reserved:
        return (
            f"'{name}' is a node outside of the block '{stack[-1]}', and names inside a block are private to it: "
            "a block can call again only its own nodes; write the 'reuse' node beside that node"
        )
    return _no_such(name, {**scope.layers, **scope.blocks}, scope, ())


def _no_such(name: str, known: Mapping[str, Any], scope: _Scope, also: tuple[str, ...]) -> str:
    if name in scope.skipped:
        return f"node '{name}' was left out by its 'when'"
    there = listed([*known, *also]) or "none"
    return f"no earlier node '{name}' here{nearest(name, known)} (there are: {there})"
