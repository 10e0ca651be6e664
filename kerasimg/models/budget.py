"""The dry run: a model's layers are made without allocating anything, counted, and only then given their weights.

Under a `keras.StatelessScope(initialize_variables=False)` Keras makes every variable without a value and
keeps it in a list, which the end of a plain scope works off. So the model that was counted is the model that is used;
nothing is built twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from kerasimg import keras_internals
from kerasimg.boundary import reason_of
from kerasimg.errors import CallError, nearest
from kerasimg.models.initial_values import cheap_values

DEFAULT_LIMITS: Mapping[str, int] = {
    "params": 1_000_000_000,
    "tensor": 200_000_000,
    "layers": 5_000,
    "initializers": 20_000_000_000,
}
"""params: parameters of the model. tensor: values of the image, or of the largest output of a layer for one image.
layers: those of backbones counted. initializers: multiplications that orthogonal initial values take."""


class OverBudget(Exception):
    """A model is larger than allowed; the message says in what."""


class NoInitialValue(Exception):
    """An initializer cannot make the value of a variable; the message names it."""


@contextmanager
def deferred_variables() -> Iterator[list[Any]]:
    """Variables made inside get their values when the block ends, none if it ends by an exception.

    Gives a list for the variables whose values come from a file right after: they are not drawn.
    NoInitialValue where an initializer fails. Whatever happens, Ctrl-C too, nothing is left for later models.
    """
    before = keras_internals.pending_variables()
    from_file: list[Any] = []
    with no_variables() as made:
        yield from_file
        pending = made()
    known = set(map(id, from_file))
    try:
        with cheap_values(lambda variable: id(variable) in known):
            for variable in pending:
                keras_internals.set_pending_variables([variable])
                try:
                    with keras.StatelessScope():
                        pass  # its end gives every pending variable its value
                except Exception as error:  # each backend raises its own
                    raise NoInitialValue(
                        f"the initial value of {variable.path} cannot be made: {reason_of(error)}"
                    ) from None
    finally:
        keras_internals.set_pending_variables(before)


@contextmanager
def no_variables() -> Iterator[Callable[[], list[Any]]]:
    """Variables made inside never get values: for those who only look at shapes. Gives what lists them."""
    before = keras_internals.pending_variables()
    scope = keras_internals.stateless_scope()
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield lambda: keras_internals.pending_variables()[len(before) :]
    finally:
        keras_internals.set_stateless_scope(scope)
        keras_internals.set_pending_variables(before)


class Budget:
    """Counts what the layers of a model would take, and refuses what is beyond the limits."""

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        for name in (limits or {}).keys() - DEFAULT_LIMITS.keys():
            raise CallError(f"no limit '{name}'{nearest(name, DEFAULT_LIMITS)} (limits: {', '.join(DEFAULT_LIMITS)})")
        self.limits = {**DEFAULT_LIMITS, **(limits or {})}
        self.params = 0
        self.layers = 0
        self.initializers = 0

    def count(self, layer: Any, outputs: Iterable[Any]) -> None:
        """Add one layer, or nothing for None; `outputs` are the shapes of what it gives, with the batch first."""
        tensor = max((math.prod(size or 1 for size in shape[1:]) for shape in outputs), default=0)
        if layer is not None:
            self.params += sum(math.prod(variable.shape) for variable in layer.weights)
            self.layers += len(getattr(layer, "layers", ())) or 1
            self.initializers += sum(map(_orthogonal_cost, layer.weights))
            tensor = max(tensor, *map(_regularizer_size, layer.weights), _dilated_size(layer), 0)
        for name, found, what in (
            ("params", self.params, "parameters"),
            ("tensor", tensor, "values in one tensor"),
            ("layers", self.layers, "layers"),
            ("initializers", self.initializers, "multiplications for orthogonal initial values"),
        ):
            if found > self.limits[name]:
                smaller = "smaller images (--size, image.size) take fewer; " if name == "tensor" else ""
                raise OverBudget(
                    f"{found:,} {what}, and the limit is {self.limits[name]:,}; {smaller}"
                    f'if that is meant, raise it: limits={{"{name}": {found}}}, or --limit {name}={found}'
                )


def _orthogonal_cost(variable: Any) -> int:
    """What the QR decomposition takes for the initial value of a variable; any other initializer is linear."""
    if not isinstance(keras_internals.initializer_of(variable), keras.initializers.Orthogonal):
        return 0
    rows, columns = math.prod(variable.shape[:-1]), variable.shape[-1]
    return int(rows * columns * min(rows, columns))


def _regularizer_size(variable: Any) -> int:
    """Values in the product of a matrix with itself, which the orthogonal regularizer computes in every step."""
    regularizer = getattr(variable, "regularizer", None)
    if not isinstance(regularizer, keras.regularizers.OrthogonalRegularizer) or len(variable.shape) != 2:
        return 0
    return int(variable.shape[0 if regularizer.mode == "rows" else 1] ** 2)


def _dilated_size(layer: Any) -> int:
    """Values of the input of a dilated convolution, padded to a multiple of the dilation, as a backend computes it."""
    rates = getattr(layer, "dilation_rate", 1)
    rates = rates if isinstance(rates, (tuple, list)) else (rates,)
    if all(rate == 1 for rate in rates) or isinstance(layer.input, (list, dict)):
        return 0
    shape, kernel = layer.input.shape[1:], layer.kernel_size
    return math.prod(
        [(size or 1) + rate * side for size, rate, side in zip(shape, rates, kernel, strict=False)] + [shape[-1] or 1]
    )
