import json
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.errors import KerasimgError
from kerasimg.training import checkpoint


def again(callback: Any, fresh: Any) -> Any:
    """What a fresh callback is after it was given what another remembers, by way of JSON."""
    arrays: checkpoint.Arrays = {}
    told = json.loads(json.dumps(checkpoint.callback_states([callback], arrays)))
    checkpoint.restore_callbacks([fresh], told, arrays)
    return fresh


class Plain(keras.callbacks.Callback):
    def __init__(self, patience: int):
        super().__init__()
        self.patience = patience
        self.best: Any = None
        self.wait = 0
        self.seen: Any = []
        self.function: Any = None


def test_plain_attributes_are_kept_but_for_the_arguments_of_the_constructor():
    one = Plain(3)
    one.best, one.wait, one.function = np.float32(0.1), 2, len
    one.seen = [(1, 2.5), {"a": np.arange(3)}, None, "x", True]
    other = again(one, Plain(4))
    assert (other.patience, other.wait, other.function) == (4, 2, None)
    assert (other.best, other.best.dtype) == (np.float32(0.1), np.float32)
    assert other.seen[0] == (1, 2.5)
    np.testing.assert_array_equal(other.seen[1]["a"], [0, 1, 2])
    assert other.seen[2:] == [None, "x", True]


def test_a_callback_of_another_class_is_left_alone():
    assert again(Plain(3), keras.callbacks.EarlyStopping()).wait == 0


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau"])
def test_callbacks_of_keras_go_on_as_they_would_have(kind: str):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    figures = [1.0, 0.995, 0.991, 0.5, 0.499, 0.498, 0.497, 0.496]

    def begun() -> Any:
        callback = getattr(keras.callbacks, kind)(monitor="loss", mode="min", patience=2, min_delta=0.01)
        callback.set_model(model)
        callback.on_train_begin()
        return callback

    def outcomes(callback: Any, epochs: range) -> list[Any]:
        found = []
        for epoch in epochs:
            callback.on_epoch_end(epoch, {"loss": figures[epoch]})
            found.append((callback.wait, float(callback.best), model.stop_training))
        return found

    model.stop_training = False
    whole = outcomes(begun(), range(8))
    model.stop_training = False
    first = begun()
    outcomes(first, range(5))
    assert outcomes(again(first, begun()), range(5, 8)) == whole[5:]


def test_variables_take_back_their_values():
    one, other = keras.layers.Dense(2), keras.layers.Dense(2)
    for layer in (one, other):
        layer.build((None, 3))
    checkpoint.assign_variables(other.weights, checkpoint.variable_values(one.weights, "weights"), "weights")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(layer.kernel) for layer in (one, other)))


def test_variables_of_other_shapes_are_refused():
    one, other = keras.layers.Dense(2), keras.layers.Dense(4)
    for layer in (one, other):
        layer.build((None, 3))
    with pytest.raises(KerasimgError, match=r"the checkpoint does not fit: its 2 variables \(weights\)"):
        checkpoint.assign_variables(other.weights, checkpoint.variable_values(one.weights, "weights"), "weights")


def test_the_states_of_random_generators_are_no_weights():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    assert [variable.path.rsplit("/", 1)[-1] for variable in checkpoint.non_weight_variables(model)] == [
        "seed_generator_state"
    ]
