"""Weight decay as `compile` asks for it: added to the gradient or to the weight, and left out for some weights.

Keras' optimizers decay a weight by itself: `w -= rate * decay * w` ("decoupled", Loshchilov and Hutter 2019,
arXiv:1711.05101). The papers before AdamW, PyTorch's SGD, Adam and RMSprop, and TensorFlow's L2 losses add `decay * w`
to the gradient ("coupled"), which momentum then multiplies: by 10 at a momentum of 0.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg import keras_internals
from kerasimg.spec.document import Compile, WeightKind

LAYER_SCALES = ("LayerScale",)
DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")


def weight_kind(layer_class: str, name: str) -> WeightKind | None:
    """Returns the kind of a weight, by which `compile.exclude_from_weight_decay` names it.

    Args:
        layer_class: name of the class of the layer of the model that has the weight.
        name: of the weight in the layer: "kernel", "gamma".

    Returns:
        The kind; None for matrices and filters, which every paper decays.
    """
    if layer_class in LAYER_SCALES:
        return "layer_scale"
    if layer_class == "ClassToken":
        return "token"
    if layer_class == "PositionEmbedding" or (layer_class == "WindowAttention" and name == "relative_position_bias"):
        return "position"
    if (layer_class in DEPTHWISE and name == "kernel") or name == "depthwise_kernel":
        return "depthwise"
    if name == "bias" or name.endswith("_bias"):
        return "bias"
    if name in ("gamma", "beta") or (layer_class == "RMSNormalization" and name == "scale"):
        return "norm"
    return None


def excluded_weights(model: keras.Model, kinds: list[WeightKind]) -> frozenset[int]:
    """Returns the ids of the weights of a model that are of one of the kinds."""
    return frozenset(
        id(weight)
        for layer in _layers(model)
        for weight in layer.weights
        if weight_kind(type(layer).__name__, weight.name) in kinds
    )


def with_weight_decay(optimizer: Any, compiled: Compile, model: keras.Model | None) -> Any:
    """Returns an optimizer, not yet built, that decays the weights as `compile` says.

    Args:
        optimizer: of Keras, with its `weight_decay`.
        compiled: `weight_decay_mode` and `exclude_from_weight_decay`.
        model: has the weights; may be None where no kind is excluded.

    Raises:
        ValueError: if weights are to be excluded and there is no model to find them in.
    """
    kinds = compiled.exclude_from_weight_decay
    coupled = compiled.weight_decay_mode == "coupled"
    if optimizer.weight_decay is None or not (coupled or kinds):
        return optimizer
    if kinds and model is None:
        raise ValueError("exclude_from_weight_decay needs the model whose weights are excluded")
    excluded = excluded_weights(model, kinds) if model is not None else frozenset()
    kind: Any = type(optimizer)
    base = _Coupled if coupled else _Excluding
    made: Any = type(kind.__name__, (base, kind), {"excluded": excluded, "__module__": __name__})
    return made.from_config(optimizer.get_config())


class _Excluding:
    """Comes before a Keras optimizer in the order of its classes: leaves weights out of the decay."""

    excluded: ClassVar[frozenset[int]] = frozenset()
    """ids of the weights that do not decay."""

    def build(self: Any, variables: Any) -> None:
        """Exclude the weights, then build the optimizer."""
        if not self.built:
            self.exclude_from_weight_decay(var_list=[item for item in variables if id(item) in self.excluded])
        super().build(variables)  # type: ignore[misc]


class _Coupled(_Excluding, keras_internals.OptimizerHooks):
    """Adds the decay to the gradient: what momentum and running squares see, on every backend."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step with the decay in its gradient."""
        super().update_step(self._decayed(gradient, variable), variable, learning_rate)  # type: ignore[misc]

    def update_many(self: Any, update: Any, gradients: Any, variables: Any, rate: Any) -> None:
        """The step of all variables, with the decay in their gradients."""
        decayed = [self._decayed(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]
        super().update_many(update, decayed, variables, rate)

    def decay_many(self, decay: Any, variables: Any) -> None:
        """Nothing: the gradient has it."""

    def _decayed(self: Any, gradient: Any, variable: Any) -> Any:
        if not keras_internals.decays(self, variable):
            return gradient
        decay = ops.cast(self.weight_decay, variable.dtype)
        return ops.add(gradient, ops.cast(ops.multiply(variable, decay), gradient.dtype))


def _layers(model: keras.Model) -> Iterator[Any]:
    """The layers of a model, those of the models inside it in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
