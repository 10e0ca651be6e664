"""`train`, a search trial and `HyperSpec.fit` train a spec the same way.

All combinations of precision, frozen part and eight keys of `fit` would be 768 trainings times three. These eight rows
hold every pair of settings at least once (features need a frozen part), which a test checks.
"""

import itertools
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import kerasimg
from kerasimg.training import train as verbs
from kerasimg.training.lr_find import find_learning_rate
from kerasimg.tuning.trials import Trials

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
KEYS = ("features", "ema", "early stopping", "callbacks", "class weights", "keep best", "layer decay", "sizes")
ROWS = [
    ("mixed_bfloat16", False, {"callbacks", "keep best", "layer decay"}),
    ("mixed_bfloat16", True, {"features", "ema", "early stopping", "class weights", "sizes"}),
    ("mixed_float16", False, {"ema", "early stopping", "callbacks", "class weights", "keep best", "sizes"}),
    ("float32", True, {"features", "early stopping", "keep best", "layer decay"}),
    ("mixed_float16", True, {"features", "callbacks", "class weights", "layer decay", "sizes"}),
    ("float32", False, {"sizes"}),
    ("mixed_float16", True, {"ema", "early stopping", "layer decay"}),
    ("float32", False, {"ema", "callbacks", "class weights", "keep best"}),
]
PLATEAU = {"type": "ReduceLROnPlateau", "monitor": "loss", "patience": 0, "min_delta": 9, "factor": 0.5}
Curve = dict[str, list[float]]


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Images of three colours, in different numbers."""
    y = np.repeat([0, 1, 2], [15, 9, 6])
    noise = np.random.default_rng(0).integers(-40, 40, (30, 8, 8, 3))
    return (np.eye(3)[y][:, None, None, :] * 100 + 60 + noise).astype("uint8"), y


@pytest.fixture
def curves(images: Any, tmp_path: Any) -> Any:
    """Returns the metrics of a spec by `train`, by a trial, and by `HyperSpec.fit`."""

    def of(spec: dict[str, Any]) -> tuple[Curve, Curve, Curve]:
        run = kerasimg.Run(verbs.train(spec, data=images, out=tmp_path, verbose=0))
        trial = Trials(spec, images, folder=tmp_path / "trials").run({}, trial_id="0")
        assert trial.status == "completed", trial.reason
        hyper = kerasimg.HyperSpec(spec, num_classes=3)
        hp = keras_tuner.HyperParameters()
        history = hyper.fit(hp, hyper.build(hp), *images, verbose=0).history
        return curve(run.history), curve(trial.logs), history

    return of


def curve(rows: Any) -> Curve:
    names = [name for name in rows[0] if name not in ("stage", "epoch", "seconds", "learning_rate")]
    return {name: [row[name] for row in rows] for name in names}


def spec_of(tiny: Any, precision: str, frozen: bool, keys: set[str]) -> dict[str, Any]:
    stage: dict[str, Any] = {"epochs": 2, "freeze": ["body"] if frozen else []}
    if "keep best" in keys:
        stage |= {"keep": "best"}
    if "early stopping" in keys:
        stage |= {"epochs": 4, "early_stopping": {"monitor": "loss", "patience": 1, "min_delta": 9}}
    if "layer decay" in keys:
        stage |= {"layer_decay": 0.5}
    fit: dict[str, Any] = {
        "batch_size": 8,
        "precision": precision,
        "features": "cached" if "features" in keys else "off",
        "stages": [stage, {"epochs": 1, "size": [6, 6]}] if "sizes" in keys else [stage],
    }
    if "ema" in keys:
        fit["ema"] = 0.5
    if "callbacks" in keys:
        fit["callbacks"] = [PLATEAU]
    if "class weights" in keys:
        fit["class_weight"] = "balanced"
    body = {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3, "activation": "relu"}
    return tiny(model=[body, *tiny()["model"]], fit=fit)


def test_the_rows_hold_every_pair_of_settings() -> None:
    factors = {"precision": PRECISIONS, "frozen": (False, True), **dict.fromkeys(KEYS, (False, True))}
    rows = [{"precision": p, "frozen": f, **{key: key in keys for key in KEYS}} for p, f, keys in ROWS]
    for item, other in itertools.combinations(factors, 2):
        wanted = set(itertools.product(factors[item], factors[other]))
        if (item, other) == ("frozen", "features"):
            wanted.remove((False, True))  # only a frozen part has features
        assert wanted == {(row[item], row[other]) for row in rows}


@pytest.mark.parametrize(
    ("precision", "frozen", "keys"), ROWS, ids=[f"{p}-{f}-{','.join(sorted(k))}" for p, f, k in ROWS]
)
def test_train_a_trial_and_hyper_spec_give_the_same_curves(
    tiny: Any, curves: Any, precision: str, frozen: bool, keys: set[str]
) -> None:
    run, trial, hyper = curves(spec_of(tiny, precision, frozen, keys))
    assert run == trial
    assert run == hyper
    assert len(run["loss"]) == (2 if "sizes" not in keys else 3)


def faint(tiny: Any, features: str) -> dict[str, Any]:
    """A spec whose gradients underflow in float16 unless the loss is scaled."""
    model = [
        {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3, "trainable": False},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Rescaling", "scale": 1e-6},
        {"layer": "Dense", "name": "hidden", "units": 4},
        {"layer": "Rescaling", "scale": 1e2},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    fit = {"batch_size": 8, "precision": "mixed_float16", "features": features, "stages": [{"epochs": 3}]}
    return tiny(model=model, compile={"optimizer": {"type": "SGD", "learning_rate": 1.0}}, fit=fit)


@pytest.mark.parametrize("features", ["off", "cached"])
def test_the_loss_is_scaled_in_float16_in_every_training_of_a_model_with_a_frozen_part(
    tiny: Any, curves: Any, images: Any, monkeypatch: pytest.MonkeyPatch, features: str
) -> None:
    optimizers = []
    fit = keras.Model.fit

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        optimizers.append(type(self.optimizer).__name__)
        return fit(self, *arguments, **options)

    monkeypatch.setattr(keras.Model, "fit", noted)
    spec = faint(tiny, features)
    run, trial, hyper = curves(spec)
    assert run == trial == hyper
    find_learning_rate(spec, data=images, low=1e-3, high=10.0, steps=12)
    assert optimizers == ["LossScaleOptimizer"] * 4
