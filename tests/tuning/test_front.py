"""Several objectives: the front, and the one number by which a sampler compares trials."""

import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.spec.metrics import Goal, goals_of
from kerasimg.tuning.front import front, scalarized

ACCURACY, LATENCY = Goal("val_accuracy", "max"), Goal("latency_ms", "min")


def trials(*points):
    return {str(number): {"val_accuracy": high, "latency_ms": low} for number, (high, low) in enumerate(points)}


def test_the_front_has_the_trials_that_none_beats_the_most_accurate_first():
    points = trials((0.8, 2.0), (0.9, 5.0), (0.8, 3.0), (0.7, 1.0), (0.9, 5.0), (0.6, 1.5))
    assert front((ACCURACY, LATENCY), points) == ["1", "0", "3"]


def test_one_number_prefers_what_its_weights_prefer_and_never_a_dominated_trial():
    points = trials((0.9, 8.0), (0.6, 1.0), (0.6, 8.0))
    rows = list(points.values())
    assert scalarized((ACCURACY, LATENCY), rows, (0.9, 0.1)).argmin() == 0
    assert scalarized((ACCURACY, LATENCY), rows, (0.1, 0.9)).argmin() == 1
    for weight in (0.01, 0.5, 0.99):
        assert scalarized((ACCURACY, LATENCY), rows, (weight, 1 - weight)).argmax() == 2


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            ["latency_ms", "val_accuracy"],
            r"tune.objective\[0\]: 'latency_ms' does not change in training; put a metric",
        ),
        (["val_accuracy", "latency"], r"tune.objective\[1\]: no such figure.*of the model: latency_ms, bytes"),
        (["val_accuracy", "val_accuracy"], r"tune.objective\[1\]: 'val_accuracy' is listed twice"),
    ],
)
def test_check_finds_objectives_that_cannot_be_compared(objective, message):
    with pytest.raises(SpecError, match=message):
        kerasimg.load("simple_cnn", num_classes=3, overrides={"tune.objective": objective})


def test_every_objective_has_its_direction():
    spec = kerasimg.load(
        "simple_cnn", num_classes=3, overrides={"tune.objective": ["val_accuracy", "val_loss", "bytes"]}
    )
    assert [goal.direction for goal in goals_of(spec)] == ["max", "min", "min"]


def test_a_search_over_accuracy_and_bytes_ends_with_a_spec_for_each_point_of_its_front(search, searched, few):
    wide = {"layer": "Dense", "name": "wide", "units": {"$choice": [2, 200], "default": 200}}
    head = {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"}
    spec = searched(
        {"tuner": "grid", "objective": ["val_accuracy", "bytes"]},
        model=[{"layer": "GlobalAveragePooling2D"}, wide, head],
    )
    spec["compile"] = {}
    result = search(spec)
    small = next(trial.row for trial in result.trials if trial.values["model.wide.units"] == 2)
    large = next(trial.row for trial in result.trials if trial.values["model.wide.units"] == 200)
    assert small["bytes"] < large["bytes"]
    front = {point.values["model.wide.units"]: point for point in result.front}
    assert front[2].figures["bytes"] == small["bytes"]
    assert (200 in front) is (large["val_accuracy"] > small["val_accuracy"])
    assert kerasimg.load(front[2]).search == ()
    assert result.values == result.front[0].values
    assert (result.folder / "front.csv").read_text().count("\n") == len(front) + 1
