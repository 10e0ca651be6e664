"""Report what a converter cannot write in one sentence with the layer and the operation, for every target."""

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
"""Writes a model for a target and opens the file with its runtime; raises their exceptions."""

SEARCH_S = 120
"""Maximum time to search for the layer that cannot be written."""

OPERATIONS = (
    r"(?:TF Select ops|Custom ops|Flex ops):\s*([\w, ]+)",  # LiteRT
    r"No Op registered for (\w+)",  # ONNX's checker
    r"Tensorflow op \[[^:\]]*: (\w+)\] is not supported",  # tf2onnx
    r"No (?:conversion rule|translator) found for operations?:? ([\w, :]+)",  # OpenVINO
    r"Didn't find op for builtin opcode '(\w+)'",  # TensorFlow Lite Micro
    r"Node number \d+ \((\w+)\) failed",  # LiteRT's runtime
    r"in the (\w+) operator",  # ONNX Runtime
    r"no registered schema; [^\n]*\.([A-Za-z]\w*?)\d{4}",  # ONNX's version converter; then both versions
    r"Conversion for TF op '(\w+)' not implemented",  # coremltools
    r"int8 has no operation for (\w+)",  # keras_internals.separate_int8_ranges
)
"""Patterns of the messages in which converters and runtimes name an unknown operation."""


@contextmanager
def name_layer_in_errors(
    target: str, model: keras.Model, convert: Convert, advice: str = "use another target"
) -> Iterator[None]:
    """Turns an exception of a converter into a CallError that names the target, the layer and the operation.

    After a failure, each distinct layer of the model is converted alone to find the one that fails.

    Args:
        target: the target's name.
        model: the model converted in the block.
        convert: converts a model of one layer like the block converts the whole model.
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
    """Returns the first layer that cannot be converted alone, and the converter's exception."""
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
                convert(single_layer_model(graph, call))
        except Exception as reason:
            return f"the layer '{call.operation.name}' ({type(call.operation).__name__})", reason
    return "the model, though each of its layers alone can,", error


def _key(graph: FlatGraph, call: Call) -> str:
    """Returns a key that is equal for calls with the same class, configuration and input shapes."""
    config: Any
    try:
        config = {name: value for name, value in call.operation.get_config().items() if name != "name"}
    except Exception:  # an operation, or a custom layer
        config = id(call.operation)
    shapes = [tuple(graph.tensors[number].shape) for number in call.inputs]
    return f"{type(call.operation).__name__} {config} {shapes}"


def single_layer_model(graph: FlatGraph, call: Call) -> keras.Model:
    """Returns a model of a single call with new inputs."""
    inputs = {
        number: keras.Input(graph.tensors[number].shape[1:], dtype=graph.tensors[number].dtype)
        for number in dict.fromkeys(call.inputs)
    }
    return keras.Model(list(inputs.values()), list(call.run(inputs)))


def signature_of(model: keras.Model) -> list[Any]:
    """Returns the input signature for `keras.Model.export`, with any batch size."""
    specs = [
        keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=f"input_{number}")
        for number, tensor in enumerate(model.inputs)
    ]
    return specs if len(specs) == 1 else [specs]


def cause(error: Exception) -> str:
    """Returns the operations that an exception names, or the first line of its message."""
    message = str(error)
    names = {
        name
        for pattern in OPERATIONS
        for match in re.findall(pattern, message)
        for name in re.split(r"[,\s]+", match.strip())
    }
    if names:
        return f"there is no operation for {listed(sorted(names))}"
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300].rstrip(".;:")
