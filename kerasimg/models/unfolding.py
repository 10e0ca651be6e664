"""Whether a spec makes the calls it was folded from: the language's own walk, held against the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerasimg.errors import SpecError
from kerasimg.models.folded import IMAGE, FlatCall
from kerasimg.spec.expand import Call
from kerasimg.spec.load import Spec
from kerasimg.spec.locations import Path


def makes(spec: Spec, calls: Sequence[FlatCall], defaults: Mapping[tuple[str, str], Any]) -> bool:
    """Whether the walk over a spec comes upon these calls, in order, and upon no others."""
    visitor = _Comparison(spec.image.channels, calls, defaults)
    try:
        spec.walk(visitor, _refuse, IMAGE)
    except SpecError:
        return False
    return visitor.agrees and visitor.count == len(calls)


def _refuse(path: Path, message: str) -> None:
    raise SpecError([])


class _Comparison:
    """A visitor that compares; its handles are the numbers of the calls."""

    def __init__(self, channels: int, calls: Sequence[FlatCall], defaults: Mapping[tuple[str, str], Any]) -> None:
        self.channels = channels
        self.calls = calls
        self.defaults = defaults
        self.count = 0
        self.agrees = True
        self.layers: dict[str, int] = {}

    def visit(self, call: Call) -> int:
        """Compare one call with the call at its position."""
        number = self.count
        self.count += 1
        if number < len(self.calls):
            self.agrees = self.agrees and self._same(call, self.calls[number])
        self.layers[call.name] = number
        return number

    def shape(self, handle: Any) -> Sequence[Any]:
        """Only the channels are known."""
        channels = self.channels if handle == IMAGE else self.calls[min(handle, len(self.calls) - 1)].channels
        return (None, None, channels)

    def _same(self, call: Call, wanted: FlatCall) -> bool:
        inputs: Any = call.inputs
        keys: tuple[str, ...] = ()
        if isinstance(inputs, dict):
            form, keys, sources = "named", tuple(inputs), tuple(inputs.values())
        else:
            form, sources = ("list", tuple(inputs)) if isinstance(inputs, list) else ("one", (inputs,))
        target = self.layers.get(call.target) if call.kind == "reuse" else call.target
        meant = wanted.reused if wanted.kind == "reuse" else wanted.target
        names = {*call.arguments, *wanted.arguments}
        defaults = {name: self.defaults.get((wanted.target, name)) for name in names}
        return (call.kind, target, form, keys, sources) == (
            wanted.kind,
            meant,
            wanted.form,
            wanted.keys,
            wanted.inputs,
        ) and {**defaults, **call.arguments} == {**defaults, **wanted.arguments}
