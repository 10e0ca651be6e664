"""Whether an image is like the training images: a score of a model's last features, and its p-value.

`Known` is what a run stores of it; `with_outputs` adds it to a model as layers, so that every target computes the same.
How it is fitted: `kerasimg.evaluation.known`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kerasimg.boundary import safetensors_arrays
from kerasimg.errors import CallError, counted
from kerasimg.models.flat_graph import Call, flatten
from kerasimg.models.split_model import rebuild
from kerasimg.models.weights import array_of
from kerasimg.spec.pack import KnownRule

OF_FEATURES = ("mean", "directions", "variances", "rest", "centres")
"""The arrays of every method except "energy"."""


@dataclass(frozen=True, eq=False)
class Known:
    """A rule and its arrays, all float32.

    The features f of an image, less `mean` (d,), are projected on `directions` (d, r), in which the features of a class
    have variance 1. Their squared distance to a row of `centres` (M, r) plus the square of what the projection loses,
    times `rest` (1,), is the Mahalanobis distance for the covariance of `directions` and one number for all other
    directions. `variances` (r,) undo the scaling. `scores` (n,), ascending, are those of the images that set the limit.
    """

    rule: KnownRule
    arrays: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """The arrays as safetensors."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(array, np.float32) for name, array in self.arrays.items()})

    @staticmethod
    def of(rule: KnownRule, content: bytes) -> Known:
        """The rule with the arrays of a safetensors file; ValueError where they do not go together."""
        wanted = {"scores"} if rule.method == "energy" else {*OF_FEATURES, "scores"}
        tensors = safetensors_arrays(content)
        if tensors.keys() != wanted:
            raise ValueError(f"expected the arrays {', '.join(sorted(wanted))}")
        arrays = {name: array_of(content, tensor) for name, tensor in tensors.items()}
        for name, array in arrays.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers of type float32")
        scores = arrays["scores"]
        if scores.ndim != 1 or not 1 <= len(scores) <= MOST_SCORES or (np.diff(scores) < 0).any():
            raise ValueError(f"scores: expected 1 to {MOST_SCORES:,} numbers in ascending order")
        if rule.method != "energy":
            (d,), r, m = arrays["mean"].shape, *arrays["variances"].shape, len(arrays["centres"])
            shapes = {"directions": (d, r), "rest": (1,), "centres": (m, r)}
            for name, shape in shapes.items():
                if arrays[name].shape != shape:
                    raise ValueError(f"{name}: expected an array of shape {shape}, found {arrays[name].shape}")
            if rule.neighbour > m:
                raise ValueError(f"neighbour: there are {m} centres, and no number {rule.neighbour}")
        return Known(rule, arrays)


LOST = 1e-5
"""Share of a score, or of a squared length, that differs at most between runtimes in float32."""
MOST_SCORES = 10_000
"""Most images that set a limit."""


class Head(NamedTuple):
    """The last layer with weights of a model."""

    call: Call
    features: int
    """The number of the value that it takes, in the flat graph."""
    width: int
    """Number of features."""

    @property
    def has_logits(self) -> bool:
        """Whether the energy can be computed: a Dense layer with several outputs."""
        return type(self.call.operation) is keras.layers.Dense and self.call.operation.units > 1

    def logits(self, features: np.ndarray) -> np.ndarray | None:
        """What a Dense layer with several outputs gives before its activation (N, K), by features (N, d); else None.

        Of features that are averaged over positions it is the mean over all positions, since the layer is linear.
        """
        if not self.has_logits:
            return None
        dense = self.call.operation
        logits = features @ ops.convert_to_numpy(dense.kernel).astype(np.float32)
        return logits + ops.convert_to_numpy(dense.bias).astype(np.float32) if dense.use_bias else logits


def find_head(model: keras.Model) -> Head | None:
    """The last layer with weights, behind which each layer has one input; None where there is no such layer."""
    graph = flatten(model)
    made_by = {number: call for call in graph.calls for number in call.outputs}
    number = graph.outputs[0]
    while (call := made_by.get(number)) is not None and len(call.inputs) == 1:
        number = call.inputs[0]
        if getattr(call.operation, "weights", ()):
            shape = graph.tensors[number].shape
            return Head(call, number, shape[-1]) if len(shape) > 1 and shape[-1] is not None else None
    return None


def with_outputs(
    model: keras.Model, outputs: Sequence[str], known: Known | None = None, extended: keras.Model | None = None
) -> keras.Model:
    """A model with a dict of outputs.

    Args:
        model: a classifier.
        outputs: "probabilities", the output of `model`; "p_value" (N, 1), by the rule `known`; "features" (N, D), what
            the last layer with weights takes, averaged over positions.
        known: a rule that was fitted to `model`.
        extended: gives the first output instead: the same layers with others behind them.

    Raises:
        CallError: if the model has no such layer, or the rule is for other features.
    """
    head = find_head(model)
    if head is None:
        raise CallError("the model has no last layer with weights and a single input, whose features could be had")
    image, output, features = _rebuilt(model if extended is None else extended, head)
    values = {"probabilities": output}
    if known is not None and "p_value" in outputs:
        check_fits(model, known)
        values["p_value"] = _p_value(features, head, known)
    if "features" in outputs:
        values["features"] = _mean_over_positions(features)
    return keras.Model(image, values, name=model.name)


def p_value_model(head: Head, known: Known) -> keras.Model:
    """A model that gives the p-values (N, 1) of images by their features (N, d), averaged over positions."""
    features = keras.Input((head.width,), dtype="float32")
    return keras.Model(features, _p_value(features, head, known))


def _p_value(features: Any, head: Head, known: Known) -> Any:
    if known.rule.method == "energy":
        values = _Logits(head.call.operation, dtype="float32")(features)
    else:
        values = _Pooled(dtype="float32")(features)
    return PValue(known, dtype="float32", name="known")(values)


def _mean_over_positions(features: Any) -> Any:
    rank = len(features.shape)
    if rank == 2:
        return features
    # A layer of Keras, so that the model can be saved.
    pooling = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}[rank]
    return pooling(data_format="channels_last", dtype="float32")(features)


def outputs_and_features(model: keras.Model) -> keras.Model:
    """A model with two outputs: those of `model`, and what its last layer with weights takes, averaged over positions.

    Raises:
        CallError: if there is no such layer with a single input.
    """
    both = with_outputs(model, ("probabilities", "features"))
    return keras.Model(both.input, [both.output["probabilities"], both.output["features"]], name=model.name)


def check_fits(model: keras.Model, known: Known) -> Head:
    """The model's head; CallError if the rule is for other features than the model has."""
    head = find_head(model)
    if head is None:
        raise CallError("known: the model has no last layer with weights and a single input")
    if known.rule.method == "energy":
        if not head.has_logits:
            raise CallError("known: the energy needs a last layer Dense with several outputs")
    elif (width := known.arrays["mean"].shape[0]) != head.width:
        raise CallError(f"known: its rule is for {counted(width, 'feature')}, and the model has {head.width}")
    return head


def _rebuilt(model: keras.Model, head: Head) -> tuple[Any, Any, Any]:
    """Input, output and features of the model on an input of its own."""
    graph = flatten(model)
    [entry] = model.inputs
    image = keras.Input(entry.shape[1:], dtype=entry.dtype, name="pixels")
    *_, call = (call for call in graph.calls if call.operation is head.call.operation)
    inner = rebuild(graph.calls, graph.inputs, [image], [graph.outputs[0], call.inputs[0]], model.name)
    return image, *inner.outputs


class _Pooled(keras.layers.Layer):
    """The mean over all positions: (N, ..., C) -> (N, C)."""

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        axes = tuple(range(1, len(inputs.shape) - 1))
        return ops.mean(inputs, axis=axes) if axes else inputs


class _Logits(keras.layers.Layer):
    """The output of a Dense layer before its activation, averaged over all positions; it shares the weights."""

    def __init__(self, dense: keras.layers.Dense, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = dense

    def build(self, input_shape: Any) -> None:
        """The weights are those of the other layer."""
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        logits = ops.matmul(inputs, ops.cast(self.dense.kernel, "float32"))
        if self.dense.use_bias:
            logits = logits + ops.cast(self.dense.bias, "float32")
        axes = tuple(range(1, len(logits.shape) - 1))
        return ops.mean(logits, axis=axes) if axes else logits


class PValue(keras.layers.Layer):
    """Features or logits -> the p-value (N, 1): the share of images that are at least as unlike, by split conformal."""

    def __init__(self, known: Known, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = known.rule
        self.constants = _Constants(known.arrays)

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        scores = ops.convert_to_tensor(with_ties(self.rule, self.constants))
        unlike = ops.sum(
            ops.cast(scores[None] >= score(inputs, self.rule, self.constants), "float32"), 1, keepdims=True
        )
        return (unlike + 1) / (scores.shape[0] + 1)


class _Constants(Mapping[str, np.ndarray]):
    """Arrays that Keras does not track as variables."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Any:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def with_ties(rule: KnownRule, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The scores that images were held out with, (n,), each with what float32 may lose on another runtime added.

    So equal images, and an image that was held out itself, count as at least as unlike everywhere. The p-values become
    no smaller, so no more images are flagged as unknown than requested.
    """
    scores = arrays["scores"]
    if rule.method == "energy":
        return scores + LOST * np.abs(scores)
    # A squared distance is a difference of squared lengths.
    return np.sqrt(np.square(scores) + LOST * np.square(arrays["centres"]).sum(axis=1).max())


def score(values: Any, rule: KnownRule, arrays: Mapping[str, np.ndarray]) -> Any:
    """How unlike the training images (N, 1), of features (N, d), or of logits (N, K) for the method "energy"."""
    if rule.method == "energy":  # Liu et al. 2020, arXiv:2010.03759
        return -ops.logsumexp(values, axis=1, keepdims=True)
    # PyTorch's tensors do not compute with NumPy's arrays.
    mean, directions, variances, rest = (ops.convert_to_tensor(arrays[name]) for name in OF_FEATURES[:4])
    centred = ops.convert_to_tensor(values) - mean
    z = ops.matmul(centred, directions)
    inside = ops.sum(ops.square(z) * variances, axis=1, keepdims=True)
    lost = ops.maximum(ops.sum(ops.square(centred), axis=1, keepdims=True) - inside, 0) * rest
    centres = arrays["centres"]
    # |z - c|^2 = |z|^2 - 2 z c + |c|^2
    lengths = ops.convert_to_tensor(np.square(centres).sum(axis=1))
    near = lengths - ops.matmul(z, ops.convert_to_tensor((2 * centres).T))
    if rule.neighbour == 1:
        nearest = ops.min(near, axis=1, keepdims=True)
    else:
        nearest = -ops.top_k(-near, rule.neighbour)[0][:, -1:]
    own = ops.sum(ops.square(z), axis=1, keepdims=True)
    return ops.sqrt(ops.maximum(nearest + own, 0) + lost)
