"""The visitor that makes Keras layers: calls of the walk -> a functional graph."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras

from kerasimg.errors import Fault, SpecError, WeightsError, listed, nearest
from kerasimg.models import backbones, scaling, weights
from kerasimg.models.budget import Budget, OverBudget
from kerasimg.models.padding import with_padding
from kerasimg.objects import make_layer
from kerasimg.spec import heads
from kerasimg.spec.arguments import entry
from kerasimg.spec.check import check_call
from kerasimg.spec.document import Standardize
from kerasimg.spec.expand import Call, Expansion
from kerasimg.spec.load import Spec
from kerasimg.spec.locations import Faults
from kerasimg.spec.locations import Path as Place
from kerasimg.spec.nodes import Node

OWN_NAMES = ("image", "image_scale")
"""The layers that belong to no node: the input, and the scaling of its pixels."""

AS_THE_SPEC_SAYS: Any = "spec"
"""The value of `weights` that loads what each backbone names."""

BY_AXIS = {"axis", "scale", "offset"}
"""Arguments that Keras' inference of shapes does not check: a layer that has one is traced when its model is built."""

FRAME = "Exception encountered when calling"
NOTHING_LEFT = "output size would be zero or negative"
"""Keras' words for a layer without padding that gets a map smaller than its kernel."""


class Applied(keras.Operation):
    """A function of a tensor, as Keras computes shapes."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.error: Exception | None = None
        """What Keras would hide in a paragraph about shapes."""

    def call(self, values: Any) -> Any:
        try:
            return self.function(values)
        except Exception as error:
            self.error = error
            raise


class Graph:
    """One graph in the making.

    `members` names the layers of each top-level node, `inside` those of the nodes of each backbone that is a spec;
    `later` is to be done in order once the variables have values; it loads those in `from_file`.
    """

    def __init__(self, spec: Spec, budget: Budget, given_weights: Any = AS_THE_SPEC_SAYS, prefix: str = "") -> None:
        self.spec = spec
        self.budget = budget
        self.given_weights = given_weights
        self.prefix = prefix
        self.faults = Faults(dict(spec.document), spec.origins, spec.file)
        self.layers: dict[str, Any] = {}
        self.padding: dict[str, Any] = {}
        """Name of a call -> the layer that pads what enters its layer."""
        self.members: dict[str, list[str]] = {}
        self.inside: dict[str, dict[str, list[str]]] = {}
        self.later: list[Callable[[], None]] = []
        self.from_file: list[Any] = []
        self.from_hub: list[tuple[Any, str, str]] = []
        """Backbone, file of its spec, and the checkpoint on the Hub whose weights it gets before `later` is done."""
        self.backbone_names: list[str] = []
        self._image: Any = None
        self._scaled: dict[str, Any] = {}
        self._scales: dict[str, str | Standardize] = {}
        """Name of the call of a backbone -> how it wants its pixels."""
        self._maps: dict[str, Sequence[str]] = {}
        """Name of the call of a backbone -> its feature maps, where it gives several."""
        self.outputs: Mapping[str, Any] = {}
        """The output of each top-level node."""
        self._call: Call | None = None
        self.unused: frozenset[str] = frozenset()
        """Names of calls that the output does not depend on."""
        self._last = _last_node(spec)

    def make(self, image: Any, nodes: Sequence[Any] | None = None, *, scaled: bool = False) -> Any:
        """The output for a symbolic image. scaled: its pixels are scaled already."""
        if not scaled:
            self._image = image
            self._fits(("image", "size"), None, [image.shape])
        expansion = Expansion(self.spec.blocks, self, self._refuse)
        expansion.names.update(OWN_NAMES)
        names = heads.names(self.spec.task, self.spec.params)
        made = self.spec.nodes if nodes is None else nodes
        output = expansion.run(made, names, image, whole=nodes is None)
        self.unused, self.outputs = expansion.unused, expansion.outputs
        return output

    def report(self, path: Place, message: str) -> NoReturn:
        """Report a fault of the call that is being made, with where it comes from; it ends the making."""
        origin = self._call.origin if self._call else ""
        self._refuse(path, f"{origin}: {message}" if origin else message)

    def _refuse(self, path: Place, message: str) -> NoReturn:
        """A fault ends the making: what follows depends on it."""
        self.faults.report(path, message)
        raise SpecError(self.faults)

    def shape(self, handle: Any) -> Sequence[Any]:
        """(height, width, channels) of a symbolic tensor; of tokens (N, T, C), (None, None, C)."""
        inner = tuple(handle.shape[1:])
        return inner if len(inner) == 3 else (None, None, inner[-1] if inner else None)

    def visit(self, call: Call) -> Any:
        """Make the layer of a call, or find the reused one, and call it."""
        self._call = call
        arguments = check_call(call, self._refuse, self.spec.open)
        if call.node is self._last and call.kind == "layer" and _is_mixed():
            arguments.setdefault("dtype", "float32")  # probabilities and the loss need all their digits
        if call.kind == "reuse":
            layer, wanted = self.layers[call.target], self._scales.get(call.target)
        elif call.kind == "backbone":
            layer, wanted = self._backbone(call, arguments)
            self._scales[call.name] = wanted
        else:
            layer, wanted = self._layer(call, arguments), None
        inputs = _mapped(call.inputs, lambda handle: self._pixels(handle, wanted))
        padding = self.padding.get(call.target if call.kind == "reuse" else call.name)
        try:
            inputs = inputs if padding is None else padding(inputs)
            output = layer(**inputs) if isinstance(inputs, dict) else layer(inputs)
        except Exception as error:  # each backend and each layer raises its own
            self._refuse_inputs(call, error, inputs)
        maps = self._maps.get(call.target if call.kind == "reuse" else call.name)
        if maps:
            output = dict(zip(maps, keras.tree.flatten(output), strict=True))
        elif isinstance(output, (list, tuple)) and "object" in (entry("layers", call.target) or {}):
            output = output[0]  # of a registered layer the first output is the node's
        if not maps and isinstance(output, (list, tuple, dict)):
            self.report(call.node.path, f"{call.target} gives several outputs, and a node has one")
        if call.kind != "reuse":
            self.layers[call.name] = layer
            made = [layer] if padding is None else [padding, layer]
            self.members.setdefault(call.owner, []).extend(layer.name for layer in made)
            self._count(call, layer, output)
        if call.kind == "layer" and BY_AXIS & arguments.keys():
            self.later.append(functools.partial(self._try, call, layer, inputs))
        return output

    def _try(self, call: Call, layer: Any, inputs: Any) -> None:
        """Report arguments that Keras' shape inference believes, and the layer fails with."""
        applied = Applied(layer.call)
        try:
            applied.compute_output_spec(inputs)
        except Exception as error:
            self._call = call
            self._refuse_inputs(call, applied.error or error, inputs)

    def _layer(self, call: Call, arguments: Mapping[str, Any]) -> Any:
        own = {key: value for key, value in arguments.items() if key != "trainable"}
        name = self.prefix + call.name
        own, padding = with_padding(call.target, own, f"{name}_padding")
        if padding is not None:
            self.padding[call.name] = padding
        try:
            layer = make_layer(call.target, own, name)
        except (ValueError, TypeError) as error:
            self.report(call.node.path, _first_line(error))
        if "trainable" in arguments:
            self._set_trainable(layer, arguments["trainable"])
        return layer

    def _set_trainable(self, layer: Any, trainable: bool) -> None:
        """Freeze a layer or not, once its variables have values.

        TensorFlow keeps no gradients of a variable that was frozen when it got its value, even if it trains later.
        """
        self.later.append(lambda: setattr(layer, "trainable", trainable))

    def _backbone(self, call: Call, arguments: Mapping[str, Any]) -> tuple[Any, str | Standardize]:
        """The backbone as a layer, and how it wants its pixels."""
        own = dict(arguments)
        named, trainable, maps = own.pop("weights"), own.pop("trainable"), own.pop("features", None)
        shape = self._input_shape(call)
        described = backbones.describe(call.target, own, self.spec)
        explicit = self.spec.image.scale not in ("auto", "none")
        if described.spec is None and explicit and backbones.scales_inside(call.target):
            self.report(("image", "scale"), f'{call.target} scales the pixels itself: leave "auto"')
        self.backbone_names.append(call.name)
        source = self._weights_file(call, named, described, own, shape)
        try:
            if described.spec is None:
                whole = backbones.application(call.target, own, shape, self.prefix + call.name)
                outputs: Mapping[str, Any] = {inner.name: inner.output for inner in whole.layers} if maps else {}
            else:
                whole, outputs = self._from_spec(described.spec, call, shape, weighted=source is not None)
        except ValueError as error:
            if isinstance(error, SpecError):
                raise
            self.report(call.node.path, _first_line(error))
        if isinstance(source, str):
            self.from_hub.append((whole, call.target, source))
        elif source is not None:
            self.from_file += whole.weights
            self.later.append(lambda: weights.load_backbone(whole, call.target, source))
        layer = self._up_to(whole, outputs, maps, call) if maps else whole
        self._set_trainable(layer, trainable)
        return layer, described.scale

    def _up_to(self, whole: keras.Model, outputs: Mapping[str, Any], maps: Sequence[str], call: Call) -> keras.Model:
        """A backbone that gives several feature maps, without the layers that none of them needs."""
        for index, name in enumerate(maps):
            if name not in outputs:
                there = listed(outputs)
                message = f"{call.target} has no node '{name}'{nearest(name, outputs)} (there are: {there})"
                self.report((*call.node.places["features"], index), message)
        model = functional(self.spec, whole.inputs, [outputs[name] for name in maps], whole.name)
        self._maps[call.name] = maps
        if whole.name in self.inside:
            kept = {layer.name for layer in model.layers}
            self.inside[whole.name] = {
                node: [name for name in names if name in kept] for node, names in self.inside[whole.name].items()
            }
        return model

    def _from_spec(
        self, spec: Spec, call: Call, shape: tuple[int, int, int], weighted: bool
    ) -> tuple[keras.Model, Mapping[str, Any]]:
        """A spec without its head, and the outputs of its nodes.

        weighted: all its weights come from a file, so none need be found for its parts.
        """
        given = None if weighted or self._given(call) is None else AS_THE_SPEC_SAYS
        inner = Graph(spec, self.budget, given, prefix=f"{self.prefix}{call.name}_")
        pixels = keras.Input(shape=shape, name="image")
        output = inner.make(pixels, backbones.feature_nodes(spec), scaled=True)
        self.later.extend(inner.later)
        self.from_hub += inner.from_hub
        self.from_file += inner.from_file
        self.inside |= {**inner.inside, self.prefix + call.name: inner.members}
        return functional(spec, pixels, output, name=self.prefix + call.name), inner.outputs

    def _input_shape(self, call: Call) -> tuple[int, int, int]:
        pixels: Any = call.inputs
        if isinstance(pixels, (list, dict)) or len(pixels.shape) != 4:
            self.report(call.node.path, "a backbone takes one input, an image or a feature map")
        height, width, channels = pixels.shape[1:]
        return height, width, channels

    def _weights_file(
        self,
        call: Call,
        named: Any,
        described: backbones.Backbone,
        arguments: Mapping[str, Any],
        shape: tuple[int, int, int],
    ) -> Path | str | None:
        """The file with the weights of a backbone, or the checkpoint on the Hub that has them."""
        given = self._given(call)
        from_caller = given != AS_THE_SPEC_SAYS
        wanted = given if from_caller else named
        try:
            if wanted is None:
                return None
            if weights.is_on_hub(wanted):
                return str(wanted)
            if wanted != "imagenet":
                return weights.local_file(wanted, self.spec.folder, anywhere=from_caller)
            if described.spec is not None:
                return weights.pretrained_file(described.spec, shape[:2], shape[2], top=False)
            return weights.imagenet_file(call.target, arguments, shape[:2], shape[2])
        except WeightsError as error:
            where = "weights" if from_caller else f"{self.spec.file}: {call.name}.weights"
            raise WeightsError(f"{where}: {error}") from None

    def _given(self, call: Call) -> Any:
        """The weights that the caller gives a backbone."""
        given = self.given_weights
        return given.get(call.name, AS_THE_SPEC_SAYS) if isinstance(given, Mapping) else given

    def _pixels(self, handle: Any, wanted: str | Standardize | None) -> Any:
        """The input of a layer for a handle; for the image, its pixels as the spec or the layer wants them."""
        if handle is not self._image:
            return handle
        said = self.spec.image.scale
        scale = (wanted or "unit") if said == "auto" else said
        key = str(scale)
        if key not in self._scaled:
            name = OWN_NAMES[1] if not self._scaled else f"{OWN_NAMES[1]}_{len(self._scaled)}"
            try:
                self._scaled[key] = scaling.apply_scale(handle, scale, name)
            except ValueError as error:
                self.report(("image", "scale"), str(error))
        return self._scaled[key]

    def _count(self, call: Call, layer: Any, output: Any) -> None:
        if call.kind == "backbone" and call.target.endswith(".json"):
            return  # its layers were counted one by one
        inside = layer.layers if isinstance(layer, keras.Model) else ()
        shapes = [
            *(each.shape for each in keras.tree.flatten(output)),
            *(made.shape for inner in inside for made in _outputs(inner)),
        ]
        self._fits(call.node.path, layer, shapes)

    def _fits(self, place: Place, layer: Any, shapes: Sequence[Any]) -> None:
        try:
            self.budget.count(layer, shapes)
        except OverBudget as error:
            self.report(place, str(error))

    def _refuse_inputs(self, call: Call, error: Exception, inputs: Any) -> NoReturn:
        if isinstance(error, SpecError):
            raise error
        tensors = list(inputs.values()) if isinstance(inputs, dict) else inputs
        names = call.node.inputs
        names = list(names.values()) if isinstance(names, dict) else names
        if isinstance(tensors, list) and isinstance(names, list):
            shapes = ", ".join(f"'{name}' {_shape(tensor)}" for name, tensor in zip(names, tensors, strict=True))
            self.report(call.node.path, f"its inputs do not fit together: {shapes} ({_first_line(error)})")
        reason = _first_line(error)
        if NOTHING_LEFT in reason:
            reason = "no pixel would be left; the images are too small for this model: set image.size higher (--size)"
        self.report(call.node.path, f"does not take {_shape(tensors)}: {reason}")


def _last_node(spec: Spec) -> Node:
    """The node whose output is the model's, inside of whatever blocks."""
    node = spec.nodes[-1]
    while True:
        node = node.rows[-1] if node.rows else node
        if node.kind != "block":
            return node
        node = spec.blocks[node.target].nodes[-1]


def _is_mixed() -> bool:
    policy = keras.config.dtype_policy()
    return bool(policy.compute_dtype != policy.variable_dtype)


def functional(spec: Spec, image: Any, output: Any, name: str) -> keras.Model:
    """The model from an image to an output; SpecError when its layers follow one another too long for Keras."""
    try:
        return keras.Model(image, output, name=name)
    except RecursionError:
        message = "more layers one after another than Keras can follow, about 900"
        raise SpecError([Fault(spec.file, "model", message)]) from None


def _mapped(inputs: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(inputs, list):
        return [function(item) for item in inputs]
    if isinstance(inputs, dict):
        return {key: function(item) for key, item in inputs.items()}
    return function(inputs)


def _outputs(layer: Any) -> list[Any]:
    output = layer.output
    return output if isinstance(output, list) else [output]


def _shape(tensor: Any) -> str:
    if isinstance(tensor, list):
        return " and ".join(map(_shape, tensor))
    sizes = tuple(tensor.shape[1:])
    return "x".join("?" if size is None else str(size) for size in sizes) or "a scalar"


def _first_line(error: Exception) -> str:
    """The first line of an error, without the frame that Keras puts around it."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.startswith(FRAME)), type(error).__name__)
