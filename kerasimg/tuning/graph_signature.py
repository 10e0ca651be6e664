"""The outline of a spec's model, without building it: its layer calls, each with a digest of all that determines it.

Two specs with the same outline have the same model, except for the rates of Dropout layers, which are variables of a
compiled graph. If an expression needs the shape of an output ("=in_channels"), the outline takes it from an earlier
model with the same calls. Computing an outline takes about a millisecond.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from kerasimg.errors import SpecError
from kerasimg.models.graph import Graph
from kerasimg.spec.check import check_call
from kerasimg.spec.expand import Call
from kerasimg.spec.load import Spec


class Known(NamedTuple):
    """What an earlier model showed about the output of a call."""

    shape: Sequence[Any]
    """(height, width, channels), as expressions see it."""
    output: tuple[tuple[int | None, ...], str]
    """Shape with the batch dimension, and dtype."""


Calls = MutableMapping[str, Known]
"""By the digest of a call."""

BETWEEN = "between 0 and 1"
"""Placeholder for a rate that is a variable. A rate of 0 is another layer: it has no random generator."""


@dataclass(frozen=True)
class Outline:
    """The layer calls of a model."""

    calls: tuple[tuple[str, str, str], ...]
    """(name, top-level node, digest) of each call, in order."""
    rates: Mapping[str, float]
    """Name of a Dropout layer -> its rate, if that is a variable."""
    frozen: bool
    """Whether a layer is frozen from the start."""
    inputs: Mapping[str, tuple[str, ...]]
    """Digest of a call -> digests of its inputs."""
    again: bool
    """Whether a layer is called more than once."""

    def text(self) -> str:
        """Returns a text that is equal for equal models."""
        return json.dumps(self.calls)


def outline_of(spec: Spec, known: Calls) -> Outline | None:
    """Returns the outline of a spec's model; None if a needed shape is not known or the spec is wrong."""
    walk = _Walk(spec, known)
    try:
        spec.walk(walk, _refuse, image_digest(spec))
    except (_Unknown, SpecError):
        return None
    return Outline(tuple(walk.calls), walk.rates, walk.frozen, walk.inputs, walk.again)


class Recorder(Graph):
    """Builds a model and records the output of each call, and the state of Python's random numbers after it."""

    def make(self, image: Any, nodes: Any = None, *, scaled: bool = False) -> Any:
        """Returns the output for a symbolic image."""
        self.known: dict[str, Known] = {}
        self.random: dict[str, Any] = {}
        self.digests = {id(image): image_digest(self.spec)}
        self.made = [image]  # a reference, so that no other object gets its id
        return super().make(image, nodes, scaled=scaled)

    def visit(self, call: Call) -> Any:
        """Build the layer of a call, and call it."""
        output = super().visit(call)
        arguments = check_call(call, _refuse, self.spec.open)
        digest = digest_of(call, arguments, _each(call.inputs, lambda tensor: self.digests[id(tensor)]))
        maps = output if isinstance(output, dict) else {}
        for handle, each in zip(handles_of(digest, maps), maps.values() or [output], strict=True):
            self.digests[id(each)] = handle
            self.made.append(each)
            self.known[handle] = Known(self.shape(each), (tuple(each.shape), str(each.dtype)))
        self.random[digest] = random.getstate()
        return output


def image_digest(spec: Spec) -> str:
    """Returns the digest of the model's input."""
    return json.dumps([spec.image.size, spec.image.channels, spec.image.model_dump(mode="json")["scale"]])


def digest_of(call: Call, arguments: Mapping[str, Any], inputs: Any) -> str:
    """Returns the digest of all that determines the output of a call.  inputs: the digests of its inputs."""
    if rate_of(call, arguments) is not None:
        arguments = {**arguments, "rate": BETWEEN}
    # The name is part of it: two equal layers have separate weights.
    text = json.dumps([call.name, call.kind, call.target, arguments, inputs], sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def handles_of(digest: str, maps: Iterable[str] | None) -> list[str]:
    """Returns the keys of the outputs of a call: its digest; of several feature maps, the digest and each name."""
    return [f"{digest}.{name}" for name in maps or ()] or [digest]


def rate_of(call: Call, arguments: Mapping[str, Any]) -> float | None:
    """Returns the Dropout rate of a call if it can be a variable, else None."""
    rate = arguments.get("rate")
    plain = call.kind == "layer" and call.target == "Dropout" and arguments.get("noise_shape") is None
    plain = plain and "dtype" not in arguments and isinstance(rate, float | int)
    return float(rate) if plain and rate is not None and 0 < rate < 1 else None


class _Unknown(Exception):
    """A shape that is known only when the model is built."""


def _refuse(path: Any, message: str) -> NoReturn:
    raise _Unknown(message)


class _Walk:
    """Visits the calls without building layers; a handle is a digest."""

    def __init__(self, spec: Spec, known: Calls) -> None:
        self.spec, self.known = spec, known
        self.entered = image_digest(spec)
        self.calls: list[tuple[str, str, str]] = []
        self.rates: dict[str, float] = {}
        self.frozen = self.again = False
        self.inputs: dict[str, tuple[str, ...]] = {}
        self.maps: dict[str, Sequence[str]] = {}
        """The feature maps that a backbone gives, by its name."""

    def visit(self, call: Call) -> str | dict[str, str]:
        arguments = check_call(call, _refuse, self.spec.open)
        digest = digest_of(call, arguments, call.inputs)
        self.calls.append((call.name, call.owner, digest))
        if (rate := rate_of(call, arguments)) is not None:
            self.rates[call.name] = rate
        self.frozen = self.frozen or arguments.get("trainable") is False
        self.again = self.again or call.kind == "reuse"
        inputs = call.inputs
        listed = list(inputs.values()) if isinstance(inputs, dict) else inputs if isinstance(inputs, list) else [inputs]
        self.inputs[digest] = tuple(listed)
        if maps := arguments.get("features") or self.maps.get(call.target):
            self.maps[call.name] = maps
            return dict(zip(maps, handles_of(digest, maps), strict=True))
        return digest

    def shape(self, handle: str) -> Sequence[Any]:
        if handle == self.entered:
            return (*self.spec.image.size, self.spec.image.channels)
        if handle not in self.known:
            raise _Unknown(handle)
        return self.known[handle].shape


def _each(inputs: Any, function: Any) -> Any:
    if isinstance(inputs, list):
        return [function(item) for item in inputs]
    if isinstance(inputs, dict):
        return {key: function(item) for key, item in inputs.items()}
    return function(inputs)
