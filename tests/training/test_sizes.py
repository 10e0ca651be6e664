from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.training import train as verbs

Spec = Callable[..., dict[str, Any]]


def test_a_stage_trains_at_its_own_image_size_and_passes_on_its_weights(tmp_path: Path, images: Any, tiny: Spec):
    data = images(tmp_path / "data", {"red": 8, "blue": 8})
    stages = [{"epochs": 2, "size": [4, 4]}, {"epochs": 1}, {"epochs": 1, "size": [6, 4]}]
    run = kerasimg.Run(verbs.train(tiny(fit={"batch_size": 8, "stages": stages}), data=data, out=tmp_path, verbose=0))
    assert [row["stage"] for row in run.history] == [1, 1, 2, 3]
    assert run.model.input_shape == (None, 8, 8, 3)
    last = kerasimg.build(tiny(), num_classes=2)
    last.load_weights(run.folder / "checkpoints" / "stage-3.weights.h5")
    for result, expected in zip(run.model.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(result, expected)
    first = kerasimg.build(tiny(), num_classes=2)
    first.load_weights(run.folder / "checkpoints" / "stage-1.weights.h5")
    assert any((a != b).any() for a, b in zip(first.get_weights(), last.get_weights(), strict=True))


def test_layers_frozen_by_an_earlier_stage_stay_frozen_at_another_size(tmp_path: Path, images: Any, tiny: Spec):
    data = images(tmp_path / "data", {"red": 8, "blue": 8})
    stages = [{"epochs": 1, "freeze": ["body"]}, {"epochs": 1, "size": [4, 4]}]
    model = [
        {"layer": "Conv2D", "name": "body", "filters": 2, "kernel_size": 1},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ]
    run = kerasimg.Run(verbs.train(tiny(model=model, fit={"stages": stages}), data=data, out=tmp_path, verbose=0))
    fresh = [kerasimg.build(tiny(model=model), num_classes=2) for _ in range(2)]
    for built, stage in zip(fresh, (1, 2), strict=True):
        built.load_weights(run.folder / "checkpoints" / f"stage-{stage}.weights.h5")
    item, two = (built.get_layer("body").get_weights() for built in fresh)
    np.testing.assert_array_equal(item[0], two[0])


def test_a_model_whose_weights_depend_on_the_size_is_refused_before_the_first_epoch(
    tmp_path: Path, images: Any, tiny: Spec
):
    data = images(tmp_path / "data", {"red": 8, "blue": 8})
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": "=num_classes", "activation": "softmax"}]
    spec = tiny(model=model, fit={"stages": [{"epochs": 1}, {"size": [4, 4]}]})
    with pytest.raises(SpecError, match=r"fit\.stages\[1\]\.size: at 4x4 the weights of the model have other shapes"):
        verbs.train(spec, data=data, out=tmp_path / "runs", verbose=0)
    assert not (tmp_path / "runs").exists()
