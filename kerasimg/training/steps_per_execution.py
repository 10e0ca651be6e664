"""How many steps Keras runs at a time, where the spec leaves it open.

Between two calls of the compiled function Python takes half a millisecond or more, which counts where a step is short.
The number divides the steps of an epoch, so that an epoch ends where it should and what comes out is the same. It is
small enough for Ctrl-C, the progress bar and checkpoints to have their turn about every second.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from kerasimg.callbacks import TimeBudget
from kerasimg.models.build import leaves

OPERATIONS_PER_S = 2e10
"""Multiplications a second of a slow processor, in training; a faster one only has its turns more often."""
TURN_S = 1.0
MOST = 64
SCARCE = 4
"""Less than `MOST` by this factor is little."""


def steps_at_a_time(model: Any, batch_size: int, steps: int, callbacks: list[Any], most: int | None = None) -> int:
    """Steps per execution for a model and the steps of its epoch.

    most: what is enough, if that is known from elsewhere. 1 where a callback acts on single steps, and on backends
    other than TensorFlow, which gain nothing.
    """
    if keras.backend.backend() != "tensorflow" or any(map(acts_on_steps, callbacks)):
        return 1
    step_s = 3 * batch_size * operations(model) / OPERATIONS_PER_S
    in_time = max(1, int(TURN_S / max(step_s, 1e-9)))
    enough = min(most or MOST, in_time)
    found = part_of(steps, enough)
    if found * SCARCE < enough:
        # Few numbers divide it: then rather too many at a time than next to none.
        found = next((number for number in range(enough, min(steps, in_time) + 1) if steps % number == 0), found)
    return found


def part_of(steps: int, most: int) -> int:
    """The largest number, `most` at most, that divides the steps of an epoch.

    The data set goes on without end: Keras would begin the next epoch's with what is left of the last execution.
    """
    return max(number for number in range(1, min(most, steps) + 1) if steps % number == 0)


def operations(model: Any) -> int:
    """Multiplications that the model takes for an image, about: those of its kernels, at each place of the output."""
    total = 0
    for layer in leaves(model.layers):
        weights = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
        if weights:
            places = [size or 1 for size in output_shape(layer)[1:-1]]
            total += weights * math.prod(places)
    return total


def acts_on_steps(callback: Any) -> bool:
    """Whether a callback does something at each step, such as setting the learning rate."""
    names = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    if isinstance(callback, keras.callbacks.TerminateOnNaN | TimeBudget):
        return False  # they may as well come a second later
    return any(getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name) for name in names)


def output_shape(layer: Any) -> tuple[int | None, ...]:
    """The shape of what a layer gives, with the batch; empty where there are several."""
    try:
        return tuple(layer.output.shape)
    except (AttributeError, ValueError):  # called several times, or on several inputs
        return ()
