import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.training.history import History


def fit(history: History, epochs: int, initial_epoch: int = 0, learning_rate: Any = 0.01, target: float = 1.0) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    x = np.ones((4, 1), "float32")
    model.fit(x, target * x, epochs=epochs, initial_epoch=initial_epoch, callbacks=[history], verbose=0)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_epoch_is_a_row_from_1_on_over_all_stages(tmp_path: Path):
    history = History(tmp_path / "history.csv")
    fit(history, epochs=2)
    history.stage = 1
    fit(history, epochs=3, initial_epoch=2, learning_rate=0.5)
    result = rows(tmp_path / "history.csv")
    assert [(row["stage"], row["epoch"]) for row in result] == [("1", "1"), ("1", "2"), ("2", "3")]
    assert list(result[0]) == ["stage", "epoch", "seconds", "learning_rate", "loss"]
    assert [float(row["learning_rate"]) for row in result] == pytest.approx([0.01, 0.01, 0.5])


def test_a_row_is_written_as_soon_as_its_epoch_ends(tmp_path: Path):
    seen = []
    history = History(tmp_path / "history.csv")

    class Reader(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append(len(rows(history.path)) if history.path.exists() else 0)

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=3, callbacks=[history, Reader()], verbose=0)
    assert seen == [0, 1, 2]


def test_a_schedule_records_the_rate_at_the_end_of_the_epoch(tmp_path: Path):
    history = History(tmp_path / "history.csv")
    fit(history, epochs=2, learning_rate=keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25]))
    assert [float(row["learning_rate"]) for row in rows(history.path)] == pytest.approx([0.5, 0.25])


def test_a_nan_loss_is_detected(tmp_path: Path):
    history = History(tmp_path / "history.csv")
    fit(history, epochs=1)
    assert not history.diverged
    fit(history, epochs=1, target=float("nan"))
    assert history.diverged
