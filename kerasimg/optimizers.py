"""Optimizers that Keras lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg import keras_internals

__all__ = ["ConvMuon"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""


@keras.saving.register_keras_serializable(package="kerasimg")
class ConvMuon(keras.optimizers.Optimizer):
    """Muon for the filters of convolutions, Nesterov SGD for all other weights, as the record on CIFAR-10 has it.

    Keras' Muon changes two-dimensional kernels only and leaves those of convolutions to AdamW. Here a kernel is the
    matrix of its filters: its norm is set to the root of their number, and the step is its momentum made orthogonal
    (Jordan, github.com/KellerJordan/cifar10-airbench, airbench94_muon). Kernels with one filter are left to SGD.

    Args:
        learning_rate: of the filters.
        momentum: of the filters.
        ns_steps: Newton-Schulz iterations.
        sgd_lr_ratio: the rate of all other weights, divided by `learning_rate`.
        sgd_momentum: of all other weights.
        weight_decay: of all other weights; filters have a fixed norm.
        use_ema: as of Keras' optimizers, as are `ema_momentum` and `gradient_accumulation_steps`.
        ema_momentum: of the moving average.
        gradient_accumulation_steps: steps whose gradients are averaged for one update.
    """

    argument_kinds: ClassVar[dict[str, str]] = {
        **{"learning_rate": "float>0|schedule", "momentum": "float[0,1)", "ns_steps": "int>0"},
        **{"sgd_lr_ratio": "float>0", "sgd_momentum": "float[0,1)", "weight_decay": "float>=0|null"},
    }

    def __init__(
        self,
        learning_rate: Any = 0.24,
        momentum: float = 0.6,
        ns_steps: int = 3,
        sgd_lr_ratio: float = 2.0,
        sgd_momentum: float = 0.85,
        weight_decay: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        gradient_accumulation_steps: int | None = None,
        name: str = "conv_muon",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.momentum = momentum
        self.ns_steps = ns_steps
        self.sgd_lr_ratio = sgd_lr_ratio
        self.sgd_momentum = sgd_momentum

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the momenta."""
        if self.built:
            return
        super().build(variables)
        self.momenta = [self.add_variable_from_reference(each, name="momentum") for each in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable."""
        momentum = self.momenta[keras_internals.position_of(self, variable)]
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        if not is_filters(variable):
            step = self.sgd_momentum * momentum - gradient * rate * self.sgd_lr_ratio
            self.assign(momentum, step)
            self.assign_add(variable, self.sgd_momentum * step - gradient * rate * self.sgd_lr_ratio)
            return
        total = self.momentum * momentum + gradient
        self.assign(momentum, total)
        filters = variable.shape[-1]
        rows = ops.transpose(ops.reshape(gradient + self.momentum * total, (-1, filters)))
        step = ops.reshape(ops.transpose(orthogonal(rows, self.ns_steps)), variable.shape)
        norm = ops.sqrt(ops.sum(ops.square(variable)))
        self.assign(variable, variable * (math.sqrt(filters) / (norm + 1e-7)) - rate * step)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = ("momentum", "ns_steps", "sgd_lr_ratio", "sgd_momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def is_filters(variable: Any) -> bool:
    """Whether a weight is a kernel of a convolution with several filters; those of attention and tokens have 3 axes."""
    return len(variable.shape) >= 4 and variable.shape[-1] > 1


def orthogonal(matrix: Any, steps: int) -> Any:
    """About the orthogonal matrix nearest to a matrix: its singular values become about 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    values = ops.transpose(matrix) if tall else matrix
    values = values / (ops.sqrt(ops.sum(ops.square(values))) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        square = ops.matmul(values, ops.transpose(values))
        values = a * values + ops.matmul(b * square + c * ops.matmul(square, square), values)
    return ops.transpose(values) if tall else values
