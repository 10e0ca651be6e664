import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.tuning.objective import goal_of


def spec(metrics=("accuracy",), **tune):
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": 2}]
    return kerasimg.load({"kerasimg": 1, "model": model, "compile": {"metrics": list(metrics)}, "tune": tune})


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("val_accuracy", "max"), ("val_loss", "min"), ("loss", "min"), ("val_f1", "max"), ("val_ece", "min")],
)
def test_the_direction_of_a_known_figure_is_known(objective, direction):
    metrics = ["accuracy", "f1", {"type": "ExpectedCalibrationError", "name": "ece"}]
    assert goal_of(spec(metrics, objective=objective)) == (objective, direction, 0.0)


def test_what_is_said_goes_before_what_is_known():
    assert goal_of(spec(objective="val_loss", direction="max")).direction == "max"


def test_a_figure_that_is_not_measured_is_refused_before_any_trial():
    with pytest.raises(SpecError, match=r"tune\.objective: no such figure; did you mean 'val_accuracy'"):
        goal_of(spec(objective="val_acuracy"))


def test_no_number_is_better_than_one_that_is():
    goal = goal_of(spec(objective="val_loss"))
    assert goal.better(0.1, goal.worst)
    assert not goal.better(float("nan"), 0.5)
