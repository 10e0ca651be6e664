"""The optimizer of a stage: learning rates that change with the step and the layer, and weight decay.

All of it happens inside the compiled step, on any backend, so it does not depend on the steps per execution. The rates
are scaled, not the gradients: optimizers like Adam do not notice how large a gradient is.

Layer-wise decay is as in ELECTRA (Clark et al. 2020, arXiv:2003.10555) and BEiT (Bao et al. 2021, arXiv:2106.08254):
the rate of a block is the rate of the next block times `layer_decay`. A block is what the paper draws as one: a node of
the spec, a layer or a macro; in a backbone that is a spec, a node of that spec; in a model of keras.applications, the
layers whose names begin with the same block ("block_12_expand", "conv5_block3_2_conv"). Other layers with weights are
blocks of their own; a normalization belongs to the layer before it.

Keras' optimizers decay a weight by itself: `w -= rate * decay * w` ("decoupled", Loshchilov and Hutter 2019,
arXiv:1711.05101). The papers before AdamW, PyTorch's SGD, Adam and RMSprop, and TensorFlow's L2 losses add `decay * w`
to the gradient ("coupled"), which momentum then multiplies: by 10 at a momentum of 0.9.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from kerasimg import keras_internals
from kerasimg.models.build import Built, leaves
from kerasimg.objects import make
from kerasimg.spec.document import Compile, Stage, WeightKind
from kerasimg.spec.load import Spec

Decay = Literal["none", "cosine", "linear"]

BLOCK = re.compile(r"(.*?block_?\d+[a-z]?)(?=_|$)|(expanded_conv(?:_\d+)?)(?=_)|conv_[dp]w(_\d+)")
"""Names of blocks in keras.applications; in MobileNet, a depthwise convolution and the pointwise one after it."""

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@dataclass(frozen=True)
class Rates:
    """How the optimizer's learning rate changes with the step and the layer."""

    warmup_steps: int = 0
    """Number of steps of the linear warm-up, from 1 / warmup_steps of the rate to the full rate."""
    steps: int = 0
    """Number of steps of the stage; `decay` reaches 0 at its end."""
    decay: Decay = "none"
    factors: Mapping[int, float] = field(default_factory=dict)
    """id of a variable -> its factor of the rate; 1 for all others."""
    averages: bool = False
    """Whether the optimizer has moving averages, which must not replace the weights at the end of each call of fit."""

    @property
    def plain(self) -> bool:
        """Whether Keras' optimizer needs no change."""
        return self == Rates()

    def share(self, step: int) -> float:
        """Returns the factor of the rate at a step, from 0, for a variable without its own factor."""
        return float(ops.convert_to_numpy(self._share(ops.convert_to_tensor(float(step)))))

    def _share(self, step: Any) -> Any:
        share = ops.ones(())
        if self.warmup_steps:
            share = ops.minimum((step + 1.0) / self.warmup_steps, 1.0)
        if self.decay != "none":
            left = max(self.steps - self.warmup_steps, 1)
            done = ops.clip((step - self.warmup_steps) / left, 0.0, 1.0)
            share = share * (1.0 - done if self.decay == "linear" else 0.5 * (1.0 + ops.cos(math.pi * done)))
        return share


def has_average(spec: Spec) -> bool:
    """Whether the moving average of the weights is validated and passed on in their place."""
    return spec.fit.ema is not None


def make_optimizer(
    spec: Spec,
    learning_rate: Any,
    rates: Rates = Rates(),
    *,
    model: keras.Model | None = None,
) -> Any:
    """Returns a new optimizer, not yet built.

    Args:
        spec: its `compile`.
        learning_rate: of the stage; None for that of `compile.optimizer`.
        rates: how the rate changes over the steps, and from block to block.
        model: has the weights that `compile.exclude_from_weight_decay` leaves out.
    """
    value = spec.compile.optimizer
    written = {"type": value} if isinstance(value, str) else dict(value)
    if learning_rate is not None:
        written["learning_rate"] = learning_rate
    if has_average(spec):
        written |= {"use_ema": True, "ema_momentum": spec.fit.ema}
    optimizer = with_weight_decay(make("optimizers", written), spec.compile, model)
    return with_rates(optimizer, replace(rates, averages=optimizer.use_ema))


def rates_of(stage: Stage, built: Built, steps: int, epochs: int) -> Rates:
    """Returns how the rate changes in a stage.  steps: of an epoch.  epochs: of the stage."""
    warmup = round(stage.warmup_epochs * steps)
    return Rates(warmup, epochs * steps, stage.decay, layer_factors(stage, built))


def layer_factors(stage: Stage, built: Built) -> dict[int, float]:
    """Returns id of a weight -> its factor of the rate, for the weights with a factor other than 1."""
    return factors(built, stage.layer_decay)


def learning_rate(stage: Stage) -> Any:
    """Returns the rate or schedule of a stage; None: that of the optimizer."""
    return stage.learning_rate


def written_rate(spec: Spec, stage: Stage) -> Any:
    """Returns the rate or schedule of a stage as written in the spec; None: the default of the optimizer."""
    if stage.learning_rate is not None:
        return stage.learning_rate
    optimizer = spec.compile.optimizer
    return optimizer.get("learning_rate") if isinstance(optimizer, dict) else None


def decay_fault(spec: Spec, stage: Stage) -> str | None:
    """Returns why a stage cannot have its decay, else None."""
    rate = written_rate(spec, stage)
    if stage.decay == "none" or rate is None or isinstance(rate, int | float):
        return None
    return f"{stage.decay} is for a rate that is a number, and that of compile.optimizer is a schedule"


def counts_steps(stage: Stage) -> bool:
    """Whether the rate depends on the number of steps of the stage."""
    return stage.decay != "none" or bool(stage.warmup_epochs)


def differs_by_layer(stage: Stage) -> bool:
    """Whether layers learn at different rates."""
    return stage.layer_decay != 1


def with_rates(optimizer: Any, rates: Rates) -> Any:
    """Returns an optimizer like this one, not yet built, with these rates."""
    if rates.plain:
        return optimizer
    kind: Any = type(optimizer)
    staged: Any = type(kind.__name__, (_Staged, kind), {"rates": rates, "__module__": __name__})
    return staged.from_config(optimizer.get_config())


class _Staged(keras_internals.OptimizerHooks):
    """A mixin, listed before a Keras optimizer in the bases: applies the rates."""

    rates: ClassVar[Rates]
    _block = 1.0
    """The factor of the block whose weights are being decayed."""

    def build(self, variables: Sequence[Any]) -> None:
        """Store each variable's factor, by its position in the optimizer's list."""
        super().build(variables)  # type: ignore[misc]
        self._factors = tuple(self.rates.factors.get(id(variable), 1.0) for variable in variables)

    def current_rate(self: Any, rate: Any) -> Any:
        """The rate of the next step."""
        rates = self.rates
        if (schedule := keras_internals.learning_rate_schedule(self)) is not None:
            rate = schedule(ops.maximum(self.iterations - rates.warmup_steps, 0))
        share = rates._share(ops.cast(self.iterations, "float32"))
        return rate * ops.cast(share * self._block, getattr(rate, "dtype", "float32"))

    @property
    def learning_rate(self: Any) -> Any:
        """The rate of the next step; setting it sets that rate, also during warm-up or decay."""
        return keras.optimizers.Optimizer.learning_rate.fget(self)

    @learning_rate.setter
    def learning_rate(self: Any, value: Any) -> None:
        if isinstance(value, int | float):
            share = self.rates.share(int(ops.convert_to_numpy(self.iterations)))
            value = value / share if share > 0 else value
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable, at its own rate."""
        factor = self._factors[keras_internals.position_of(self, variable)]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]

    def update_many(self: Any, update: Any, grads: Any, variables: Any, learning_rate: Any) -> None:
        """Updates all variables, each at its own rate."""
        # PyTorch's optimizers update all variables at once. Nadam also updates its shared state in this call.
        product = keras_internals.shared_momentum(self)
        before = None if product is None else ops.copy(product.value)
        for factor, places in self._alike(variables):
            if product is not None:
                product.assign(before)
            chosen = [grads[place] for place in places], [variables[place] for place in places]
            super().update_many(update, *chosen, learning_rate * factor)

    def decay_many(self: Any, decay: Any, variables: Any) -> None:
        """Applies the weight decay of all variables, each at its own rate."""
        for factor, places in self._alike(variables):
            chosen = [variables[place] for place in places if keras_internals.decays(self, variables[place])]
            if chosen:
                self._block = factor
                super().decay_many(decay, chosen)
        self._block = 1.0

    def _alike(self: Any, variables: Any) -> Iterator[tuple[float, list[int]]]:
        """Yields each factor with the positions of its variables."""
        factors = [self._factors[keras_internals.position_of(self, variable)] for variable in variables]
        for factor in dict.fromkeys(factors):
            yield factor, [place for place, other in enumerate(factors) if other == factor]

    def finalize_variable_values(self, variables: Any) -> None:
        """Does nothing: a stage may take several calls of fit, and `training.engine` finishes it."""


def factors(built: Built, decay: float) -> dict[int, float]:
    """Returns id of a weight -> the factor of its block: decay ** (number of blocks after it)."""
    if decay == 1.0:
        return {}
    parts = list(blocks(built))
    return {
        id(weight): decay**depth
        for depth, layers in enumerate(reversed(parts))
        for layer in layers
        for weight in layer.weights
    }


def blocks(built: Built) -> Iterator[list[Any]]:
    """Returns the layers with weights, block by block, from the input to the output."""
    groups: list[list[Any]] = []
    for layers in _named(built):
        weighty = [layer for layer in layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]
        normal = all(isinstance(layer, NORMALIZATIONS) for layer in weighty)
        if groups and normal:
            groups[-1] += weighty
        elif weighty:
            groups.append(weighty)
    yield from groups


def _named(built: Built) -> Iterator[list[Any]]:
    for names in built.members.values():
        yield from _of_node([built.model.get_layer(name) for name in names], built)


def _of_node(layers: list[Any], built: Built) -> Iterator[list[Any]]:
    """Returns the blocks of a node: all its layers are one block, except in a backbone, which has its own blocks."""
    whole = [layer for layer in layers if not isinstance(layer, keras.Model)]
    for layer in layers:
        if isinstance(layer, keras.Model):
            inside = built.inside.get(layer.name)
            if inside is None:
                yield from _by_name(leaves([layer]))
            else:
                yield from _by_member(layer, inside, built)
    if whole:
        yield whole


def _by_member(model: keras.Model, members: Mapping[str, Iterable[str]], built: Built) -> Iterator[list[Any]]:
    for names in members.values():
        yield from _of_node([model.get_layer(name) for name in names], built)


def _by_name(layers: Iterable[Any]) -> Iterator[list[Any]]:
    """Groups consecutive layers whose names begin with the same block."""
    groups: dict[str, list[Any]] = {}
    for layer in layers:
        match = BLOCK.match(layer.name)
        key = next(filter(None, match.groups())) if match else layer.name
        groups.setdefault(key, []).append(layer)
    yield from groups.values()


LAYER_SCALES = ("LayerScale",)
SINGLE_NUMBERS = (("GeMPooling2D", "p"), ("PReLU", "alpha"), ("CosineHead", "scale"))
"""Class and name of weights that are an exponent, a slope or a scale, which the authors' code does not decay: with timm
it is all that is no matrix."""
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
    if layer_class == "ClassToken" or (layer_class == "AttentionPooling" and name == "latent"):
        return "token"
    if layer_class == "PositionEmbedding" or name == "relative_position_bias" or name.startswith("distance_"):
        return "position"
    if (layer_class in DEPTHWISE and name == "kernel") or name == "depthwise_kernel":
        return "depthwise"
    if name == "bias" or name.endswith("_bias"):
        return "bias"
    if name in ("gamma", "beta", "logit_scale") or (layer_class == "RMSNormalization" and name == "scale"):
        return "norm"
    if (layer_class, name) in SINGLE_NUMBERS:
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
        model: has the weights; may be None if no kind is excluded.

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
        """Updates one variable, with the decay in its gradient."""
        super().update_step(self._decayed(gradient, variable), variable, learning_rate)  # type: ignore[misc]

    def update_many(self: Any, update: Any, gradients: Any, variables: Any, rate: Any) -> None:
        """Updates all variables, with the decay in their gradients."""
        decayed = [self._decayed(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]
        super().update_many(update, decayed, variables, rate)

    def decay_many(self, decay: Any, variables: Any) -> None:
        """Does nothing: the decay is in the gradient."""

    def _decayed(self: Any, gradient: Any, variable: Any) -> Any:
        if not keras_internals.decays(self, variable):
            return gradient
        decay = ops.cast(self.weight_decay, variable.dtype)
        return ops.add(gradient, ops.cast(ops.multiply(variable, decay), gradient.dtype))


def _layers(model: keras.Model) -> Iterator[Any]:
    """Yields the layers of a model, with the layers of a nested model in its place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
