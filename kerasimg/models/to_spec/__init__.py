"""keras.Model -> Spec: any functional or sequential model of one image and one output, as a person would write it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kerasimg.catalog import load
from kerasimg.errors import CallError, KerasimgError, SpecError
from kerasimg.models.to_spec.block_arguments import simplify_arguments
from kerasimg.models.to_spec.block_detection import detect_blocks
from kerasimg.models.to_spec.document import LINE_COST, document
from kerasimg.models.to_spec.draft import IMAGE, Draft, FlatCall, draft_of, inline
from kerasimg.models.to_spec.graph_reader import Reading, read
from kerasimg.models.to_spec.layer_arguments import default_value
from kerasimg.spec.expand import Call
from kerasimg.spec.formatting import dumps
from kerasimg.spec.load import Spec
from kerasimg.spec.locations import Path
from kerasimg.spec.nodes import NAME

ABOUT = "From a Keras model, by kerasimg.to_spec."


def to_spec(model: keras.Model, name: str | None = None, *, blocks: bool = True) -> Spec:
    """The spec that builds the same graph; `kerasimg.to_spec` documents the arguments. Nested models are opened."""
    reading = read(model)
    spec_name = _name(model.name) if name is None else name
    about = {
        "kerasimg": 1,
        "name": spec_name,
        "about": ABOUT,
        "image": _image(reading),
        "expect": {"params": _parameters(reading), "output": [None, *model.output_shape[1:]]},
    }
    defaults = _defaults(reading.calls)
    plain = draft_of(reading.calls, defaults)
    if not blocks:
        return load({**about, **document(plain, defaults)})
    spec = load({**about, **_shortest(detect_blocks(plain, defaults), reading, defaults)})
    if not has_calls(spec, reading.calls, defaults):
        raise KerasimgError(
            f"the blocks found in '{model.name}' make another model of it, which is a bug in kerasimg: "
            "please report it; to_spec(model, blocks=False) works without blocks"
        )
    return spec


def copy_weights(model: keras.Model, built: keras.Model) -> None:
    """Copy the weights of a model into the one that its spec builds.

    Args:
        model: the model that `kerasimg.to_spec` described.
        built: what `kerasimg.build` made of that spec.

    Raises:
        CallError: if the two do not have the same layers.

    Example:
        >>> model = kerasimg.build("simple_cnn", num_classes=3)
        >>> built = kerasimg.to_spec(model).build()
        >>> kerasimg.copy_weights(model, built)
        >>> bool((model.get_weights()[0] == built.get_weights()[0]).all())
        True
    """
    layers = [[layer for layer in read(side).layers if layer is not None and layer.weights] for side in (model, built)]
    weights = [[_own_weights(layer) for layer in side] for side in layers]
    shapes = [[[tuple(weight.shape) for weight in own] for own in side] for side in weights]
    if shapes[0] != shapes[1]:
        raise CallError(f"'{built.name}' was not built from the spec of '{model.name}': their weights differ")
    for source, target, own in zip(weights[0], layers[1], weights[1], strict=True):
        for variable, value in zip(own, source, strict=True):
            variable.assign(value)
        if isinstance(target, keras.layers.Normalization):
            target.finalize_state()


def _parameters(reading: Reading) -> int:
    """Parameters of the layers that the output needs; a model may hold others, which its spec does not have."""
    layers = (layer for layer in reading.layers if layer is not None)
    weights = {id(weight): weight for layer in layers for weight in layer.weights}
    return sum(math.prod(weight.shape) for weight in weights.values())


def _own_weights(layer: Any) -> list[Any]:
    """The weights of a layer without those of its activation, which is a layer of its own in a spec."""
    others = {id(weight) for weight in getattr(getattr(layer, "activation", None), "weights", ())}
    return [weight for weight in layer.weights if id(weight) not in others]


def _image(reading: Reading) -> dict[str, Any]:
    channels = {} if reading.channels == 3 else {"channels": reading.channels}
    return {"size": list(reading.size), **channels, "scale": "none"}


def _name(name: str) -> str:
    """A name that a spec may have."""
    made = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]
    return made if NAME.fullmatch(made) else f"_{made}"[:64]


def _defaults(calls: list[FlatCall]) -> dict[tuple[str, str], Any]:
    """The default of each optional argument that some call of a layer gives."""
    given: dict[str, set[str]] = {}
    for call in calls:
        given.setdefault(call.target, set()).update(call.arguments)
    found = {}
    for target, names in given.items():
        for name in names:
            try:
                found[target, name] = default_value(target, name)
            except KeyError:
                continue  # it is required
    return found


def _shortest(draft: Draft, reading: Reading, defaults: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """The sections of a draft, without the blocks that cost more lines than they save."""

    def written(candidate: Draft) -> tuple[int, dict[str, Any]]:
        sections = document(simplify_arguments(candidate, reading.calls, reading.channels), defaults)
        return sum(len(line.strip()) + LINE_COST for line in dumps(sections).splitlines()), sections

    length, best = written(draft)
    for number in reversed(list(draft.blocks)):
        candidate = inline(draft, number)
        if candidate is None:
            continue
        shorter, sections = written(candidate)
        if shorter < length:
            draft, length, best = candidate, shorter, sections
    return best


def has_calls(spec: Spec, calls: Sequence[FlatCall], defaults: Mapping[tuple[str, str], Any]) -> bool:
    """Whether the walk over a spec makes exactly these calls, in order."""
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
