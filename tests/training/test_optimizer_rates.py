"""Learning rates as applied to the weights, compared with the optimizers of Keras."""

import math
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.training.optimizer import Rates, with_rates

OPTIMIZERS = ["SGD", "Adam", "AdamW", "Nadam", "RMSprop", "Lion", "Adagrad", "Lamb", "Muon", "Adafactor"]


def moved(optimizer: Any, variables: list[Any], steps: int = 3) -> list[np.ndarray]:
    """Returns the change of each variable after some steps with equal gradients."""
    initial = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for step in range(steps):
        gradients = [keras.ops.full(variable.shape, 0.1 + step) for variable in variables]
        optimizer.apply(gradients, variables)
    return [keras.ops.convert_to_numpy(variable) - start for variable, start in zip(variables, initial, strict=True)]


def two_variables() -> list[Any]:
    return [keras.Variable(np.ones((3, 2), "float32")) for _ in range(2)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_block_learns_at_its_factor_of_the_rate_with_every_optimizer(name: str):
    kind: Any = getattr(keras.optimizers, name)
    decay = {"weight_decay": 0.1} if name in ("SGD", "Adam", "AdamW", "Lion", "Nadam") else {}
    variables = two_variables()
    slow, full = moved(with_rates(kind(0.01, **decay), Rates(factors={id(variables[0]): 0.25})), variables)
    (quarter,) = moved(kind(0.0025, **decay), two_variables()[:1])
    (whole,) = moved(kind(0.01, **decay), two_variables()[:1])
    np.testing.assert_allclose(slow, quarter, rtol=2e-5)
    np.testing.assert_allclose(full, whole, rtol=2e-5)
    assert np.abs(slow).max() < 0.5 * np.abs(full).max()


def rate(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def rates_over(optimizer: Any, steps: int) -> list[float]:
    """Returns the rate of each step."""
    variables = two_variables()
    optimizer.build(variables)
    result = []
    for _ in range(steps):
        result.append(rate(optimizer))
        optimizer.apply([keras.ops.ones(variable.shape) for variable in variables], variables)
    return result


def test_the_rate_rises_linearly_and_then_stays():
    result = rates_over(with_rates(keras.optimizers.SGD(0.8), Rates(warmup_steps=4)), 6)
    assert result == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_the_rate_falls_over_the_steps_after_the_warm_up():
    linear = rates_over(with_rates(keras.optimizers.SGD(1.0), Rates(2, 6, "linear")), 7)
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    cosine = rates_over(with_rates(keras.optimizers.SGD(1.0), Rates(0, 4, "cosine")), 5)
    assert cosine == pytest.approx([1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0], abs=1e-6)


def test_a_schedule_begins_after_the_warm_up():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    result = rates_over(with_rates(keras.optimizers.SGD(schedule), Rates(warmup_steps=2)), 5)
    assert result == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.25])


def test_setting_the_rate_sets_that_of_the_next_step():
    optimizer = with_rates(keras.optimizers.SGD(1.0), Rates(0, 4, "linear"))
    rates_over(optimizer, 2)
    assert rate(optimizer) == pytest.approx(0.5)
    optimizer.learning_rate = 0.1
    assert rate(optimizer) == pytest.approx(0.1)


def test_an_optimizer_without_special_rates_is_not_changed():
    optimizer = keras.optimizers.Adam()
    assert with_rates(optimizer, Rates()) is optimizer


def test_an_optimizer_with_rates_keeps_its_class_and_settings():
    optimizer = with_rates(keras.optimizers.AdamW(0.5, beta_1=0.7, clipnorm=1.0), Rates(warmup_steps=1))
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.beta_1, optimizer.clipnorm) == (0.7, 1.0)


@pytest.mark.parametrize("at_a_time", [1] if keras.backend.backend() == "torch" else [1, 4])
def test_each_step_has_its_own_rate_with_any_steps_per_execution(at_a_time: int):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    optimizer = with_rates(keras.optimizers.SGD(0.1), Rates(2, 8, "linear"))
    model.compile(optimizer, "mae", steps_per_execution=at_a_time)
    x, y = np.ones((8, 2), "float32"), np.full((8, 1), 1e6, "float32")
    model.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    # The gradient is -1 at each step, so the weight is the sum of the rates.
    shares = [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert float(model.get_weights()[0][0, 0]) == pytest.approx(0.1 * sum(shares), rel=1e-4)


def test_moving_averages_do_not_replace_the_weights_at_the_end_of_a_call_of_fit():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    x = np.ones((4, 1), "float32")
    model.compile(with_rates(keras.optimizers.SGD(0.1, use_ema=True), Rates(averages=True)), "mse")
    model.fit(x, 5 * x, epochs=3, verbose=0)
    averages = [keras.ops.convert_to_numpy(item) for item in model.optimizer._model_variables_moving_average]
    assert all((average != weight).any() for average, weight in zip(averages, model.get_weights(), strict=True))
