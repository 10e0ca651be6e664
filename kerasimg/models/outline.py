"""The outline of a spec's model: each call with its inputs, shape and parameters; nothing is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kerasimg.models.budget import Budget, no_variables
from kerasimg.models.graph import Graph
from kerasimg.spec.expand import Call
from kerasimg.spec.load import Spec

IMAGE = "image"
"""The name of the input."""


class Part(NamedTuple):
    """One call of a layer, or a top-level node with all of its calls."""

    name: str
    kind: str
    """The layer's class, the backbone, the block; of a layer that is called again, its name."""
    inputs: tuple[str, ...]
    """Names of the parts whose outputs it takes."""
    shape: tuple[int | None, ...]
    """Of its output, without the batch."""
    params: int
    """0 where a layer is called again: its parameters were counted before."""
    frozen: bool = False
    """Whether the spec says that it does not train."""
    calls: int = 1
    """Number of layer calls; those inside a backbone are not counted."""


class _Outline(Graph):
    """The graph of a spec, with a note of every call."""

    def __init__(self, spec: Spec, limits: Mapping[str, int] | None) -> None:
        super().__init__(spec, Budget(limits), given_weights=None)
        self.parts: list[Part] = []
        self.owners: list[tuple[str, str]] = []
        """For each part, the top-level node and its block; "" if it is not a block."""
        self.made_by: dict[int, str] = {}
        self.made: list[Any] = []

    def visit(self, call: Call) -> Any:
        output = super().visit(call)
        layer = self.layers[call.target if call.kind == "reuse" else call.name]
        again = call.kind == "reuse"
        maps = list(output.values()) if isinstance(output, dict) else [output]
        self.parts.append(
            Part(
                call.name,
                f"{call.target} again" if again else call.target.removeprefix("zoo/").removesuffix(".json"),
                tuple(self.made_by.get(id(tensor), IMAGE) for tensor in _listed(call.inputs)),
                tuple(maps[-1].shape[1:]),
                0 if again else sum(math.prod(variable.shape) for variable in layer.weights),
                call.arguments.get("trainable") is False,
            )
        )
        self.owners.append((call.owner, call.block))
        self.made_by |= {id(each): call.name for each in maps}
        self.made += maps  # so that no other tensor gets its id
        return output


class Outline(NamedTuple):
    """The outline of a spec's model."""

    image: tuple[int, int, int]
    """Height, width, channels."""
    calls: tuple[Part, ...]
    """Every call in order, blocks and tables expanded."""
    nodes: tuple[Part, ...]
    """The same by top-level node."""

    @property
    def params(self) -> int:
        """Of the whole model."""
        return sum(part.params for part in self.calls)


def outline(spec: Spec, *, limits: Mapping[str, int] | None = None) -> Outline:
    """Look at the model of a spec; SpecError where `build` would raise one. Takes milliseconds, and no memory."""
    with no_variables():
        graph = _Outline(spec, limits)
        graph.make(keras.Input(shape=(*spec.image.size, spec.image.channels), name=IMAGE))
    height, width = spec.image.size
    used = [pair for pair in zip(graph.parts, graph.owners, strict=True) if pair[0].name not in graph.unused]
    calls, owners = tuple(part for part, _ in used), [owner for _, owner in used]
    return Outline((height, width, spec.image.channels), calls, tuple(_by_node(calls, owners)))


def _by_node(calls: Sequence[Part], owners: Sequence[tuple[str, str]]) -> Iterable[Part]:
    """One part for each top-level node, in the order in which they end."""
    owner_of = {part.name: owner for part, (owner, _) in zip(calls, owners, strict=True)}
    together: dict[str, list[Part]] = {}
    for part, (owner, _) in zip(calls, owners, strict=True):
        together.setdefault(owner, []).append(part)
    for owner, block in dict.fromkeys(owners):
        parts = together[owner]
        entered = (owner_of.get(name, name) for part in parts for name in part.inputs)
        yield Part(
            owner,
            block or parts[0].kind,
            tuple(dict.fromkeys(name for name in entered if name != owner)),
            parts[-1].shape,
            sum(part.params for part in parts),
            all(part.frozen for part in parts),
            len(parts),
        )


def _listed(inputs: Any) -> list[Any]:
    if isinstance(inputs, dict):
        return list(inputs.values())
    return inputs if isinstance(inputs, list) else [inputs]
