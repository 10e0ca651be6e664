"""How fast each weight learns: warm-up, the fall to 0, and rates that differ from block to block.

All of it happens inside of the compiled step, on any backend, so it does not depend on how many steps Keras runs at a
time. The rates are scaled, not the gradients: optimizers like Adam do not notice how large a gradient is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import keras
from keras import ops

Decay = Literal["none", "cosine", "linear"]


@dataclass(frozen=True)
class Rates:
    """What becomes of the optimizer's learning rate."""

    warmup_steps: int = 0
    """Steps over which it rises in a line, from 1 / warmup_steps of it to all of it."""
    steps: int = 0
    """Steps of the stage, at the end of which `decay` has reached 0."""
    decay: Decay = "none"
    factors: Mapping[int, float] = field(default_factory=dict)
    """id of a variable -> its share of the rate; 1 for those that are not in it."""
    averages: bool = False
    """Whether the optimizer keeps moving averages, which are not to be put in place at the end of each call of fit."""

    @property
    def plain(self) -> bool:
        """Whether Keras' optimizer does as it is."""
        return self == Rates()

    def share(self, step: int) -> float:
        """The share of the rate at a step, from 0, of a variable that has no factor."""
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


def with_rates(optimizer: Any, rates: Rates) -> Any:
    """An optimizer like this one, not yet built, whose rates go as they are to."""
    if rates.plain:
        return optimizer
    kind: Any = type(optimizer)
    staged: Any = type(kind.__name__, (_Staged, kind), {"rates": rates, "__module__": __name__})
    return staged.from_config(optimizer.get_config())


class _Staged:
    """What comes before a Keras optimizer in the order of its classes."""

    rates: ClassVar[Rates]
    _block = 1.0
    """The factor of the block whose weights are being decayed."""

    def build(self, variables: Sequence[Any]) -> None:
        """Note each variable's factor, by its place in the optimizer's list."""
        super().build(variables)  # type: ignore[misc]
        self._factors = tuple(self.rates.factors.get(id(variable), 1.0) for variable in variables)

    def _get_current_learning_rate(self: Any) -> Any:
        rates = self.rates
        scheduled = isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if scheduled:
            rate = self._learning_rate(ops.maximum(self._iterations - rates.warmup_steps, 0))
        else:
            rate = super()._get_current_learning_rate()  # type: ignore[misc]
        share = rates._share(ops.cast(self._iterations, "float32"))
        return rate * ops.cast(share * self._block, getattr(rate, "dtype", "float32"))

    @property
    def learning_rate(self: Any) -> Any:
        """The rate of the next step; setting it makes it that, whatever part of the warm-up or the fall is done."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self: Any, value: Any) -> None:
        if isinstance(value, int | float):
            share = self.rates.share(int(ops.convert_to_numpy(self._iterations)))
            value = value / share if share > 0 else value
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step, at its own rate."""
        factor = self._factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]

    def _parallel_update_step(self: Any, grads: Any, variables: Any, learning_rate: Any) -> None:
        # PyTorch's optimizers take all variables at once. Nadam's there also moves on what it has in common for all.
        product = getattr(self, "_u_product", None)
        before = None if product is None else ops.copy(product.value)
        for factor, places in self._alike(variables):
            if product is not None:
                product.assign(before)
            chosen = [grads[place] for place in places], [variables[place] for place in places]
            super()._parallel_update_step(*chosen, learning_rate * factor)  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables: Any) -> None:
        for factor, places in self._alike(variables):
            chosen = [variables[place] for place in places if self._use_weight_decay(variables[place])]
            if chosen:
                self._block = factor
                super()._apply_weight_decay(chosen)  # type: ignore[misc]
        self._block = 1.0

    def _alike(self: Any, variables: Any) -> Iterator[tuple[float, list[int]]]:
        """(factor, places in the list) of the variables that have it."""
        factors = [self._factors[self._get_variable_index(variable)] for variable in variables]
        for factor in dict.fromkeys(factors):
            yield factor, [place for place, other in enumerate(factors) if other == factor]

    def finalize_variable_values(self, variables: Any) -> None:
        """Leave the weights as they are: a stage may take several calls of fit, and ends in `training.loop`."""
