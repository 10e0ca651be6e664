"""A Keras model -> its calls of layers, one after the other, nested models opened up.

The order is one in which branches are contiguous: of several inputs the one that took the most layers comes first, so
everything that enters a unit comes before it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.keras_internals import calls_of, is_functional, passes_training
from kerasimg.models.flat_graph import functional_of
from kerasimg.models.to_spec.draft import IMAGE, FlatCall
from kerasimg.models.to_spec.keras_ops_to_layers import Tensor, rewrite
from kerasimg.models.to_spec.layer_arguments import Inexpressible, LayerReader, known_name
from kerasimg.objects import find
from kerasimg.spec import arguments


class Reading(NamedTuple):
    """The calls and layers of a model."""

    calls: list[FlatCall]
    layers: list[keras.layers.Layer | None]
    """The layer of each call; None where a layer replaces an operation."""
    size: tuple[int, int]
    channels: int


class _Call(NamedTuple):
    """One call of the model's graph, its tensors replaced by the numbers of the calls that gave them."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int | None, ...]
    dtype: str
    training: bool | None
    bare: bool = False
    """Whether the activation of the layer is read as further calls."""


def read(model: Any) -> Reading:
    """The calls of a functional or sequential model of one image; SpecError lists layers that no spec can express."""
    graph = _functional(model)
    height, width, channels = _image(model, graph)
    calls: list[_Call] = []
    entered = graph.inputs[0]
    produced = {id(entered): Tensor(IMAGE, tuple(entered.shape), "int" in entered.dtype)}
    faults: list[Fault] = []
    _open(graph, produced, calls, None, model.name, faults)
    output = produced.get(id(graph.outputs[0]))
    if faults or output is None:
        raise SpecError(faults)
    writer = _Writer(calls, model.name, channels)
    for number in _order([_sources((call.args, call.kwargs)) for call in calls], output.number):
        writer.write(number, faults)
    if faults:
        raise SpecError(faults)
    if not writer.flat:
        raise CallError(f"'{model.name}' has no layer: its output is its input")
    return Reading(*_sorted(writer, writer.numbers.get(output.number, IMAGE)), (height, width), channels)


def _sorted(writer: _Writer, output: int) -> tuple[list[FlatCall], list[Any]]:
    """The calls and layers in an order that follows from the layers alone, so that a model and its copy agree.

    An operation may have become several layers, which counted as one call before.
    """
    flat, layers = writer.flat, writer.layers
    order = _order([[number for number in call.inputs if number >= 0] for call in flat], output)
    places = {number: place for place, number in enumerate(order)}
    first: dict[int, int] = {}
    calls = []
    for place, number in enumerate(order):
        call = flat[number]
        made_by = number if call.reused is None else call.reused
        if made_by in first:
            call = call._replace(kind="reuse", target="", arguments={}, reused=first[made_by])
        else:
            maker = flat[made_by]
            call = call._replace(kind=maker.kind, target=maker.target, arguments=maker.arguments, reused=None)
            first[made_by] = place
        calls.append(call._replace(inputs=tuple(places.get(source, source) for source in call.inputs)))
    return calls, [layers[number] for number in order]


def _functional(model: Any) -> Any:
    """The functional graph of a model; CallError when it has none."""
    if not isinstance(model, keras.Model):
        raise CallError(f"to_spec takes a Keras model, got {type(model).__name__}")
    if isinstance(model, keras.Sequential):
        model = functional_of(model) or model
        if isinstance(model, keras.Sequential):
            raise CallError(
                f"'{model.name}' has not been built, so the size of its image is unknown: "
                "begin it with keras.Input(shape=(height, width, channels))"
            )
    if not is_functional(model):
        raise CallError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), whose graph only its code knows: "
            "rewrite it as a functional model, keras.Model(inputs, outputs)"
        )
    for what, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if len(tensors) != 1:
            raise CallError(f"'{model.name}' has {len(tensors)} {what}; a spec has one image and one output")
    return model


def _image(model: Any, graph: Any) -> tuple[int, int, int]:
    """(height, width, channels) of the image that enters a model."""
    shape = tuple(graph.inputs[0].shape)
    if len(shape) != 4 or shape[3] not in (1, *range(3, 17)):
        raise CallError(
            f"'{model.name}' takes {shape}; a spec takes an image: (batch, height, width, 1 or 3 to 16 channels)"
        )
    if None in shape[1:]:
        raise CallError(
            f"'{model.name}' takes an image of unknown size, {shape[1:3]}: build it with a size, "
            "keras.Input(shape=(height, width, channels)) or input_shape=..."
        )
    return shape[1], shape[2], shape[3]


def _open(
    graph: Any,
    produced: dict[int, Tensor],
    calls: list[_Call],
    training: bool | None,
    where: str,
    faults: list[Fault],
) -> None:
    """Append the calls of a functional graph; `produced` maps its tensors, by id, to numbers of calls."""
    used = _ids(graph.outputs).union(*(_ids(node.input_tensors) for node in calls_of(graph)))
    for node in calls_of(graph):
        args, kwargs = node.arguments.convert(lambda item: produced.get(id(item), item))
        own = kwargs.pop("training", None)
        own = training if own is None else own
        inner = _inner_graph(node.operation)
        if inner is not None:
            entered = dict(zip(map(id, inner.inputs), _tensors((args, kwargs)), strict=False))
            _open(inner, entered, calls, own, where, faults)
            given = [entered.get(id(tensor)) for tensor in inner.outputs]
        elif len(node.outputs) != 1 and not (_is_registered(node.operation) and not used & _ids(node.outputs[1:])):
            name = node.operation.name
            message = f"gives {len(node.outputs)} outputs, and a node has one: rewrite it as layers of one output" + (
                ", or register it" if not used & _ids(node.outputs[1:]) else ""
            )
            faults.append(Fault(where, name, message))
            given = [Tensor(IMAGE, tuple(tensor.shape)) for tensor in node.outputs]
        else:
            output = node.outputs[0]
            activation = _activation_graph(node.operation, output)
            # Keras takes the output of a merging layer for float32, whatever it merges.
            keeps = KEEPS_VALUES.fullmatch(type(node.operation).__name__)
            integers = any(tensor.integers for tensor in _tensors((args, kwargs))) if keeps else "int" in output.dtype
            if activation is not None and isinstance(node.operation, keras.layers.Activation):
                made = _tensors((args, kwargs))[0]
            else:
                shape, bare = tuple(output.shape), activation is not None
                calls.append(_Call(node.operation, args, kwargs, shape, output.dtype, own, bare))
                made = Tensor(len(calls) - 1, shape, integers)
            given = [made]
            if activation is not None:
                entered = {id(activation.inputs[0]): made}
                _open(activation, entered, calls, own, where, faults)
                given = [entered.get(id(activation.outputs[0]))]
        # Of a registered layer of several outputs, the first is all that is used.
        produced.update(
            (id(tensor), made) for tensor, made in zip(node.outputs, given, strict=False) if made is not None
        )


def _ids(tensors: Iterable[Any]) -> set[int]:
    """Which tensors these are."""
    return {id(tensor) for tensor in tensors}


def _is_registered(operation: Any) -> bool:
    """Whether a program registered the class of a layer."""
    entry = arguments.entry("layers", type(operation).__name__) or {}
    return entry.get("object") is type(operation)


ACTIVATION_LAST = re.compile("Activation|Dense|EinsumDense|(Depthwise|Separable)?Conv[123]D(Transpose)?")
"""Layers that apply their activation to their result."""


def _activation_graph(operation: Any, output: Any) -> Any:
    """The graph of a layer's activation that a spec has no name for; None where it has one, or where it has no graph.

    A partial function, a layer, a registered or other function of Keras' operations: its calls become layers.
    """
    function = getattr(operation, "__dict__", {}).get("activation")
    if function is None or not ACTIVATION_LAST.fullmatch(type(operation).__name__) or _is_named(function):
        return None
    image = keras.Input(batch_shape=output.shape, dtype=output.dtype)
    try:
        return keras.Model(image, function(image))
    except Exception:  # a function that is written for arrays
        return None


def _is_named(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return arguments.entry("activations", name) is not None and find("activations", name) is function


def _inner_graph(operation: Any) -> Any:
    """The graph of a nested model; None when the operation is none, or a model of its own code."""
    if isinstance(operation, keras.Sequential):
        return functional_of(operation)
    return operation if is_functional(operation) else None


def _tensors(structure: Any) -> list[Tensor]:
    """The tensors in call arguments, in order."""
    if isinstance(structure, Tensor):
        return [structure]
    if isinstance(structure, Mapping):
        return [tensor for key in sorted(structure) for tensor in _tensors(structure[key])]
    if isinstance(structure, list | tuple):
        return [tensor for item in structure for tensor in _tensors(item)]
    return []


def _sources(structure: Any) -> list[int]:
    """The numbers of the calls that give the tensors of call arguments."""
    return [tensor.number for tensor in _tensors(structure) if tensor.number >= 0]


def _order(inputs: Sequence[Sequence[int]], output: int) -> list[int]:
    """The calls that the output needs, each after its inputs; the input that took most calls first.

    inputs: of each call, the numbers of the calls that it takes.
    """
    ancestors: list[int] = []
    for number, sources in enumerate(inputs):
        seen = 1 << number
        for source in sources:
            seen |= ancestors[source]
        ancestors.append(seen)
    order: list[int] = []
    done: set[int] = set()
    stack = [output] if output >= 0 else []
    while stack:
        number = stack[-1]
        waiting = [source for source in inputs[number] if source not in done]
        if waiting:
            stack.append(max(waiting, key=lambda source: ancestors[source].bit_count()))
            continue
        stack.pop()
        if number not in done:
            done.add(number)
            order.append(number)
    return order


class _Writer:
    """Calls of the graph -> calls of layers that a spec names."""

    def __init__(self, calls: Sequence[_Call], model_name: str, channels: int) -> None:
        self.calls = calls
        self.model_name = model_name
        self.flat: list[FlatCall] = []
        self.layers: list[Any] = []
        self.shapes: list[tuple[Any, ...]] = []
        self.reader = LayerReader()
        self.first: dict[int, int] = {}
        self.numbers: dict[int, int] = {}
        """Number of a call -> that of the flat call that gave its output."""

    def write(self, number: int, faults: list[Fault]) -> None:
        """Append the layers of one call; a fault is appended when there are none."""
        call = self.calls[number]
        args = _renumbered(call.args, self.numbers)
        kwargs = _renumbered(call.kwargs, self.numbers)
        try:
            self.numbers[number] = self._write(call, args, kwargs)
        except Inexpressible as error:
            faults.append(Fault(self.model_name, call.operation.name, str(error)))
            self.numbers[number] = IMAGE

    def _write(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        layer = call.operation
        _check_dtype(call)
        is_own = isinstance(layer, keras.layers.Layer)
        if is_own and type(layer).__name__ != "CustomScaleLayer":
            _check_training(layer, call.training)
            form, keys, tensors = _inputs(layer, args, kwargs)
            return self._layer(layer, form, keys, tensors, call.shape, call.bare)

        def emit(
            target: str, given: Mapping[str, Any], inputs: Tensor | list[Tensor], shape: tuple[Any, ...] | None = None
        ) -> Tensor:
            form = "list" if isinstance(inputs, list) else "one"
            sources = inputs if isinstance(inputs, list) else [inputs]
            shape = sources[0].shape if shape is None else shape
            self._append(None, "layer", target, given, form, (), sources, shape[-1] if len(shape) > 1 else None)
            return Tensor(len(self.flat) - 1, shape)

        first = len(self.flat)
        output = rewrite(emit, layer, (*args, *kwargs.values()), call.shape)
        if output.number >= first:
            channels = call.shape[-1] if call.shape else None
            self.flat[output.number] = self.flat[output.number]._replace(channels=channels)
        return output.number

    def _layer(
        self, layer: Any, form: str, keys: tuple[str, ...], tensors: list[Tensor], shape: Any, bare: bool
    ) -> int:
        channels = shape[-1] if len(shape) > 1 else None
        if id(layer) in self.first:
            self._append(layer, "reuse", "", {}, form, keys, tensors, channels, self.first[id(layer)])
        else:
            target, given = self.reader.describe(layer, len(tensors[0].shape), bare)
            self.first[id(layer)] = len(self.flat)
            self._append(layer, "layer", target, given, form, keys, tensors, channels, name=layer.name)
        return len(self.flat) - 1

    def _append(
        self,
        layer: Any,
        kind: str,
        target: str,
        given: Mapping[str, Any],
        form: str,
        keys: tuple[str, ...],
        tensors: Sequence[Tensor],
        channels: int | None,
        reused: int | None = None,
        name: str = "",
    ) -> None:
        sources = tuple(tensor.number for tensor in tensors)
        self.flat.append(FlatCall(kind, target, dict(given), form, keys, sources, channels, reused, name))
        self.layers.append(layer)


def _renumbered(structure: Any, numbers: Mapping[int, int]) -> Any:
    """Call arguments with each tensor numbered by the flat call that gives it."""
    if isinstance(structure, Tensor):
        return structure._replace(number=numbers.get(structure.number, structure.number))
    if isinstance(structure, Mapping):
        return {key: _renumbered(item, numbers) for key, item in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(_renumbered(item, numbers) for item in structure)
    return structure


KEEPS_VALUES = re.compile(
    "Identity|Flatten|Reshape|Squeeze|ExpandDims|Permute|Transpose|GetItem|Concatenate|RepeatVector|"
    "(Global|Adaptive)?Max(Pool|Pooling.D)|Maximum|Minimum|(ZeroPadding|Cropping|UpSampling).D|CenterCrop|"
    "TakeToken|TakeChannels|ChannelShuffle"
)
"""Layers and operations whose result is the same in integers and in float32."""


LEAVES_INTEGERS = re.compile("Rescaling|Normalization|Dense|EinsumDense|.*Conv.D.*|Embedding|PatchEmbed")
"""Layers that compute in float32 whatever they take."""


def _check_dtype(call: _Call) -> None:
    """Inexpressible when a call computes in integers, which wrap around and are cut off; a spec computes in float32."""
    name = type(call.operation).__name__
    if KEEPS_VALUES.fullmatch(name) or isinstance(call.operation, keras.Model):
        return
    taken = any(tensor.integers for tensor in _tensors((call.args, call.kwargs)))
    is_layer = isinstance(call.operation, keras.layers.Layer)
    if "int" in call.dtype or (taken and is_layer and not LEAVES_INTEGERS.fullmatch(name)):
        raise Inexpressible(
            "computes in integers, and a spec computes in float32: write keras.ops.cast(x, 'float32') before it"
        )


def _check_training(layer: Any, training: bool | None) -> None:
    """Inexpressible when a call is always made as in training.

    That one is made with training=False says nothing: Keras has a functional model hand its own `training` to every
    layer, whatever was said when the graph was made.
    """
    own = inspect.signature(layer.call).parameters.get("training")
    if training and passes_training(layer) and not (own is not None and own.default is True):
        raise Inexpressible(
            "is called with training=True, which a spec cannot express: leave that to the call of the model"
        )


def _inputs(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, tuple[str, ...], list[Tensor]]:
    """The form of a call's tensors (one, list, named), their names, and the tensors."""
    bound = inspect.signature(layer.call).bind_partial(*args, **kwargs).arguments
    parameters = inspect.signature(layer.call).parameters
    given = {}
    for key, value in bound.items():
        if _tensors(value):
            given[key] = value
        elif value is not None and value != parameters[key].default:
            raise Inexpressible(
                f"is called with {key}={value!r}, which a spec cannot express: make it an argument of your own layer"
            )
    first = next(iter(parameters), "")
    if set(given) == {first}:
        value = given[first]
        if isinstance(value, Tensor):
            return "one", (), [value]
        if isinstance(value, list | tuple) and all(isinstance(item, Tensor) for item in value):
            return "list", (), list(value)
    takes = (arguments.entry("layers", known_name(type(layer))) or {}).get("inputs", ())
    if set(given) <= set(takes) and all(isinstance(value, Tensor) for value in given.values()):
        keys = tuple(key for key in takes if key in given)
        return "named", keys, [given[key] for key in keys]
    raise Inexpressible(f"is called with {', '.join(given)}, which a spec cannot express: give it one tensor or a list")
