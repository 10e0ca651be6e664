from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import SpecError
from kerasimg.run_folder import RunFolder
from kerasimg.training import engine
from kerasimg.training import train as verbs

Train = Callable[..., Run]
BODY = {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3, "activation": "relu"}


@pytest.fixture
def spec(tiny: Any) -> Callable[..., dict[str, Any]]:
    def make(*stages: dict[str, Any], **fit: Any) -> dict[str, Any]:
        return tiny(model=[BODY, *tiny()["model"]], fit={"batch_size": 8, "stages": list(stages), **fit})

    return make


def stage_weights(run: Run, number: int) -> list[np.ndarray]:
    model = kerasimg.build(run.folder / "spec.json")
    model.load_weights(run.folder / "checkpoints" / f"stage-{number}.weights.h5")
    weights: list[np.ndarray] = model.get_weights()
    return weights


def test_features_are_cached_in_stages_with_a_frozen_part(train: Train, spec: Any, colours: Path, tmp_path: Path):
    stages = [{"epochs": 2, "freeze": ["body"]}, {"epochs": 1, "unfreeze": {"body": 0}}]
    run = train(spec(*stages, features="cached"), data=colours, out=tmp_path)
    notes = RunFolder.of(run).required("training.json")["stages"]
    assert [note["features"] for note in notes] == ["cached", "off"]
    frozen, trained = stage_weights(run, 1), stage_weights(run, 2)
    assert (frozen[0] != trained[0]).any()
    np.testing.assert_array_equal(trained[0], run.model.get_weights()[0])


@pytest.mark.parametrize("features", ["cached", "fresh"])
def test_the_rest_of_a_split_model_trains_in_the_precision_of_the_whole(
    train: Train, spec: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str
):
    optimizers = []

    def run(self: Any, experiment: Any, plan: Any, *others: Any) -> None:
        optimizers.append(type(plan.model.optimizer).__name__)
        original(self, experiment, plan, *others)

    original = engine.KerasFit.run
    monkeypatch.setattr(engine.KerasFit, "run", run)
    frozen = {"epochs": 2, "freeze": ["body"]}
    trained = train(spec(frozen, features=features, precision="mixed_float16"), data=colours, out=tmp_path)
    assert RunFolder.of(trained).required("training.json")["stages"][0]["features"] == features
    assert optimizers == ["LossScaleOptimizer"]
    first, last = trained.history[0], trained.history[-1]
    assert last["loss"] < first["loss"]


def test_sample_weights_apply_to_cached_features_as_to_images(train: Train, spec: Any, colours: Path, tmp_path: Path):
    files = sorted(colours.rglob("*.png"))
    rows = [f"{file},{file.parent.name},{place % 3}" for place, file in enumerate(files[:-6])]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,care", *rows]) + "\n")
    weighed = {"class_weight": "balanced", "sample_weight": "care"}
    heads = {}
    for name, fit in {
        "whole": {"features": "off", **weighed},
        "cached": {"features": "cached", **weighed},
        "alike": {"features": "cached"},
    }.items():
        document = spec({"epochs": 4, "freeze": ["body"]}, **fit)
        document["compile"] = {"optimizer": {"type": "SGD", "learning_rate": 0.05}}
        heads[name] = train(document, data=tmp_path / "all.csv", out=tmp_path / name).model.get_weights()[-2]
    far = np.abs(heads["alike"] - heads["whole"]).max()
    # The engine may compute in bfloat16.
    assert np.abs(heads["cached"] - heads["whole"]).max() < 0.05 * far


def test_features_that_no_stage_can_have_are_refused_before_the_first_epoch(
    train: Train, spec: Any, colours: Path, tmp_path: Path
):
    with pytest.raises(SpecError, match=r'fit\.features: "cached" cannot be had: in no stage is a part frozen'):
        train(spec({"epochs": 1}, features="cached"), data=colours, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_best_weights_are_passed_on_to_the_next_stage(
    listen: Any, train: Train, spec: Any, colours: Path, tmp_path: Path
):
    rising = {"type": "PiecewiseConstantDecay", "boundaries": [8], "values": [0.1, 20.0]}
    stages = [{"epochs": 4, "learning_rate": rising, "keep": "best"}, {"epochs": 1, "learning_rate": 1e-9}]
    written = spec(*stages) | {"compile": {"optimizer": "SGD", "loss": "mean_squared_error"}}
    written["model"] = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": "=num_classes"}]
    messages: list[str] = []
    listen(messages.append)
    run = Run(verbs.train(written, data=colours, out=tmp_path, verbose=0))
    losses = [row["val_loss"] for row in run.history]
    best = int(np.argmin(losses[:4]))
    assert f"using the weights of epoch {best + 1} (val_loss {losses[best]:.4g})" in messages
    assert losses[best] < losses[3] / 10
    assert losses[4] == pytest.approx(losses[best], rel=1e-3)


def test_the_average_of_the_weights_is_validated_and_passed_on(train: Train, spec: Any, colours: Path, tmp_path: Path):
    plain = train(spec({"epochs": 2}), data=colours, out=tmp_path)
    averaged = train(spec({"epochs": 2}, ema=0.9), data=colours, out=tmp_path)
    assert [row["loss"] for row in plain.history] == [row["loss"] for row in averaged.history]
    assert plain.history[-1]["val_loss"] != averaged.history[-1]["val_loss"]
    # An average with momentum 0.9 over eight steps has more than a third of its initial value.
    initial = kerasimg.build(spec({"epochs": 1}), num_classes=3)
    assert initial.count_params() == averaged.model.count_params()
    assert any((a != b).any() for a, b in zip(plain.model.get_weights(), averaged.model.get_weights(), strict=True))


@pytest.mark.usefixtures("chosen_steps")
def test_the_result_does_not_depend_on_steps_per_execution(train: Train, spec: Any, colours: Path, tmp_path: Path):
    result = []
    for wanted in (1, 2, 3, "auto"):
        document = spec({"epochs": 2, "warmup_epochs": 1, "decay": "cosine"})
        document["compile"] = {"optimizer": "Adam", "steps_per_execution": wanted}
        run = train(document, data=colours, out=tmp_path)
        result.append([weight.tobytes() for weight in run.model.get_weights()])
        taken = RunFolder.of(run).required("training.json")["stages"][0]["steps_per_execution"]
        assert 4 % taken == 0  # 26 images in batches of 8
        assert taken > 1 or wanted == 1
    assert all(item == result[0] for item in result)


def test_a_validation_is_not_counted_with_the_first_epoch_of_the_next_stage(
    train: Train, spec: Any, colours: Path, tmp_path: Path
):
    small = {"epochs": 1, "size": [6, 6], "learning_rate": 1e-9}
    written = spec({"epochs": 1, "learning_rate": 1e-9}, small)
    rows = train(written, data=colours, out=tmp_path).history
    # 26 images: had the 5 of the validation been counted too, the accuracy would be in parts of 31.
    assert all((row["accuracy"] * 26) == pytest.approx(round(row["accuracy"] * 26), abs=1e-4) for row in rows)
