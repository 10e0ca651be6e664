"""The epochs of a zoo recipe depend on the data, so that training on few images has enough steps."""

from typing import Any

import numpy as np
import pytest

from kerasimg.catalog import load
from kerasimg.data.sources import open_source
from kerasimg.training.prepare import check_model, load_for, make_models


def black(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of two classes."""
    return np.zeros((count, 4, 4, 3), np.uint8), np.arange(count) % 2


def epochs(ref: Any, count: int, **params: Any) -> list[int]:
    spec, _ = load_for(ref, black(count), None, params)
    return [stage.epochs for stage in spec.fit.stages]


@pytest.mark.parametrize(
    ("images", "expected"),
    # 156 images are 4 steps of 32; 20 epochs of 500 are 220 steps; 20 of 700 are 320, which is enough.
    [(156, 75), (500, 28), (700, 20), (10, 100)],
)
def test_a_recipe_trains_few_images_for_300_steps(listen: Any, images: int, expected: int):
    lines: list[str] = []
    listen(lines.append)
    assert epochs("transfer", images) == [expected]
    own = {"kerasimg": 1, "extends": "recipes/transfer", "params": {"size": 96}}
    assert epochs(own, images) == [expected]
    assert len(lines) == (0 if expected == 20 else 1)  # each fact is reported once


def test_the_log_names_the_epochs_and_the_way_to_choose(listen: Any):
    lines: list[str] = []
    listen(lines.append)
    epochs("transfer", 156)
    assert lines == [
        "epochs: 75 instead of the recipe's 20, since about 109 training images are only 4 steps per epoch; "
        "train and tune take another number: --set epochs=N (in Python epochs=N)"
    ]


def test_the_stages_of_a_recipe_are_extended_by_one_factor():
    assert epochs("finetune", 156) == [15, 60]  # 3 and 12, times 75 / 15
    assert epochs("imbalanced", 156) == [75]


@pytest.mark.parametrize("name", ["transfer", "multilabel", "from_scratch", "tiny_device", "imbalanced"])
def test_epochs_set_by_the_caller_are_not_changed(name: str):
    overrides = {"task": "multiclass"}
    spec, _ = load_for(load(f"recipes/{name}", overrides=overrides, partial=True, epochs=3), black(20), None, {})
    assert [stage.epochs for stage in spec.fit.stages] == [3]


def test_epochs_of_a_derived_spec_are_not_changed():
    assert epochs({"kerasimg": 1, "extends": "recipes/transfer", "params": {"epochs": 9}}, 20) == [9]
    assert epochs("finetune", 20, tuning_epochs=2) == [3, 2]
    spec, _ = load_for("transfer", black(20), {"fit.stages": [{"epochs": 2}]}, {})
    assert spec.fit.stages[0].epochs == 2
    assert epochs("small_resnet", 20) == [stage.epochs for stage in load("small_resnet").fit.stages]


def test_images_too_small_for_a_pretrained_backbone_are_reported(listen: Any):
    lines: list[str] = []
    listen(lines.append)
    for size in (16, 32):
        spec = load("recipes/transfer", num_classes=2, size=size)
        check_model(spec, open_source(black(4), "multiclass"), make_models(spec, weights=None))
    (line,) = lines
    assert "image.size: at 16 px the pretrained backbone sees next to nothing; set it to 32 or more" in line
