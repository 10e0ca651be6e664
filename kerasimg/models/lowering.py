"""The calls of a frozen model as plain TensorFlow operations on constants, for inference alone.

Every batch normalization that directly follows a convolution or a dense layer is folded into its kernel, which is
exact except for rounding (Jacob et al. 2018, arXiv:1712.05877, section 3.2). Constants, because TensorFlow then lays
kernels out for the processor once, and fuses convolution, bias and activation. No XLA: on a processor its convolutions
are many times slower. It works under every backend of Keras, except where a layer has no entry in `LOWERED`: such a
layer is called itself, in float32, and that needs the TensorFlow backend.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from kerasimg.errors import CallError
from kerasimg.models.flat_graph import Call, FlatGraph
from kerasimg.models.lowered_layers import (
    FOLDING,
    LOWERED,
    Run,
    Scaling,
    Working,
    is_normalization,
    normalization_scaling,
)

EXACT = 2
"""Layers with a kernel, from the image on, that stay in float32: what is lost there goes through all that follows. In
MobileNetV2 they cost up to a sixth of the speed and halve the difference (benchmarks/transfer.py --engines)."""


class Step(NamedTuple):
    """One operation of a program."""

    run: Run
    inputs: tuple[int, ...]
    output: int


class Program(NamedTuple):
    """What a frozen model computes."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    folded: int
    """Batch normalizations that are part of a kernel now."""
    called: tuple[str, ...]
    """Layers that are called themselves, having no entry in LOWERED."""

    def __call__(self, images: Any) -> list[Any]:
        """Images (N, H, W, C), float32 0-255 -> the seam, float32, in a graph of TensorFlow."""
        import tensorflow as tf

        values = {self.inputs[0]: images}
        for step in self.steps:
            values[step.output] = step.run(*(values[number] for number in step.inputs))
        return [tf.cast(values[number], tf.float32) for number in self.outputs]


def lower(graph: FlatGraph, working: Working = "float32") -> Program:
    """The program of a frozen model; CallError where the backend cannot run it."""
    if len(graph.inputs) != 1:
        raise CallError("a model with several inputs has no faster form")
    absorbed = _absorbed(graph)
    steps = []
    called = []
    kernels = 0
    for call in graph.calls:
        if any(call is normalization for normalization in absorbed.values()):
            continue
        folded = absorbed.get(id(call))
        scaling = None if folded is None else normalization_scaling(folded.operation)
        kernels += type(call.operation) in FOLDING
        run = _lowered(call, scaling, "float32" if kernels <= EXACT else working)
        if run is None:
            run = _called(call, working)
            called.append(call.operation.name)
        steps.append(Step(run, call.inputs, (folded or call).outputs[0]))
    return Program(tuple(steps), graph.inputs, graph.outputs, len(absorbed), tuple(called))


def _absorbed(graph: FlatGraph) -> dict[int, Call]:
    """Calls with a kernel, by their id -> the batch normalization that becomes part of it."""
    consumers = graph.consumers()
    found = {}
    for call in graph.calls:
        if type(call.operation) not in FOLDING or call.operation.activation is not keras.activations.linear:
            continue
        output = call.outputs[0]
        after = consumers[output]
        if len(after) == 1 and output not in graph.outputs and is_normalization(after[0]):
            found[id(call)] = after[0]
    return found


def _lowered(call: Call, scaling: Scaling | None, working: Working) -> Run | None:
    """The operation by LOWERED; None where it has none for a layer set like this one."""
    make = LOWERED.get(type(call.operation))
    if make is None or getattr(call.operation, "data_format", "channels_last") != "channels_last":
        return None
    if _casts_oddly(call.operation):
        return None
    if type(call.operation) in FOLDING:
        return FOLDING[type(call.operation)](call.operation, scaling, working)
    return make(call, working)


def _casts_oddly(layer: Any) -> bool:
    """Whether a layer computes in a type that the program would not give it."""
    return getattr(layer, "compute_dtype", "float32") not in ("float32", "bfloat16", "float16")


def _called(call: Call, working: Working) -> Run:
    """The layer itself, in float32."""
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise CallError(f"{type(call.operation).__name__} has no faster form under {keras.backend.backend()}")

    def run(*tensors: Any) -> Any:
        given = [tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor for tensor in tensors]
        (output,) = call.run(dict(zip(call.inputs, given, strict=True)))
        return tf.cast(output, working) if output.dtype.is_floating else output

    return run
