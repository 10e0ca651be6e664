"""Stages of a run, summarised from its history."""

import pytest

from kerasimg.reporting.epochs import duration, print_stages, stage_summaries
from kerasimg.spec.metrics import Goal


def test_the_best_epoch_of_a_stage_is_the_best_by_its_monitor():
    rows = [
        {"stage": 1, "epoch": 1, "seconds": 2.0, "loss": 3.0, "val_loss": 1.0, "val_accuracy": 0.5},
        {"stage": 1, "epoch": 2, "seconds": 2.0, "loss": 2.0, "val_loss": 2.0, "val_accuracy": 0.6},
        {"stage": 2, "epoch": 3, "seconds": 1.0, "loss": 1.0, "val_loss": 3.0, "val_accuracy": 0.7},
    ]
    assert [(one.first, one.last, one.best, one.watched) for one in stage_summaries(rows)] == [
        (1, 2, 1, "val_loss"),
        (3, 3, 3, "val_loss"),
    ]
    assert stage_summaries(rows, {1: Goal("val_accuracy", "max")})[0].best == 2
    assert stage_summaries([{"stage": 1, "epoch": 1, "loss": 1.0}])[0].watched == "loss"


def test_the_accuracy_of_epochs_of_several_labels_is_not_that_of_the_evaluation(capsys: pytest.CaptureFixture[str]):
    print_stages([{"stage": 1, "epoch": 1, "loss": 1.0, "accuracy": 0.75}], task="multilabel")
    assert "label accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0.4 s"), (48, "48 s"), (720, "12 min"), (12000, "3 h 20 min")])
def test_a_duration_is_short(seconds: float, text: str):
    assert duration(seconds) == text
