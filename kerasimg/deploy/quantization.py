"""Post-training int8 quantization: ranges and rounding of weights for LiteRT, and operations that stay in float32.

TensorFlow's converter writes a float32 model, measures the range of each value, and quantizes. Between the last two
steps, `quantize` replaces the ranges and the weights:

- The converter's ranges are wrong where an operation writes its output over its input, which then gets the range of the
  output. Here each value is measured while all values are kept.
- The converter rounds each weight to the nearest step. `round_weights` rounds them one after the other, and each next
  weight compensates for the errors before it (GPTQ: Frantar et al. 2023, arXiv:2210.17323), weighted by how the layer's
  inputs vary on the calibration images. This is what depthwise layers with folded batch normalization need: nine
  weights per channel, some of them large.

For LiteRT, ONNX and OpenVINO, `keep_in_float32` then leaves the operations in float32 that change the outputs most, if
too many images are decided differently. LiteRT computes the first, large layers as fast in float32.

Narrower ranges (mean squared or fourth-power error) and cross-layer equalization made MobileNetV2 worse. Correcting
each bias by the mean error of its layer, one layer after the other, gains a fifth of the squared error of the logits,
less than one block in float32, and nothing beside it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy import litert_file

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Fallback

Convert = Callable[..., bytes]
"""`convert(content, names)` quantizes a float32 .tflite file, except the operations with these output names."""

GROUPS = 12
"""Number of groups of operations whose effect on the outputs is measured first."""
MOST_MEASURED = 40
"""Largest number of groups that are measured; afterwards they are not split any more."""
COMPARED = 64
"""Number of images for the effect of a group."""
STEP = 0.1
"""Share of the remaining effects after which the decisions are compared again."""
SMALL = 0.002
"""A squared error below this share of the outputs' variance is left: more in float32 costs more than it changes."""
MEASURED = 32
"""Number of calibration images for the inputs of layers."""
POSITIONS = 64
"""Number of positions of an image at which the inputs of a convolution are sampled."""
MARGIN = 0.1
"""The logits' range is wider than that of the calibration images by this share at each end."""
DAMPING = 0.01
"""Share of the mean variance that is added to each input's, so that the matrix can be inverted."""
LARGEST = 2304
"""Largest number of weights per output to round together; those of larger layers go to the nearest step."""
WITHOUT_INT8 = ("DIV",)
"""Operations that the converter quantizes although LiteRT cannot run them in int8; they stay in float32."""
STEPS = 127
"""Largest quantized weight."""


def quantize(
    content: bytes, convert: Convert, samples: Sequence[Sequence[np.ndarray]], fallback: Fallback | None = None
) -> bytes:
    """Quantizes a float32 model.

    Args:
        content: a float32 .tflite file with ranges, as TensorFlow's converter passes it to its quantizer.
        convert: the quantizer.
        samples: the inputs of each calibration call; the first two are not images but the extreme inputs.
        fallback: by what operations are chosen that stay in float32; None: none do.
    """
    graph = litert_file.FloatGraph(content)
    moments = _measure(graph, content, samples)
    rounded = {place: round_weights(graph.weights(place), moment) for place, moment in moments.items()}

    never = graph.places(WITHOUT_INT8)

    def make(kept: Sequence[int] = ()) -> bytes:
        """Quantizes, except the operations `kept`, whose weights are not rounded either."""
        kept = [*never, *kept]
        weights = {place: values for place, values in rounded.items() if place not in kept}
        return litert_file.match_scales(convert(graph.with_weights(weights), [graph.name(place) for place in kept]))

    return make() if fallback is None else keep_in_float32(make, run, range(graph.count), content, fallback)


Model = TypeVar("Model")
Operation = TypeVar("Operation")


def keep_in_float32(
    make: Callable[[Sequence[Operation]], Model],
    run: Callable[[Model, Sequence[np.ndarray]], np.ndarray],
    operations: Sequence[Operation],
    original: Model,
    fallback: Fallback,
    threshold: float = 0,
    small: float = SMALL,
) -> Model:
    """Returns a quantized model in which as many operations stay in float32 as the fallback requires.

    Groups of neighbouring operations are quantized alone, to measure by how much each changes the outputs. The group
    with the largest effect is split, and its halves measured, until it is one operation; this stays in float32.

    Args:
        make: quantizes a model except some of the operations.
        run: returns the outputs of a model for batches of pixels.
        operations: all operations, in their order.
        original: the model in float32.
        fallback: what is required.
        threshold: as for `Fallback.decide`.
        small: a squared error of the outputs, as a share of their variance, that is enough by itself.
    """
    quantized = make([])
    images = list(fallback.images())
    if not images:
        return quantized
    expected = run(original, images)
    decisions = fallback.decide(expected, threshold)

    def agrees(model: Model) -> bool:
        """Whether enough images are decided alike, or the outputs hardly differ."""
        found = run(model, images)
        same = (decisions == fallback.decide(found, threshold)).reshape(len(decisions), -1).all(1)
        return bool(same.mean() >= fallback.agree or np.square(found - expected).mean() <= small * expected.var())

    if agrees(quantized):
        return quantized
    some = images[:: max(1, len(images) // COMPARED)]
    outputs = run(original, some)
    measured = 0

    def effect(group: Sequence[int]) -> float:
        nonlocal measured
        measured += 1
        others = [each for place, each in enumerate(operations) if place not in group]
        return float(np.square(run(make(others), some) - outputs).mean())

    queue = [(-effect(group), group) for group in _split(range(len(operations)), GROUPS)]
    heapq.heapify(queue)
    kept: list[Operation] = []
    total = rest = -sum(each for each, _ in queue)
    while queue:
        largest, group = heapq.heappop(queue)
        if len(group) > 1 and measured < MOST_MEASURED:
            for half in _split(group, 2):
                heapq.heappush(queue, (-effect(half), half))
            continue
        kept += [operations[place] for place in group]
        rest += largest
        if rest > total * (1 - STEP) and queue:
            continue  # the outputs would hardly have changed
        total = rest
        if agrees(quantized := make(kept)):
            break
    return quantized


def _split(places: Sequence[int], count: int) -> list[list[int]]:
    """Splits places into groups of about the same size."""
    return [group.tolist() for group in np.array_split(places, min(count, len(places)))]


def run(content: bytes, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the outputs of a model for batches of pixels, 0-255."""
    interpreter = _interpreter(content)
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], inputs[0].shape)
    interpreter.allocate_tensors()
    offset = 128 if entry["dtype"] == np.int8 else 0
    rows = []
    for pixels in inputs:
        interpreter.set_tensor(entry["index"], (pixels - offset).astype(entry["dtype"]))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output["index"]))
    return np.concatenate(rows)


def _measure(
    graph: litert_file.FloatGraph, content: bytes, samples: Sequence[Sequence[np.ndarray]]
) -> dict[int, np.ndarray]:
    """Sets the ranges of all values; returns the inputs of each layer with weights as their second moments.

    Returns:
        Place of the operation -> second moments (groups, K, K) of the K inputs of an output.
    """
    interpreter = _interpreter(content, all_values=True)
    entries = interpreter.get_input_details()
    for entry, value in zip(entries, samples[0], strict=True):
        interpreter.resize_tensor_input(entry["index"], value.shape)
    interpreter.allocate_tensors()
    values = [each["index"] for each in interpreter.get_tensor_details() if each["dtype"] == np.float32]
    ranges: dict[int, tuple[float, float]] = {}
    moments: dict[int, np.ndarray] = {}
    layers = [place for place in graph.layers if graph.weights_per_output(place) <= LARGEST]
    random = np.random.default_rng(0)
    every = max(1, len(samples) // MEASURED)
    for number, sample in enumerate(samples):
        for entry, value in zip(entries, sample, strict=True):
            interpreter.set_tensor(entry["index"], value)
        interpreter.invoke()
        for index in values:
            with suppress(ValueError):  # a value inside of a fused operation
                value = interpreter.get_tensor(index)
                if value.size:
                    low, high = ranges.get(index, (np.inf, -np.inf))
                    ranges[index] = min(low, float(value.min())), max(high, float(value.max()))
        if number % every == 0 and (number > 1 or len(samples) <= 2):
            for place in layers:
                inputs = graph.patches(place, interpreter.get_tensor(graph.input(place)), POSITIONS, random)
                moments[place] = moments.get(place, 0) + inputs @ inputs.transpose(0, 2, 1)
    for index in graph.outputs:
        low, high = ranges.get(index, (0.0, 0.0))
        ranges[index] = low - MARGIN * (high - low), high + MARGIN * (high - low)
    graph.set_ranges({index: each for index, each in ranges.items() if np.isfinite(each).all()})
    return moments


def _interpreter(content: bytes, all_values: bool = False) -> Any:
    from ai_edge_litert import interpreter as litert

    settings: dict[str, Any] = {}
    if all_values:
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        settings = {"experimental_preserve_all_tensors": True, "experimental_op_resolver_type": plain}
    return litert.Interpreter(model_content=content, num_threads=cores(), **settings)


def round_weights(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Rounds weights to multiples of their step, so that the outputs change as little as possible.

    Args:
        weights: (groups, outputs, K) float32.
        moments: second moments of the K inputs of each group, (groups, K, K).

    Returns:
        The rounded weights, as float32. The largest of an output is unchanged, because the converter derives the step
        from it.

    Example:
        >>> round_weights(np.array([[[127.0, 0.4, 0.4]]]), np.array([np.ones((3, 3))]))
        array([[[127.,   0.,   1.]]], dtype=float32)
    """
    largest = np.abs(weights).max(-1, keepdims=True)
    step = np.where(largest == 0, 1, largest / STEPS).astype(np.float64)
    count = weights.shape[-1]
    identity = np.eye(count)
    scale = np.trace(moments, axis1=1, axis2=2)[:, None, None] / count
    factors = np.linalg.cholesky(np.linalg.inv(moments + identity * (DAMPING * scale + 1e-9))).transpose(0, 2, 1)
    rest = weights.astype(np.float64)
    rounded = np.zeros_like(rest)
    fixed = np.abs(weights) == largest
    for place in range(count):
        nearest = np.clip(np.round(rest[..., place] / step[..., 0]), -STEPS, STEPS) * step[..., 0]
        rounded[..., place] = np.where(fixed[..., place], weights[..., place], nearest)
        error = (rest[..., place] - rounded[..., place]) / factors[:, None, place, place]
        rest[..., place + 1 :] -= error[..., None] * factors[:, None, place, place + 1 :]
    return np.where(fixed, weights, rounded).astype(np.float32)
