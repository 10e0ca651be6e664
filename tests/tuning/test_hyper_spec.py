"""A spec in KerasTuner's own tuners."""

import importlib
import sys

import keras
import keras_tuner
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError
from kerasimg.training import train as verbs


@pytest.fixture(scope="module")
def colours():
    noise = np.random.default_rng(0)
    y = np.arange(30) % 2
    x = np.where(y[:, None, None, None] == 1, 200, 50) + noise.integers(-20, 20, (30, 8, 8, 3))
    return x.astype("uint8"), y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner's threads
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
@pytest.mark.parametrize("tuner", ["RandomSearch", "GridSearch", "BayesianOptimization", "Hyperband"])
def test_a_hyper_spec_works_in_every_tuner_of_keras_tuner(tuner, searched, colours, tmp_path):
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
    assert [item.name for item in hp.space] == ["model.hidden.units", "model.hidden.units.few"]
    assert hp.values == {"model.hidden.units": "many"}


def test_every_stage_is_trained(tiny, colours):
    hyper = kerasimg.HyperSpec(tiny(fit={"batch_size": 8, "stages": [{"epochs": 1}, {"epochs": 2}]}), num_classes=2)
    hp = keras_tuner.HyperParameters()
    model = hyper.build(hp)
    history = hyper.fit(hp, model, *colours, verbose=0)
    assert history.epoch == [0, 1, 2]
    assert len(history.history["val_accuracy"]) == 3


def test_a_model_of_another_hyper_spec_is_refused(tiny, colours):
    hyper = kerasimg.HyperSpec(tiny(), num_classes=2)
    with pytest.raises(CallError, match="was not made by this object's build"):
        hyper.fit(keras_tuner.HyperParameters(), kerasimg.build(tiny(), num_classes=2), *colours)


def fitted(tiny, data, fit, **others):
    """Returns the model and the history of a spec with this section `fit`."""
    hyper = kerasimg.HyperSpec(tiny(fit=fit), num_classes=2)
    hp = keras_tuner.HyperParameters()
    model = hyper.build(hp)
    return model, hyper.fit(hp, model, *data, verbose=0, **others)


def test_a_stage_ends_early(tiny, colours):
    stopping = {"monitor": "loss", "patience": 1, "min_delta": 9.0}
    _, history = fitted(tiny, colours, {"batch_size": 8, "stages": [{"epochs": 12, "early_stopping": stopping}]})
    assert history.epoch == [0, 1]


def test_the_callbacks_of_the_spec_are_called(tiny, colours, monkeypatch):
    rates = []
    on_epoch_end = keras.callbacks.ReduceLROnPlateau.on_epoch_end

    def noted(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        rates.append(float(self.model.optimizer.learning_rate))

    monkeypatch.setattr(keras.callbacks.ReduceLROnPlateau, "on_epoch_end", noted)
    plateau = {"type": "ReduceLROnPlateau", "monitor": "loss", "patience": 1, "min_delta": 9, "factor": 0.5}
    fitted(tiny, colours, {"batch_size": 8, "stages": [{"epochs": 3}], "callbacks": [plateau]})
    assert rates == pytest.approx([0.3, 0.15, 0.075])


def test_the_model_has_the_weights_of_the_best_epoch(tiny, colours):
    rising = {"type": "PiecewiseConstantDecay", "boundaries": [6], "values": [0.1, 1e6]}
    stage = {"epochs": 3, "learning_rate": rising, "keep": "best"}
    model, history = fitted(tiny, colours, {"batch_size": 8, "validation_split": 0.3, "stages": [stage]})
    losses = history.history["val_loss"]
    assert losses[-1] > 100 * min(losses)
    assert max(np.abs(weight).max() for weight in model.get_weights()) < 100


def test_an_open_batch_size_and_precision_are_chosen(listen, tiny, colours):
    messages = []
    listen(messages.append)
    fit = {"batch_size": "auto", "precision": "auto", "stages": [{"epochs": 1}]}
    hyper = kerasimg.HyperSpec(tiny(fit=fit), num_classes=2)
    hp = keras_tuner.HyperParameters()
    for _ in range(2):
        history = hyper.fit(hp, hyper.build(hp), *colours, verbose=0)
    assert history.epoch == [0]
    assert sum(line.startswith("precision: ") for line in messages) == 1
    assert sum(line.startswith("batch size: ") for line in messages) == 1


def test_a_student_learns_from_its_teacher(tiny, colours, tmp_path):
    run = kerasimg.Run(verbs.train(tiny(), data=colours, out=tmp_path, verbose=0))
    fit = {"batch_size": 8, "stages": [{"epochs": 2}], "teacher": {"run": str(run.folder)}}
    _, alone = fitted(tiny, colours, {key: value for key, value in fit.items() if key != "teacher"})
    _, taught = fitted(tiny, colours, fit)
    assert taught.history["loss"] != alone.history["loss"]


def test_callbacks_of_the_caller_see_the_whole_model_while_its_end_is_trained(tiny, colours):
    body = {"layer": "Conv2D", "name": "body", "filters": 2, "kernel_size": 3, "trainable": False}
    fit = {"batch_size": 8, "features": "cached", "stages": [{"epochs": 5}]}
    hyper = kerasimg.HyperSpec(tiny(model=[body, *tiny()["model"]], fit=fit), num_classes=2)
    hp = keras_tuner.HyperParameters()
    model = hyper.build(hp)

    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert self.model is model
            self.model.optimizer.learning_rate = 0.125
            self.model.stop_training = epoch == 1

    history = hyper.fit(hp, model, *colours, verbose=0, callbacks=[Stops()])
    assert history.epoch == [0, 1]
    assert float(model.optimizer.learning_rate) == 0.125


def test_the_initial_epoch_belongs_to_its_stage(tiny, colours):
    stages = [{"epochs": 2, "learning_rate": 0.5}, {"epochs": 2, "learning_rate": 0.25}]
    model, history = fitted(tiny, colours, {"batch_size": 8, "stages": stages}, initial_epoch=3, epochs=5)
    assert history.epoch == [3, 4]
    assert float(model.optimizer.learning_rate) == 0.25


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner's threads
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
def test_without_tensorboard_only_its_callback_fails(searched, colours, tmp_path, monkeypatch):
    for name in [*sys.modules, "tensorboard", "tensorboard.plugins", "tensorboard.plugins.hparams"]:
        if name.split(".")[0] == "tensorboard":
            monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tensorboard.plugins.hparams")
    hyper = kerasimg.HyperSpec(searched({}), num_classes=2)
    objective = keras_tuner.Objective("val_accuracy", "max")
    made = keras_tuner.RandomSearch(hyper, objective=objective, directory=tmp_path, seed=1, max_trials=1)
    made.search(*colours, validation_data=colours, verbose=0)
    assert {trial.status for trial in made.oracle.trials.values()} == {"COMPLETED"}
    with pytest.raises(CallError, match=r"pip install 'kerasimg\[tensorboard\]'"):
        made._configure_tensorboard_dir([keras.callbacks.TensorBoard()], None)
    with pytest.raises(ModuleNotFoundError):  # other tuners are as KerasTuner has them
        keras_tuner.RandomSearch(
            lambda hp: keras.Sequential(), objective=objective, directory=tmp_path / "other", max_trials=1
        )._configure_tensorboard_dir([], None)
