"""A spec in KerasTuner's own tuners."""

import keras_tuner
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError

pytest.importorskip("tensorboard", reason="KerasTuner's own Tuner needs it for every trial")


@pytest.fixture(scope="module")
def colours():
    noise = np.random.default_rng(0)
    y = np.arange(30) % 2
    x = np.where(y[:, None, None, None] == 1, 200, 50) + noise.integers(-20, 20, (30, 8, 8, 3))
    return x.astype("uint8"), y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner's threads
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
@pytest.mark.parametrize("tuner", ["RandomSearch", "GridSearch", "BayesianOptimization", "Hyperband"])
def test_it_works_in_every_tuner_of_keras_tuner(tuner, searched, colours, tmp_path):
    hyper = kerasimg.HyperSpec(searched({}), num_classes=2)
    limit = {"max_epochs": 2} if tuner == "Hyperband" else {"max_trials": 2}
    objective = keras_tuner.Objective("val_accuracy", "max")
    made = getattr(keras_tuner, tuner)(hyper, objective=objective, directory=tmp_path, seed=1, **limit)
    made.search(*colours, validation_data=colours, verbose=0)
    assert {trial.status for trial in made.oracle.trials.values()} == {"COMPLETED"}
    best = made.get_best_hyperparameters()[0]
    assert hyper.resolve(best).compile.optimizer["learning_rate"] == pytest.approx(
        best.get("compile.optimizer.learning_rate"), rel=1e-5
    )


def test_options_are_conditional_scopes(tiny):
    units = {"$choice": {"few": {"$int": [2, 4], "default": 2}, "many": 9}, "default": "many"}
    head = {"layer": "Dense", "name": "classes", "units": "=num_classes"}
    model = [{"layer": "Flatten"}, {"layer": "Dense", "name": "hidden", "units": units}, head]
    hp = keras_tuner.HyperParameters()
    model = kerasimg.HyperSpec(tiny(model=model), num_classes=3).build(hp)
    assert model.get_layer("hidden").units == 9
    assert [one.name for one in hp.space] == ["model.hidden.units", "model.hidden.units.few"]
    assert hp.values == {"model.hidden.units": "many"}


def test_every_stage_is_trained(tiny, colours):
    hyper = kerasimg.HyperSpec(tiny(fit={"batch_size": 8, "stages": [{"epochs": 1}, {"epochs": 2}]}), num_classes=2)
    hp = keras_tuner.HyperParameters()
    model = hyper.build(hp)
    history = hyper.fit(hp, model, *colours, verbose=0)
    assert history.epoch == [0, 1, 2]
    assert len(history.history["val_accuracy"]) == 3


def test_a_model_of_another_is_refused(tiny, colours):
    hyper = kerasimg.HyperSpec(tiny(), num_classes=2)
    with pytest.raises(CallError, match="was not made by this object's build"):
        hyper.fit(keras_tuner.HyperParameters(), kerasimg.build(tiny(), num_classes=2), *colours)
