"""Which way every figure is better, in every place that asks, and what `check` says of one that is not measured."""

import json
import math
import runpy
from importlib.resources import files
from pathlib import Path

import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.spec.metrics import METRICS, Goal, best_by, directions, goal_of, goals_in, metric_name

TABLE = json.loads(files("kerasimg.spec").joinpath("keras_table.json").read_text(encoding="utf-8"))
CE = "SparseCategoricalCrossentropy"


def load(metrics=("accuracy",), stage=None, tune=None, **fit):
    return kerasimg.load(
        {
            **(tune or {}),
            "kerasimg": 1,
            "name": "tiny",
            "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 3, "activation": "softmax"}],
            "compile": {"metrics": list(metrics)},
            "fit": {"stages": [stage or {}], **fit},
        }
    )


def test_the_table_has_every_metric_that_a_spec_can_name_and_no_other():
    assert set(METRICS) == {*TABLE["metrics"], "accuracy", "f1"}


def test_every_metric_of_keras_is_in_the_table_or_refused_with_a_reason():
    import keras

    classes = {
        value.__name__
        for value in vars(keras.metrics).values()
        if isinstance(value, type) and issubclass(value, keras.metrics.Metric)
    }
    assert classes - set(METRICS) == set(TABLE["refused"]["metrics"])


def test_the_table_agrees_with_keras_where_keras_knows_a_direction():
    import keras

    arguments = {"recall": 0.5, "precision": 0.5, "specificity": 0.5, "sensitivity": 0.5}
    known = 0
    for name, metric in METRICS.items():
        if not (kind := getattr(keras.metrics, name, None)):
            continue
        required = [key for key, value in TABLE["metrics"][name]["args"].items() if value.get("required")]
        said = getattr(kind(**{key: arguments[key] for key in required}), "_direction", None)
        assert said in (None, {"min": "down", "max": "up"}[metric.direction]), name
        known += said is not None
    assert known > 12


def test_figures_are_named_as_training_names_them():
    own = {"type": "SparsePrecision", "num_classes": 3}
    assert [metric_name(one) for one in ("AUC", "FBetaScore", own, {"type": "AUC", "name": None}, "f1")] == [
        *("auc", "f_beta_score", "precision", "auc", "f1")
    ]


def test_a_metric_that_the_user_named_has_the_direction_of_its_class():
    found = directions([{"type": CE, "name": "ce"}, {"type": "Recall", "name": "my_error"}])
    assert found == {"loss": "min", "ce": "min", "my_error": "max"}


@pytest.mark.parametrize(
    ("metric", "figure", "direction"),
    [
        (CE, "val_sparse_categorical_crossentropy", "min"),
        ({"type": CE, "name": "ce"}, "val_ce", "min"),
        ({"type": "ExpectedCalibrationError", "name": "accuracy_of_confidence"}, "val_accuracy_of_confidence", "min"),
        ({"type": "SparseTopKCategoricalAccuracy", "k": 2, "name": "top2_no_error"}, "val_top2_no_error", "max"),
        ("accuracy", "loss", "min"),
    ],
)
def test_stages_early_stopping_and_callbacks_get_the_direction(metric, figure, direction):
    stage = {"keep": "best", "monitor": figure, "early_stopping": {"monitor": figure, "min_delta": 0.01}}
    callbacks = [{"type": "ReduceLROnPlateau", "monitor": figure}, {"type": "EarlyStopping", "monitor": figure}]
    spec = load([metric], stage, callbacks=callbacks)
    (found,) = spec.fit.stages
    assert (found.mode, found.early_stopping.mode) == (direction, direction)
    assert best_by(found) == Goal(figure, direction, 0.01)
    assert [one["mode"] for one in spec.fit.callbacks] == [direction, direction]
    assert goals_in(spec.resolved) == {1: Goal(figure, direction, 0.01)}


@pytest.mark.parametrize(
    ("stage", "fit", "tune", "place"),
    [
        ({"keep": "best", "mode": "max"}, {}, {}, "fit.stages[0].mode"),
        ({"early_stopping": {"mode": "max"}}, {}, {}, "fit.stages[0].early_stopping.mode"),
        ({}, {"callbacks": [{"type": "ReduceLROnPlateau", "mode": "max"}]}, {}, "fit.callbacks[0].mode"),
        ({}, {}, {"tune": {"objective": "val_loss", "direction": "max"}}, "tune.direction"),
    ],
)
def test_a_direction_that_would_choose_the_worst_epoch_is_refused(stage, fit, tune, place):
    with pytest.raises(SpecError) as caught:
        load(stage=stage, tune=tune, **fit)
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [
        f'{place}: \'val_loss\' is better when it is less: expected "min" or "auto", got "max"'
    ]


def test_a_direction_that_the_table_has_may_be_written():
    stage = {"keep": "best", "monitor": "val_accuracy", "mode": "max", "early_stopping": {"mode": "min"}}
    (found,) = load(stage=stage).fit.stages
    assert (found.mode, found.early_stopping.mode) == ("max", "min")


def test_a_callback_that_is_only_named_gets_its_direction_too():
    assert load(callbacks=["EarlyStopping"]).fit.callbacks == [{"type": "EarlyStopping", "mode": "min"}]


def test_a_stage_keeps_the_best_by_the_mode_of_its_early_stopping():
    stage = {"early_stopping": {"monitor": "val_accuracy", "mode": "max"}}
    assert best_by(load(stage=stage).fit.stages[0]) == Goal("val_accuracy", "max")


def test_a_resolved_spec_loads_as_the_same_spec():
    spec = load([CE], {"keep": "best", "monitor": "val_sparse_categorical_crossentropy"})
    assert kerasimg.load(dict(spec.resolved)).fit == spec.fit


def test_a_spec_of_an_earlier_version_gets_its_directions_from_the_table():
    document = {
        "compile": {"metrics": [{"type": CE, "name": "ce"}]},
        "fit": {"stages": [{"early_stopping": {"monitor": "val_ce", "mode": "auto"}}, {"keep": "last"}]},
    }
    assert goals_in(document) == {1: Goal("val_ce", "min")}


KNOWN = "(measured are: val_loss, val_accuracy; more by compile.metrics)"


@pytest.mark.parametrize(
    ("stage", "callbacks", "message"),
    [
        (
            {"early_stopping": {"monitor": "val_acuracy"}},
            [],
            f"fit.stages[0].early_stopping.monitor: no such figure; did you mean 'val_accuracy'? {KNOWN}",
        ),
        ({"keep": "best", "monitor": "val_f1"}, [], f"fit.stages[0].monitor: no such figure {KNOWN}"),
        (
            {},
            [{"type": "ReduceLROnPlateau", "monitor": "val_precision"}],
            f"fit.callbacks[0].monitor: no such figure {KNOWN}",
        ),
        (
            {"keep": "best", "monitor": "learning_rate"},
            [],
            "fit.stages[0].monitor: 'learning_rate' does not say how good the model is; "
            "choose from: val_loss, val_accuracy",
        ),
    ],
)
def test_a_figure_that_is_not_measured_is_found_by_the_check(stage, callbacks, message):
    with pytest.raises(SpecError) as caught:
        load(stage=stage, callbacks=callbacks)
    assert str(caught.value).replace("(EarlyStopping)", "") == f"tiny: {message}"


def test_the_figures_of_a_teacher_can_be_watched():
    stage = {"keep": "best", "monitor": "val_distillation_loss"}
    assert load(stage=stage, teacher={"run": "runs/large"}).fit.stages[0].mode == "min"


def test_a_registered_metric_needs_a_mode():
    import keras

    @kerasimg.register
    class OwnDistance(keras.metrics.Metric):
        """A metric of the program."""

        def __init__(self, name: str = "own_distance") -> None:
            super().__init__(name=name)

    stage = {"keep": "best", "monitor": "val_own_distance"}
    with pytest.raises(SpecError, match=r"stages\[0\]\.mode: 'val_own_distance' may be better when it is less, or"):
        load(["OwnDistance"], stage)
    assert load(["OwnDistance"], {**stage, "mode": "min"}).fit.stages[0].mode == "min"


@pytest.mark.parametrize(
    "rates",
    [
        {"stage": {"learning_rate": {"type": "CosineDecay", "initial_learning_rate": 0.1, "decay_steps": 9}}},
        {"optimizer": {"type": "ExponentialDecay", "initial_learning_rate": 0.1, "decay_steps": 9, "decay_rate": 0.5}},
    ],
)
@pytest.mark.parametrize("callback", ["ReduceLROnPlateau", "WarmupCosine"])
def test_a_callback_that_sets_the_rate_does_not_go_with_a_schedule(rates, callback):
    document = {
        "kerasimg": 1,
        "name": "tiny",
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 3, "activation": "softmax"}],
        "compile": {"optimizer": {"type": "SGD", "learning_rate": rates.get("optimizer", 0.1)}},
        "fit": {"stages": [{"learning_rate": 0.1}, rates.get("stage", {})], "callbacks": [callback]},
    }
    place = "fit.stages[1]" if "stage" in rates else "compile.optimizer"
    with pytest.raises(SpecError) as caught:
        kerasimg.load(document)
    assert str(caught.value) == (
        f"tiny: fit.callbacks[0]: {callback} sets the learning rate, and the schedule in {place}.learning_rate does, "
        "too; leave one of them out"
    )


def test_a_callback_that_swaps_averages_needs_some():
    with pytest.raises(SpecError, match=r"callbacks\[0\]: SwapEMAWeights needs averages of the weights; set fit\.ema"):
        load(callbacks=["SwapEMAWeights"])
    assert load(callbacks=["SwapEMAWeights"], ema=0.9).fit.ema == 0.9


@pytest.mark.parametrize(
    ("goal", "values", "best"),
    [
        (Goal("loss", "min"), [0.5, 0.3, 0.3, 0.4], 1),
        (Goal("f1", "max"), [0.5, 0.3, 0.6, 0.6], 2),
        (Goal("loss", "min", 0.15), [0.5, 0.4, 0.3, 0.2], 2),
        (Goal("loss", "min"), [math.nan, 0.9, math.nan, 0.8], 3),
        (Goal("loss", "min"), [math.nan, math.nan], 0),
    ],
)
def test_the_best_epoch_is_the_one_that_training_keeps(goal, values, best):
    assert goal.best_of(values) == best


def test_the_page_has_the_current_table():
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "metrics.md").read_text(encoding="utf-8")
    assert text == runpy.run_path(str(docs / "make_metrics.py"))["page"](text), "run: python docs/make_metrics.py"


def searched(metrics=("accuracy",), **tune):
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": 2}]
    return kerasimg.load({"kerasimg": 1, "model": model, "compile": {"metrics": list(metrics)}, "tune": tune})


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("val_accuracy", "max"), ("val_loss", "min"), ("loss", "min"), ("val_f1", "max"), ("val_ece", "min")],
)
def test_the_direction_of_a_known_figure_is_known(objective, direction):
    metrics = ["accuracy", "f1", {"type": "ExpectedCalibrationError", "name": "ece"}]
    assert goal_of(searched(metrics, objective=objective)) == (objective, direction, 0.0)


def test_a_direction_in_tune_may_be_the_known_one():
    assert goal_of(searched(objective="val_loss", direction="min")).direction == "min"


def test_a_figure_that_is_not_measured_is_refused_before_any_trial():
    with pytest.raises(SpecError, match=r"tune\.objective: no such figure; did you mean 'val_accuracy'"):
        goal_of(searched(objective="val_acuracy"))


def test_no_number_is_better_than_one_that_is():
    goal = goal_of(searched(objective="val_loss"))
    assert goal.better(0.1, goal.worst)
    assert not goal.better(float("nan"), 0.5)


def test_check_finds_an_objective_that_no_trial_measures():
    with pytest.raises(SpecError, match=r"tune\.objective: no such figure; did you mean 'val_accuracy'"):
        searched(objective="val_acuracy")
    rate = {"optimizer": {"type": "SGD", "learning_rate": {"$float": [0.1, 1.0], "default": 0.5}}, "metrics": ["f1"]}
    document = {"kerasimg": 1, "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 2}], "compile": rate}
    assert kerasimg.load(document).tune.objective == "val_accuracy"  # nothing asks for a search
    with pytest.raises(SpecError, match=r"tune\.objective: no such figure"):
        kerasimg.load({**document, "tune": {"max_trials": 3}})


def test_check_finds_an_objective_whose_direction_is_not_known():
    import keras

    class OddRate(keras.metrics.Mean):
        def get_config(self):
            return super().get_config()

    kerasimg.register(OddRate)
    with pytest.raises(SpecError, match=r"tune\.direction: 'val_odd_rate' may be better"):
        searched(["OddRate"], objective="val_odd_rate")
    assert goal_of(searched(["OddRate"], objective="val_odd_rate", direction="max")).direction == "max"
