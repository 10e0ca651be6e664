"""What a converter cannot write, in one sentence that names the layer and the operation, for every target alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kerasimg.deploy.quiet import silence
from kerasimg.errors import CallError, KerasimgError, listed
from kerasimg.models.flat_graph import Call, FlatGraph, flatten

Convert = Callable[[keras.Model], object]
"""Writes a model for a target, and opens the file with the target's runtime; raises whatever these raise."""

SEARCH_S = 120
"""How long the layer that cannot be written is looked for, at most."""

OPERATIONS = (
    r"(?:TF Select ops|Custom ops|Flex ops):\s*([\w, ]+)",  # LiteRT
    r"No Op registered for (\w+)",  # ONNX's checker
    r"Tensorflow op \[[^:\]]*: (\w+)\] is not supported",  # tf2onnx
    r"No (?:conversion rule|translator) found for operations?:? ([\w, :]+)",  # OpenVINO
    r"Didn't find op for builtin opcode '(\w+)'",  # TensorFlow Lite Micro
    r"Node number \d+ \((\w+)\) failed",  # LiteRT's runtime
    r"in the (\w+) operator",  # ONNX Runtime
    r"Conversion for TF op '(\w+)' not implemented",  # coremltools
)
"""How the converters and runtimes name an operation that they do not know."""


@contextmanager
def named(target: str, model: keras.Model, convert: Convert, advice: str = "take another target") -> Iterator[None]:
    """Turn what a converter raises into a CallError that names the target, the layer and the operation.

    The layer is found by converting each different layer of the model alone, which takes time only after a failure.

    Args:
        target: the target's name.
        model: the model that is converted in the block.
        convert: converts a model of one layer as the block converts the whole.
        advice: what to do instead.
    """
    try:
        yield
    except (KerasimgError, MemoryError, OSError):
        raise
    except Exception as error:  # each converter has its own, from C++ as RuntimeError
        place, reason = _refused_layer(model, convert, error)
        raise CallError(f"{target}: {place} cannot be written: {cause(reason)}; {advice}") from error


def _refused_layer(model: keras.Model, convert: Convert, error: Exception) -> tuple[str, Exception]:
    """The first layer that cannot be converted alone, with what the converter says of it."""
    graph = flatten(model)
    end = time.monotonic() + SEARCH_S
    seen = set()
    for call in graph.calls:
        if (key := _key(graph, call)) in seen:
            continue
        seen.add(key)
        if time.monotonic() > end:
            return "the model", error
        try:
            with silence(lambda raised: True):
                convert(alone(graph, call))
        except Exception as reason:
            return f"the layer '{call.operation.name}' ({type(call.operation).__name__})", reason
    return "the model, though each of its layers alone can,", error


def _key(graph: FlatGraph, call: Call) -> str:
    """The same for calls that convert alike: of one class, one configuration and one shape of the inputs."""
    config: Any
    try:
        config = {name: value for name, value in call.operation.get_config().items() if name != "name"}
    except Exception:  # an operation, or a layer of someone's own
        config = id(call.operation)
    shapes = [tuple(graph.tensors[number].shape) for number in call.inputs]
    return f"{type(call.operation).__name__} {config} {shapes}"


def alone(graph: FlatGraph, call: Call) -> keras.Model:
    """A model of one call, on inputs of its own."""
    inputs = {
        number: keras.Input(graph.tensors[number].shape[1:], dtype=graph.tensors[number].dtype)
        for number in dict.fromkeys(call.inputs)
    }
    return keras.Model(list(inputs.values()), list(call.run(inputs)))


def signature_of(model: keras.Model) -> list[Any]:
    """What `keras.Model.export` must know of the inputs of such a model: any number of images, as its inputs are."""
    specs = [
        keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=f"input_{number}")
        for number, tensor in enumerate(model.inputs)
    ]
    return specs if len(specs) == 1 else [specs]


def cause(error: Exception) -> str:
    """The operations that a converter names, or the first line of what it says."""
    said = str(error)
    names = {
        name
        for pattern in OPERATIONS
        for found in re.findall(pattern, said)
        for name in re.split(r"[,\s]+", found.strip())
    }
    if names:
        return f"there is no operation for {listed(sorted(names))}"
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300].rstrip(".;:")
