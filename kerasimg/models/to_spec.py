"""keras.Model -> Spec: any functional or sequential model of one image and one output, as a file would have it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import keras

from kerasimg.catalog import load
from kerasimg.errors import CallError, KerasimgError
from kerasimg.models.block_arguments import simplify
from kerasimg.models.calls import Reading, read
from kerasimg.models.folded import FlatCall, Folded, inlined, unfolded
from kerasimg.models.folded_document import LINE_COST, document
from kerasimg.models.folding import fold
from kerasimg.models.layer_arguments import default_value
from kerasimg.models.unfolding import makes
from kerasimg.spec.formatting import dumps
from kerasimg.spec.load import Spec
from kerasimg.spec.nodes import NAME

ABOUT = "From a Keras model, by kerasimg.to_spec."


def to_spec(model: keras.Model, name: str | None = None, *, folded: bool = True) -> Spec:
    """The spec that builds the same graph; its `document` is the dict to write, with `kerasimg.spec.formatting.dumps`.

    model: functional or sequential, of one image (N, height, width, 1 or 3) and one output. Models inside of it are
    opened up. Its weights do not come along: `copy_weights` moves them. The image is taken as the model takes it, so
    its `scale` is "none"; preprocessing that is not in the model must be added to the spec by hand.
    name: of the spec; left out, the model's.
    folded: say what repeats once, in blocks and tables; False gives one node for each layer.

    Raises CallError for what is no such model, SpecError for each layer that a spec cannot say.
    """
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
    plain = unfolded(reading.calls, defaults)
    if not folded:
        return load({**about, **document(plain, defaults)})
    spec = load({**about, **_shortest(fold(plain, defaults), reading, defaults)})
    if not makes(spec, reading.calls, defaults):
        raise KerasimgError(
            f"folding '{model.name}' into blocks made another model of it, which is a fault of kerasimg: "
            "please report it; to_spec(model, folded=False) does without blocks"
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
    layers = [[layer for layer in read(one).layers if layer is not None and layer.weights] for one in (model, built)]
    shapes = [[[tuple(weight.shape) for weight in layer.weights] for layer in side] for side in layers]
    if shapes[0] != shapes[1]:
        raise CallError(f"'{built.name}' was not built from the spec of '{model.name}': their weights differ")
    for source, target in zip(*layers, strict=True):
        target.set_weights(source.get_weights())
        if isinstance(target, keras.layers.Normalization):
            target.finalize_state()


def _parameters(reading: Reading) -> int:
    """Of the layers that the output needs; a model may hold others, which its spec does not have."""
    layers = {id(layer): layer for layer in reading.layers if layer is not None}
    return sum(math.prod(weight.shape) for layer in layers.values() for weight in layer.weights)


def _image(reading: Reading) -> dict[str, Any]:
    channels = {} if reading.channels == 3 else {"channels": reading.channels}
    return {"size": list(reading.size), **channels, "scale": "none"}


def _name(name: str) -> str:
    """A name that a spec may have."""
    made = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]
    return made if NAME.fullmatch(made) else f"_{made}"[:64]


def _defaults(calls: list[FlatCall]) -> dict[tuple[str, str], Any]:
    """Of each argument that some call of a layer gives and need not, what it is where it is left out."""
    given: dict[str, set[str]] = {}
    for call in calls:
        given.setdefault(call.target, set()).update(call.arguments)
    found = {}
    for target, names in given.items():
        for name in names:
            try:
                found[target, name] = default_value(target, name)
            except KeyError:
                continue  # it must be given
    return found


def _shortest(folded: Folded, reading: Reading, defaults: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """The sections of a folded model, without the blocks that do not pay for their lines."""

    def written(candidate: Folded) -> tuple[int, dict[str, Any]]:
        sections = document(simplify(candidate, reading.calls, reading.channels), defaults)
        return sum(len(line.strip()) + LINE_COST for line in dumps(sections).splitlines()), sections

    length, best = written(folded)
    for number in reversed(list(folded.blocks)):
        candidate = inlined(folded, number)
        if candidate is None:
            continue
        shorter, sections = written(candidate)
        if shorter < length:
            folded, length, best = candidate, shorter, sections
    return best
