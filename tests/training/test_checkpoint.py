import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.errors import KerasimgError
from kerasimg.files import replacing
from kerasimg.training import checkpoint

ARRAYS = {
    "matrix": np.arange(6, dtype="float32").reshape(2, 3).T,
    "scalar": np.array(7, dtype="int64"),
    "empty": np.zeros((0, 3), "uint32"),
    "flags": np.array([True, False]),
}


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path: Path):
    checkpoint.write(tmp_path / "new" / "one.ckpt", {"epoch": 3, "loss": float("inf")}, ARRAYS)
    result = checkpoint.read(tmp_path / "new" / "one.ckpt")
    assert result is not None
    assert result.facts == {"epoch": 3, "loss": float("inf")} == checkpoint.read_facts(tmp_path / "new" / "one.ckpt")
    assert list(result.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (result.arrays[name].dtype, result.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(result.arrays[name], array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one.ckpt"]


def test_a_missing_checkpoint_is_none(tmp_path: Path):
    assert checkpoint.read(tmp_path / "one.ckpt") is None
    assert checkpoint.read_facts(tmp_path / "one.ckpt") is None


@pytest.mark.parametrize("cut", [0, 10, 60, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, cut: int):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {}, ARRAYS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(KerasimgError, match=r"one\.ckpt is damaged, or of another version of kerasimg; remove it"):
        checkpoint.read(path)


def test_a_changed_bit_is_detected(tmp_path: Path):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {}, ARRAYS)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(KerasimgError, match="damaged"):
        checkpoint.read(path)


def test_the_previous_checkpoint_stays_until_the_new_one_is_complete(
    tmp_path: Path, on_a_full_disk: Any, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "one.ckpt"
    checkpoint.write(path, {"epoch": 1}, ARRAYS)
    monkeypatch.setattr(checkpoint, "replacing", on_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"epoch": 2}, ARRAYS)
    assert checkpoint.read_facts(path) == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["one.ckpt"]


def test_a_partial_file_is_removed_after_an_error(tmp_path: Path):
    (tmp_path / "facts.json").write_text("{}")

    def fail() -> None:
        with replacing(tmp_path / "facts.json") as partial:
            partial.write_text("[")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert json.loads((tmp_path / "facts.json").read_text()) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def again(callback: Any, fresh: Any) -> Any:
    """Returns a new callback with the state of another, passed through JSON."""
    arrays: checkpoint.Arrays = {}
    states = json.loads(json.dumps(checkpoint.callback_states([callback], arrays)))
    checkpoint.restore_callbacks([fresh], states, arrays)
    return fresh


class Plain(keras.callbacks.Callback):
    def __init__(self, patience: int):
        super().__init__()
        self.patience = patience
        self.best: Any = None
        self.wait = 0
        self.seen: Any = []
        self.function: Any = None


def test_plain_attributes_are_saved_except_the_arguments_of_the_constructor():
    first = Plain(3)
    first.best, first.wait, first.function = np.float32(0.1), 2, len
    first.seen = [(1, 2.5), {"a": np.arange(3)}, None, "x", True]
    other = again(first, Plain(4))
    assert (other.patience, other.wait, other.function) == (4, 2, None)
    assert (other.best, other.best.dtype) == (np.float32(0.1), np.float32)
    assert other.seen[0] == (1, 2.5)
    np.testing.assert_array_equal(other.seen[1]["a"], [0, 1, 2])
    assert other.seen[2:] == [None, "x", True]


def test_a_callback_of_another_class_is_not_changed():
    assert again(Plain(3), keras.callbacks.EarlyStopping()).wait == 0


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau"])
def test_callbacks_of_keras_continue_as_they_would_have(kind: str):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    figures = [1.0, 0.995, 0.991, 0.5, 0.499, 0.498, 0.497, 0.496]

    def start() -> Any:
        callback = getattr(keras.callbacks, kind)(monitor="loss", mode="min", patience=2, min_delta=0.01)
        callback.set_model(model)
        callback.on_train_begin()
        return callback

    def outcomes(callback: Any, epochs: range) -> list[Any]:
        result = []
        for epoch in epochs:
            callback.on_epoch_end(epoch, {"loss": figures[epoch]})
            result.append((callback.wait, float(callback.best), model.stop_training))
        return result

    model.stop_training = False
    whole = outcomes(start(), range(8))
    model.stop_training = False
    first = start()
    outcomes(first, range(5))
    assert outcomes(again(first, start()), range(5, 8)) == whole[5:]


def test_variables_get_their_values_back():
    first, other = keras.layers.Dense(2), keras.layers.Dense(2)
    for layer in (first, other):
        layer.build((None, 3))
    checkpoint.assign_variables(other.weights, checkpoint.variable_values(first.weights, "weights"), "weights")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(layer.kernel) for layer in (first, other)))


def test_variables_of_other_shapes_are_refused():
    first, other = keras.layers.Dense(2), keras.layers.Dense(4)
    for layer in (first, other):
        layer.build((None, 3))
    with pytest.raises(KerasimgError, match=r"the checkpoint does not fit: its 2 variables \(weights\)"):
        checkpoint.assign_variables(other.weights, checkpoint.variable_values(first.weights, "weights"), "weights")


def test_the_states_of_random_generators_are_not_weights():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    assert [variable.path.rsplit("/", 1)[-1] for variable in checkpoint.non_weight_variables(model)] == [
        "seed_generator_state"
    ]
