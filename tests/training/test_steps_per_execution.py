from typing import Any

import keras
import pytest

from kerasimg.callbacks import TimeBudget, WarmupCosine
from kerasimg.training.auto_settings import acts_on_steps, choose_steps_per_execution, operations, part_of

TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others run one step per call")


def model(filters: int = 4, size: int = 8) -> keras.Model:
    layers = [keras.layers.Conv2D(filters, 3, padding="same"), keras.layers.Flatten(), keras.layers.Dense(5)]
    return keras.Sequential([keras.Input((size, size, 3)), *layers])


def test_operations_are_those_of_the_kernels_at_each_position():
    assert operations(model()) == 8 * 8 * 3 * 3 * 3 * 4 + 8 * 8 * 4 * 5


@TENSORFLOW
@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (48, 48), (64, 64), (100, 50), (1875, 25), (97, 97)])
def test_an_epoch_is_a_whole_number_of_executions(steps: int, expected: int):
    assert choose_steps_per_execution(model(), 32, steps, []) == expected


@TENSORFLOW
def test_a_long_step_is_run_by_itself():
    assert choose_steps_per_execution(model(filters=512, size=224), 128, 100, []) == 1


def test_the_steps_per_execution_divide_the_epoch():
    assert [part_of(steps, 32) for steps in (1, 20, 64, 97, 100)] == [1, 20, 32, 1, 25]


@TENSORFLOW
def test_an_upper_limit_is_respected():
    assert choose_steps_per_execution(model(), 32, 100, [], most=10) == 10


@pytest.mark.parametrize(
    ("callback", "acts"),
    [
        (keras.callbacks.EarlyStopping(), False),
        (keras.callbacks.TerminateOnNaN(), False),
        (TimeBudget(1.0), False),
        (WarmupCosine(), True),
    ],
)
def test_a_callback_that_acts_on_steps_sees_each_of_them(callback: Any, acts: bool):
    assert acts_on_steps(callback) is acts
    assert not acts or choose_steps_per_execution(model(), 32, 100, [callback]) == 1
