"""A training that runs out of memory; the layer `Hungry` raises the error of TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import KerasimgError
from kerasimg.run_folder import RunFolder
from kerasimg.training import checkpoint, checkpoint_callbacks
from kerasimg.training import train as verbs

Train = Callable[..., Run]


@keras.saving.register_keras_serializable(package="tests")
class Hungry(keras.layers.Layer):
    """Has memory for a number of images per batch, for a number of steps, and then for `left` images."""

    room: ClassVar[int] = 10**9
    steps: ClassVar[float] = float("inf")
    left: ClassVar[int] = 10**9
    seen: ClassVar[list[int]] = []

    def call(self, x: Any, training: bool = False) -> Any:
        import tensorflow as tf

        return tf.ensure_shape(tf.numpy_function(self.take, [x, training], tf.float32), x.shape)

    @classmethod
    def take(cls, x: np.ndarray, training: bool) -> np.ndarray:
        if training:
            cls.seen.append(len(x))
            if len(x) > (cls.room if len(cls.seen) <= cls.steps else cls.left):
                raise MemoryError("no room for this many")  # which TensorFlow makes a ResourceExhaustedError
        return x


@pytest.fixture
def spec(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    kerasimg.register(Hungry)
    monkeypatch.setattr(Hungry, "seen", [])

    def make(batch_size: Any, **fit: Any) -> dict[str, Any]:
        stage = {"epochs": 3, "warmup_epochs": 2, "learning_rate": 0.01}
        # XLA, which TensorFlow may enable by itself, cannot compile such a layer.
        compile = {"optimizer": "Adam", "jit_compile": False, "steps_per_execution": 1}
        model = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Hungry"}, *tiny()["model"][1:]]
        return tiny(model=model, compile=compile, fit={"batch_size": batch_size, "stages": [stage], **fit})

    return make


def limited(listen: Any, monkeypatch: pytest.MonkeyPatch, left: int, after: float = 0) -> list[str]:
    """A training has room for `left` images, once `after` steps are done. Returns the messages."""
    messages: list[str] = []

    def heard(line: str) -> None:
        messages.append(line)
        if line.startswith("training ") and Hungry.left != left:
            Hungry.seen.clear()
            monkeypatch.setattr(Hungry, "steps", after)
            monkeypatch.setattr(Hungry, "left", left)

    listen(heard)
    return messages


def test_a_batch_size_that_does_not_fit_is_not_chosen(
    train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Hungry, "room", 8)
    run = train(spec("auto"), data=colours, out=tmp_path)
    tried = RunFolder.of(run).required("training.json")["tried"]["batch_size"]
    assert (tried["chosen"], tried["why"]) == (8, "16 images do not fit in memory")


def test_out_of_memory_before_a_checkpoint_restarts_with_half_the_batch_size(
    listen: Any, train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    messages = limited(listen, monkeypatch, left=8)
    run = train(spec("auto"), data=colours, out=tmp_path)
    assert (
        "out of memory at batch size 16: continuing with 8 (no checkpoint was written yet); "
        "the learning rate stays as it is"
    ) in messages
    assert RunFolder.of(run).required("spec.json")["fit"]["batch_size"] == 8
    noted = RunFolder.of(run).required("training.json")["tried"]["batch_size"]
    assert noted["chosen"] == 16
    assert noted["out_of_memory"] == [{"batch_size": 8, "after": {"epochs": 0, "steps": 0}}]
    given = train(spec(8), data=colours, out=tmp_path)
    for item, other in zip(run.model.get_weights(), given.model.get_weights(), strict=True):
        np.testing.assert_array_equal(item, other)


@pytest.mark.parametrize("within", [False, True])
def test_out_of_memory_later_continues_from_the_checkpoint_with_half_the_batch_size(
    listen: Any, train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool
):
    monkeypatch.setattr(checkpoint_callbacks, "SHARE", float("inf"))
    monkeypatch.setattr(checkpoint_callbacks, "WITHIN_EPOCH_S", 0.0 if within else 1e9)
    messages = limited(listen, monkeypatch, left=8, after=3)  # 26 images, two steps an epoch
    run = train(spec("auto"), data=colours, out=tmp_path)
    state = "saved up to step 1 of epoch 2" if within else "saved up to the end of epoch 1"
    assert any(f"continuing with 8 ({state})" in line for line in messages)
    assert Hungry.seen[:4] == [16, 10, 16, 10]
    assert Hungry.seen[4:] == ([8, 2] if within else [8, 8, 8, 2]) + [8, 8, 8, 2]
    # Two epochs of warm-up, of four steps by now: the rate rises in the second one as if there had always been four.
    rates = [row["learning_rate"] for row in run.history]
    assert rates[1:] == pytest.approx([0.01, 0.01])
    assert [row["epoch"] for row in run.history] == [1, 2, 3]


def test_a_run_that_continued_with_half_the_batch_size_can_be_interrupted_and_resumed(
    listen: Any, train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint_callbacks, "SHARE", float("inf"))
    limited(listen, monkeypatch, left=8, after=3)
    whole = train(spec("auto"), data=colours, out=tmp_path / "whole")
    write, sizes = checkpoint.write, []

    def once(path: Path, facts: Any, arrays: Any) -> None:
        write(path, facts, arrays)
        sizes.append(facts["batch_size"])
        if len(sizes) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Hungry, "left", 10**9)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", once)
        with pytest.raises(KerasimgError, match="saved up to the end of epoch 2"):
            train(spec("auto"), data=colours, out=tmp_path)
    assert sizes == [16, 8]
    run = Run(verbs.resume(tmp_path / "tiny-1", verbose=0))
    for item, other in zip(run.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(item, other)


def test_a_given_batch_size_is_not_changed_and_the_error_suggests_another(
    train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Hungry, "room", 4)
    with pytest.raises(KerasimgError, match=r"out of memory at batch size 8: .*--set fit\.batch_size=4, or auto"):
        train(spec(8), data=colours, out=tmp_path)


def test_smaller_images_are_suggested_if_not_one_image_fits(
    listen: Any, train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    messages = limited(listen, monkeypatch, left=0)
    with pytest.raises(KerasimgError, match=r"out of memory at batch size 1: retrain with smaller images"):
        train(spec("auto"), data=colours, out=tmp_path)
    assert sum("continuing with" in line for line in messages) == 4
