import json
import math

import pytest

from kerasimg.spec.document import Stage
from kerasimg.tuning.journal import Ended, Order, Records, kept_row


def test_an_incomplete_line_is_removed(tmp_path):
    records = Records(tmp_path)
    records.append({"event": "begin", "trial": "0001"})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "end", "tri')
    assert records.events() == [{"event": "begin", "trial": "0001"}]
    records.append({"event": "end", "trial": "0001"})
    assert [event["event"] for event in records.events()] == ["begin", "end"]


def test_a_trial_is_read_back_as_written(tmp_path):
    records = Records(tmp_path)
    row = {"stage": 1.0, "epoch": 1.0, "loss": 0.1 + 0.2, "val_accuracy": 1 / 3}
    ended = Ended("completed", 1 / 3, 0.25, [1 / 3], 1, None, [1 / 3], [row])
    records.write_order(Order("0001", {"lr": 0.1}))
    records.write_ended("0001", ended)
    assert records.read_ended("0001") == ended
    assert sorted(path.name for path in (tmp_path / "trials" / "0001").iterdir()) == [
        "history.csv",
        "outcome.json",
        "values.json",
    ]
    assert json.loads((tmp_path / "trials" / "0001" / "values.json").read_text())["values"] == {"lr": 0.1}
    assert records.read_ended("0002") is None


EPOCHS = [
    {"stage": 1, "epoch": 1, "val_loss": 0.1, "val_accuracy": 1.0},
    {"stage": 2, "epoch": 2, "val_loss": 0.9, "val_accuracy": 0.7},
    {"stage": 2, "epoch": 3, "val_loss": 0.3, "val_accuracy": 0.6},
    {"stage": 2, "epoch": 4, "val_loss": 0.5, "val_accuracy": 0.8},
    {"stage": 2, "epoch": 5, "val_loss": math.nan, "val_accuracy": 0.5},
]


@pytest.mark.parametrize(
    ("stage", "epoch"),
    [
        ({"keep": "best"}, 3),
        ({"keep": "best", "monitor": "val_accuracy", "mode": "max"}, 4),
        ({"early_stopping": {"patience": 1}}, 3),
        ({"early_stopping": {"restore_best_weights": False}}, 5),
        ({"keep": "last"}, 5),
        ({}, 5),
    ],
)
def test_the_epoch_that_counts_is_the_one_whose_weights_training_keeps(stage, epoch):
    stages = [Stage(), Stage.model_validate(stage)]
    assert kept_row(EPOCHS, stages, "val_accuracy")["epoch"] == epoch
    assert kept_row(EPOCHS[:1], stages, "val_accuracy")["epoch"] == 1
    assert kept_row(EPOCHS[:1], stages, "val_f1") == kept_row([], stages, "val_accuracy") == {}
    assert kept_row(EPOCHS, [Stage(), Stage(keep="last")], "val_loss") == {}
