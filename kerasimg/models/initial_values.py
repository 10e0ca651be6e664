"""The first values of variables, with few compilations: JAX compiles each draw of random numbers for each shape.

- What a file replaces gets zeros, which cost nothing.
- Constants are made by NumPy.
- Random numbers are drawn by functions for a few sizes, the beginning of whose output is taken. JAX's generator gives
  a number by its position, so these are the numbers that Keras draws for the shape, bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np

from kerasimg import keras_internals

RANDOM = (
    *(keras.initializers.RandomNormal, keras.initializers.RandomUniform, keras.initializers.TruncatedNormal),
    keras.initializers.VarianceScaling,
)
SMALLEST = 1024
"""Numbers of the smallest size that is compiled for; each is four times the one before."""


@contextmanager
def cheap_values(replaced: Callable[[Any], bool]) -> Iterator[None]:
    """In the block, variables get first values with few compilations.

    replaced: whether a variable will get other values from a file, so that zeros do.
    """

    def value_of(variable: Any, initializer: Any) -> np.ndarray | None:
        shape, name = variable.shape, variable.dtype
        if not keras.backend.is_float_dtype(name) or name not in ("float16", "float32", "float64"):
            return None
        if type(initializer) is keras.initializers.Ones:
            return np.ones(shape, name)
        if type(initializer) is keras.initializers.Zeros or (isinstance(initializer, RANDOM) and replaced(variable)):
            return np.zeros(shape, name)
        return None

    with keras_internals.initial_values(value_of), _few_sizes():
        yield


def _few_sizes() -> AbstractContextManager[None]:
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    if not jax.config.jax_threefry_partitionable or jax.config.jax_default_prng_impl != "threefry2x32":
        return nullcontext()  # there, a number depends on how many are drawn
    return keras_internals.random_functions(normal=_normal, truncated_normal=_truncated_normal, uniform=_uniform)


def _normal(shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _draw("normal", shape, dtype, seed, stddev, mean)


def _truncated_normal(shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _draw("truncated_normal", shape, dtype, seed, stddev, mean)


def _uniform(shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _draw("uniform", shape, dtype, seed, minval, maxval)


def _draw(kind: str, shape: Any, dtype: Any, seed: Any, first: Any, second: Any) -> Any:
    """Numbers of a distribution; `first` and `second` are its parameters."""
    import jax

    count = math.prod(shape)
    size = SMALLEST
    while size < count:
        size *= 4
    key, name = keras_internals.seed_words(seed), dtype or keras.config.floatx()
    if kind == "uniform":
        numbers = np.asarray(_compiled(kind, size, name)(key, first, second))[:count]
    else:
        # Scaled as separate operations, as Keras does: XLA would round once, not twice.
        numbers = np.asarray(_compiled(kind, size, name)(key))[:count]
        numbers = numbers * numbers.dtype.type(first) + numbers.dtype.type(second)
    return jax.device_put(np.ascontiguousarray(numbers).reshape(shape))


@functools.cache
def _compiled(kind: str, size: int, dtype: str) -> Callable[..., Any]:
    import jax

    draws: dict[str, Callable[..., Any]] = {
        "normal": lambda key: jax.random.normal(key, (size,), dtype),
        "truncated_normal": lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (size,), dtype),
        "uniform": lambda key, low, high: jax.random.uniform(key, (size,), dtype, low, high),
    }
    return jax.jit(draws[kind])
