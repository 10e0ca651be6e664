"""`epochs`, `size`, `batch_size`, `lr`, `task` mean the same for every spec; an unknown name suggests the one meant."""

import json
from pathlib import Path
from typing import Any

import pytest

from kerasimg import catalog
from kerasimg.errors import SpecError

MODEL = [{"layer": "Flatten"}, {"layer": "Dense", "name": "head", "units": 2}]


def spec(**sections: Any) -> dict[str, Any]:
    return {"kerasimg": 1, "name": "mine", "model": MODEL, **sections}


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_every_zoo_spec_and_recipe_takes_the_settings_with_one_meaning(name: str):
    loaded = catalog.load(name, partial=True, epochs=5, size=64, batch_size=8, lr=0.005)
    assert sum(stage.epochs for stage in loaded.fit.stages) == 5
    assert (loaded.image.size, loaded.fit.batch_size) == ([64, 64], 8)
    first = loaded.fit.stages[0].learning_rate
    rate = first["initial_learning_rate"] if first else loaded.compile.optimizer["learning_rate"]
    assert rate == 0.005


@pytest.mark.parametrize(
    ("written", "total", "each"),
    [
        ([3, 12], 5, [1, 4]),
        ([3, 12], 15, [3, 12]),
        ([30, 30, 30], 100, [34, 33, 33]),
        ([60, 60, 40, 40], 4, [1, 1, 1, 1]),
        ([1, 99], 1, [1, 1]),
        (["=count", {"$choice": [2, 6], "default": 6}], 8, [2, 6]),
    ],
)
def test_stages_share_the_epochs_in_the_proportion_of_the_spec(written: list[Any], total: int, each: list[int]):
    document = spec(params={"count": 2}, fit={"stages": [{"epochs": epochs} for epochs in written]})
    assert [stage.epochs for stage in catalog.load(document, epochs=total).fit.stages] == each


def test_a_param_of_that_name_goes_before_the_place():
    document = spec(params={"epochs": 3}, fit={"stages": [{"epochs": "=epochs"}, {"epochs": "=2 * epochs"}]})
    assert [stage.epochs for stage in catalog.load(document, epochs=4).fit.stages] == [4, 8]


def test_a_spec_without_the_sections_takes_them_too():
    loaded = catalog.load(spec(), epochs=2, lr=0.5, size=16, batch_size="auto", task="multilabel")
    assert (loaded.fit.stages[0].epochs, loaded.image.size, loaded.fit.batch_size) == (2, [16, 16], "auto")
    assert (loaded.compile.optimizer, loaded.task) == ({"type": "Adam", "learning_rate": 0.5}, "multilabel")


def test_the_rate_is_that_of_the_first_stage():
    stages = [{"learning_rate": 0.1}, {"learning_rate": 0.01}]
    loaded = catalog.load(spec(fit={"stages": stages}), lr=0.2)
    assert [stage.learning_rate for stage in loaded.fit.stages] == [0.2, 0.01]
    schedule = {"type": "ExponentialDecay", "initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.5}
    loaded = catalog.load(spec(compile={"optimizer": {"type": "SGD", "learning_rate": schedule}}), lr=0.2)
    assert loaded.compile.optimizer["learning_rate"]["initial_learning_rate"] == 0.2
    with pytest.raises(SpecError, match=r"lr: .* is a schedule without initial_learning_rate"):
        catalog.load(spec(compile={"optimizer": {"type": "SGD", "learning_rate": {"type": "Mine"}}}), lr=0.2)


def test_a_spec_that_is_loaded_again_keeps_settings_and_takes_others():
    once = catalog.load("finetune", num_classes=2, epochs=5)
    assert [stage.epochs for stage in catalog.load(once, lr=0.1).fit.stages] == [1, 4]
    assert [stage.epochs for stage in catalog.load(once, epochs=10).fit.stages] == [2, 8]


def test_an_edit_by_path_goes_before_a_setting():
    loaded = catalog.load("mobilenet", num_classes=2, epochs=6, overrides={"fit.stages.1.epochs": 9})
    assert [stage.epochs for stage in loaded.fit.stages] == [2, 9]


def test_an_unknown_param_is_a_fault_of_the_spec_that_was_named_and_not_of_its_parent(tmp_path: Path):
    child = tmp_path / "mine.json"
    child.write_text(json.dumps({"kerasimg": 1, "extends": "recipes/transfer"}))
    with pytest.raises(SpecError, match=r"mine\.json: no param 'epoch'; did you mean 'epochs'"):
        catalog.load(child, epoch=3)


def test_a_backbone_takes_its_own_params_alone():
    with pytest.raises(SpecError, match="no param 'epochs'"):
        catalog.load(spec(model=[{"backbone": "simple_cnn.json", "epochs": 3}]))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epoch", "epochs"),
        ("num_epochs", "epochs"),
        ("image_size", "size"),
        ("batch", "batch_size"),
        ("batchsize", "batch_size"),
        ("learning_rate", "lr"),
        ("seed", "fit.seed"),
        ("patience", "fit.stages.0.early_stopping.patience"),
        ("validation_splt", "fit.validation_split"),
        ("unit", "units"),
    ],
)
def test_an_unknown_name_suggests_what_was_meant(name: str, meant: str):
    with pytest.raises(SpecError, match=f"no param '{name}'; did you mean '{meant}'"):
        catalog.load("simple_cnn", num_classes=2, **{name: 3})


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("fit.epochs", "epochs"),
        ("optimizer.learning_rate", "compile.optimizer.learning_rate"),
        ("fit.learning_rate", "fit.stages.0.learning_rate"),
        ("fit.stages.0.early_stoping.patience", "fit.stages.0.early_stopping.patience"),
        ("fit.stage.0.epochs", "stages"),
    ],
)
def test_an_unknown_path_suggests_the_path_that_was_meant(path: str, meant: str):
    with pytest.raises(SpecError, match=f"did you mean '{meant}'"):
        catalog.load("simple_cnn", num_classes=2, overrides={path: 3})


def test_no_recipe_has_the_name_of_a_zoo_spec():
    names = [name.rpartition("/")[2] for name in catalog.zoo_names()]
    assert len(names) == len(set(names))
    assert catalog.load("finetune", partial=True).file == "zoo/recipes/finetune.json"
