from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.errors import KerasimgError
from kerasimg.reporting.epochs import read_goals, stage_summaries
from kerasimg.training.stages import Averages, Best, final_weights


def model(**options: Any) -> keras.Model:
    made = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False), keras.layers.BatchNormalization()]
    )
    made.compile(keras.optimizers.SGD(0.1, **options), "mse")
    made.optimizer.build(made.trainable_variables)
    return made


def kernel(made: keras.Model, value: float) -> None:
    made.layers[0].kernel.assign(np.full((1, 1), value, "float32"))


@pytest.mark.parametrize(
    ("mode", "min_delta", "epoch"), [("min", 0.0, 3), ("max", 0.0, 2), ("min", 0.15, 1), ("max", 0.5, 0)]
)
def test_the_weights_of_the_best_epoch_are_stored(mode: str, min_delta: float, epoch: int):
    made, best = model(), Best("figure", mode, min_delta)
    best.set_model(made)
    for number, figure in enumerate([0.5, 0.3, 0.6, 0.2, 0.2]):
        kernel(made, number)
        best.on_epoch_end(number, {"figure": figure})
    assert (best.epoch, best.weights[0][0, 0]) == (epoch, epoch)


def test_a_missing_metric_is_reported_with_the_existing_ones():
    best = Best("val_acuracy", "max")
    with pytest.raises(KerasimgError, match=r"no figure 'val_acuracy' .* \(there are: loss, val_accuracy\)"):
        best.on_epoch_end(0, {"loss": 1.0, "val_accuracy": 0.5})


def test_averages_are_passed_on_in_place_of_the_trained_weights():
    made = model(use_ema=True)
    kernel(made, 2.0)
    made.optimizer._model_variables_moving_average[0].assign(np.full((1, 1), 7.0, "float32"))
    handed = final_weights(made)
    assert handed[0][0, 0] == 7.0
    assert [array.shape for array in handed] == [tuple(weight.shape) for weight in made.weights]
    assert final_weights(model())[1].tolist() == [1.0]


def test_validation_uses_the_averages_and_restores_the_weights_bit_for_bit():
    made, averages = model(use_ema=True), Averages()
    averages.set_model(made)
    kernel(made, 0.1)
    made.optimizer._model_variables_moving_average[0].assign(np.full((1, 1), 1e8, "float32"))
    averages.on_test_begin()
    assert float(made.layers[0].kernel[0, 0]) == 1e8
    averages.on_test_end()
    assert np.float32(made.layers[0].kernel[0, 0]) == np.float32(0.1)


@pytest.mark.parametrize("name", [None, "ce"])
def test_the_epoch_with_the_lowest_cross_entropy_is_used_and_logged(
    listen: Any, train: Any, tmp_path: Any, name: str | None
):
    metric = {"type": "SparseCategoricalCrossentropy", **({"name": name} if name else {})}
    figure = f"val_{name or 'sparse_categorical_crossentropy'}"
    labels = np.arange(24) % 2
    images = (np.ones((24, 4, 4, 3)) * 200 * labels[:, None, None, None]).astype("uint8")
    spec = {
        "kerasimg": 1,
        "image": {"size": [4, 4]},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 2, "activation": "softmax"}],
        "compile": {"optimizer": {"type": "SGD", "learning_rate": 0.1}, "metrics": [metric]},
        "fit": {
            "stages": [
                {"epochs": 4, "keep": "best", "monitor": figure, "early_stopping": {"monitor": figure, "patience": 1}}
            ]
        },
    }
    lines: list[str] = []
    listen(lines.append)
    run = train(spec, data=(images, labels), out=tmp_path)
    values = [row[figure] for row in run.history]
    assert values == sorted(values, reverse=True)
    assert len(values) == 4
    assert [line for line in lines if "weights of epoch 4" in line]
    assert stage_summaries(run.history, read_goals(run.folder))[0].best == 4
