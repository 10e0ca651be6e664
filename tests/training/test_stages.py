import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import SpecError
from kerasimg.models.build import Built, construct
from kerasimg.spec.document import EarlyStopping, Stage
from kerasimg.training import stages

GAP = {"layer": "GlobalAveragePooling2D"}
BODY = {
    "nodes": [
        {"layer": "Conv2D", "name": "one", "filters": 4, "kernel_size": 3},
        {"layer": "BatchNormalization", "name": "normal"},
        {"layer": "Conv2D", "name": "two", "filters": 4, "kernel_size": 3},
    ]
}


def bright(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    noise = np.random.default_rng(0).integers(0, 30, (count, 32, 32, 3))
    return (noise + 200 * labels[:, None, None, None]).astype("uint8"), labels


def built(*nodes: dict[str, Any], size: int = 8) -> Built:
    document = {"kerasimg": 1, "image": {"size": [size, size]}, "blocks": {"body": BODY}, "model": list(nodes)}
    return construct(kerasimg.load(document))


def trained(model: keras.Model) -> list[str]:
    """Returns the names of trained layers, with the layers of nested models in their place."""
    names = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            names += trained(layer)
        elif layer.trainable_variables:
            names.append(layer.name)
    return names


def test_freezing_a_node_freezes_all_its_layers():
    made = built({"block": "body", "name": "body"}, GAP, {"layer": "Dense", "name": "head", "units": 2})
    assert trained(made.model) == ["body_one", "body_normal", "body_two", "head"]
    stages.enter(Stage(freeze=["body"]), made)
    assert trained(made.model) == ["head"]


def test_unfreezing_a_node_does_not_unfreeze_its_batch_normalization():
    made = built({"block": "body", "name": "body"}, GAP, {"layer": "Dense", "name": "head", "units": 2})
    stages.enter(Stage(freeze=["body"]), made)
    stages.enter(Stage(unfreeze={"body": 0}), made)
    assert trained(made.model) == ["body_one", "body_two", "head"]


def test_unfreezing_counts_layers_from_the_end():
    made = built({"block": "body", "name": "body"}, GAP, {"layer": "Dense", "name": "head", "units": 2})
    stages.enter(Stage(freeze=["body"]), made)
    stages.enter(Stage(unfreeze={"body": 2}), made)
    assert trained(made.model) == ["body_two", "head"]
    assert stages.describe(made.model) == "158 of 286 parameters train, in 2 layers"


def test_unfreezing_includes_the_layers_of_a_backbone():
    backbone = {"backbone": "MobileNet", "name": "base", "alpha": 0.25, "trainable": False}
    made = built(backbone, GAP, {"layer": "Dense", "name": "head", "units": 2}, size=32)
    assert trained(made.model) == ["head"]
    stages.enter(Stage(unfreeze={"base": 6}), made)
    assert trained(made.model) == ["conv_dw_13", "conv_pw_13", "head"]
    stages.enter(Stage(freeze=["base"]), made)
    assert trained(made.model) == ["head"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"unfreeze": {"body": 4}}, "fit.stages[0].unfreeze.body: expected at most 3, the layers of 'body', got 4"),
        (
            {"early_stopping": {"monitor": "val_loss"}},
            "fit.stages[0].early_stopping: watches 'val_loss', and there is no validation part; "
            "set fit.validation_split above 0",
        ),
    ],
)
def test_a_stage_with_missing_layers_or_metrics_is_refused(stage: dict[str, Any], message: str):
    document = {
        "kerasimg": 1,
        "name": "tiny",
        "image": {"size": [8, 8]},
        "blocks": {"body": BODY},
        "model": [{"block": "body", "name": "body"}, GAP],
        "fit": {"stages": [stage]},
    }

    def check() -> None:
        spec = kerasimg.load(document)
        stages.check_stages(spec, construct(spec), validated=False)

    with pytest.raises(SpecError) as caught:
        check()
    assert message in str(caught.value)


def test_a_frozen_backbone_keeps_its_weights_and_batch_statistics_and_an_unfrozen_one_its_statistics(
    train: Callable[..., Run], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[list[str], dict[str, np.ndarray]]] = []
    enter = stages.enter

    def noted(stage: Stage, made: Built) -> None:
        enter(stage, made)
        base = made.model.get_layer("base")
        seen.append((trained(made.model), {weight.path: np.array(weight) for weight in base.weights}))

    monkeypatch.setattr(stages, "enter", noted)
    inner = {"kerasimg": 1, "blocks": {"body": BODY}, "model": [{"block": "body"}, GAP]}
    (tmp_path / "inner.json").write_text(json.dumps(inner))
    spec = tiny(
        model=[{"backbone": "inner.json", "name": "base", "trainable": False}, *tiny()["model"]],
        fit={
            "batch_size": 8,
            "stages": [{"epochs": 1}, {"epochs": 1, "unfreeze": {"base": 2}, "learning_rate": 0.01}],
        },
    )
    (tmp_path / "outer.json").write_text(json.dumps(spec))
    run = train(tmp_path / "outer.json", data=bright(), out=tmp_path / "runs")
    (first, before), *_, (second, between) = seen
    assert first == ["classes"]
    assert second == ["base_body_two", "classes"]
    after = {old: np.array(weight) for old, weight in zip(between, run.model.get_layer("base").weights, strict=True)}
    assert all((before[path] == between[path]).all() for path in before)
    changed = [path for path in between if (between[path] != after[path]).any()]
    assert changed == ["base_body_two/kernel", "base_body_two/bias"]
    assert [(row["stage"], row["epoch"]) for row in run.history] == [(1, 1), (2, 2)]
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.3, 0.01])
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        "stage-1.weights.h5",
        "stage-2.weights.h5",
    ]


def test_early_stopping_restores_the_best_epoch_and_the_next_stage_continues_the_count(
    train: Callable[..., Run], tiny: Any, tmp_path: Path
):
    stopping = {"monitor": "loss", "patience": 1, "min_delta": 0.0}
    worse = {"type": "PiecewiseConstantDecay", "boundaries": [4, 8], "values": [0.1, 0.1, 50.0]}
    spec = tiny(
        model=[GAP, {"layer": "Dense", "units": 2}],
        params={},
        compile={"optimizer": "SGD", "loss": "mean_squared_error"},
        fit={
            "batch_size": 8,
            "validation_split": 0,
            "stages": [
                {"epochs": 9, "learning_rate": worse, "early_stopping": stopping},
                {"epochs": 1, "learning_rate": 1e-9},
            ],
        },
    )
    rows = train(spec, data=bright(), out=tmp_path).history
    first = [row for row in rows if row["stage"] == 1]
    assert len(first) < 9
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert first[-1]["loss"] > 100 * first[0]["loss"]
    assert rows[-1]["loss"] < first[0]["loss"]


def test_the_mode_of_the_spec_is_used():
    assert stages.early_stopping(EarlyStopping(monitor="val_accuracy", mode="min")).mode == "min"
