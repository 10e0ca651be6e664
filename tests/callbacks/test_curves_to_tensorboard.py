"""The curves in TensorBoard equal history.csv, also after interruptions."""

from pathlib import Path

import keras
import numpy as np
import pytest

from kerasimg.callbacks import CurvesToTensorBoard
from kerasimg.callbacks.curves_to_tensorboard import write_curves
from kerasimg.errors import CallError

HEADER = "stage,epoch,seconds,learning_rate,loss,val_loss\n"
ROWS = ["1,1,2.0,0.1,3.0,4.0\n", "1,2,2.0,0.1,2.0,3.0\n", "2,3,2.0,0.01,1.0,\n"]


@pytest.fixture(autouse=True)
def board() -> None:
    pytest.importorskip("tensorboard")


def read(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every scalar in the logs of a folder."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    scalars = []
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
                scalars.append((event.step, value.tag, round(number, 4)))
    return scalars


def test_training_and_validation_curves_are_separate(tmp_path: Path):
    (tmp_path / "history.csv").write_text(HEADER + "".join(ROWS))
    for _ in range(2):  # the second call replaces the curves of the first
        write_curves(tmp_path / "history.csv", tmp_path / "logs")
    assert [item for item in read(tmp_path / "logs" / "train") if item[1] == "loss"] == [
        (1, "loss", 3.0),
        (2, "loss", 2.0),
        (3, "loss", 1.0),
    ]
    assert read(tmp_path / "logs" / "validation") == [(1, "loss", 4.0), (2, "loss", 3.0)]


def test_an_epoch_repeated_after_a_resume_is_shown_once(tmp_path: Path):
    history = tmp_path / "history.csv"
    history.write_text(HEADER + ROWS[0] + ROWS[1])
    CurvesToTensorBoard(history, tmp_path / "logs").on_train_begin()  # killed here
    history.write_text(HEADER + ROWS[0])
    resumed = CurvesToTensorBoard(history, tmp_path / "logs")
    resumed.on_train_begin()
    history.write_text(HEADER + ROWS[0] + ROWS[1].replace("2.0,3.0", "9.0,9.0"))
    resumed.on_epoch_end(1)
    resumed.on_train_end()
    assert read(tmp_path / "logs" / "validation") == [(1, "loss", 4.0), (2, "loss", 9.0)]


def test_rows_removed_during_training_are_removed_from_the_curves(tmp_path: Path):
    history = tmp_path / "history.csv"
    history.write_text(HEADER + ROWS[0] + ROWS[1])
    callback = CurvesToTensorBoard(history, tmp_path / "logs")
    callback.on_train_begin()
    history.write_text(HEADER + ROWS[0])
    callback.on_epoch_end(1)
    callback.on_train_end()
    assert read(tmp_path / "logs" / "validation") == [(1, "loss", 4.0)]


def test_the_curves_follow_a_training(tmp_path: Path):
    history = tmp_path / "history.csv"

    class Writer(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with history.open("a") as file:
                file.write((HEADER if epoch == 0 else "") + f"1,{epoch + 1},1.0,0.1,{logs['loss']},\n")

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    callbacks = [Writer(), CurvesToTensorBoard(history, tmp_path / "logs")]
    fitted = model.fit(np.ones((4, 2)), np.ones(4), epochs=3, callbacks=callbacks, verbose=0)
    losses = [(step, value) for step, name, value in read(tmp_path / "logs" / "train") if name == "loss"]
    assert losses == [(k + 1, pytest.approx(loss, abs=1e-3)) for k, loss in enumerate(fitted.history["loss"])]


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(CallError, match=r'pip install "kerasimg\[tensorboard\]"'):
        write_curves(tmp_path / "history.csv", tmp_path)
