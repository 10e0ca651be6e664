"""Compiled loops over data on the device give what single steps give. For the JAX environment, on a processor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.api import Run
from kerasimg.errors import Interrupted
from kerasimg.run_folder import RunFolder
from kerasimg.training import train as verbs
from kerasimg.training.checkpoint_callbacks import Watch
from kerasimg.training.device_steps import VARIABLE

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX runs such loops")

CONV = {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3, "activation": "relu"}
NORM = {"layer": "BatchNormalization"}
SPECS: dict[str, dict[str, Any]] = {
    # 27 training images: the last batch of an epoch is smaller.
    "images": {"augment": [{"layer": "RandomFlip"}, {"layer": "RandomRotation", "factor": 0.1}]},
    "blended, weighted": {
        "augment": [{"layer": "MixUp"}],
        "fit": {"class_weight": "balanced", "stages": [{"epochs": 2}, {"epochs": 1, "learning_rate": 0.001}]},
    },
    "features": {"fit": {"features": "cached", "stages": [{"epochs": 3, "freeze": ["body"], "keep": "best"}]}},
    "averaged": {"fit": {"ema": 0.9, "stages": [{"epochs": 3}]}},
}
STEADY = {"optimizer": {"type": "Adam", "learning_rate": 0.01, "epsilon": 0.001}}
"""The two sum in different orders. Adam with a small epsilon makes whole steps of gradients that are only rounding."""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Any:
    return images(tmp_path_factory.mktemp("data") / "colours", {"red": 14, "green": 12, "blue": 12})


@pytest.fixture
def trained(
    tiny: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: Any
) -> Callable[..., tuple[Run, list[str]]]:
    """trained(changes, loops) trains, and returns the run and its messages."""

    def run(changes: dict[str, Any], loops: bool, folder: str = "") -> tuple[Run, list[str]]:
        messages: list[str] = []
        listen(messages.append)
        monkeypatch.setenv(VARIABLE, "1" if loops else "0")
        fit = {"batch_size": 8, "stages": [{"epochs": 3}], **changes.get("fit", {})}
        spec = tiny(model=[CONV, NORM, *tiny()["model"]], **{"compile": STEADY, **changes, "fit": fit})
        out = tmp_path / (folder or ("loops" if loops else "steps"))
        return Run(verbs.train(spec, data=colours, out=out, verbose=0)), messages

    return run


def assert_same(run: Run, other: Run) -> None:
    for row, expected in zip(run.history, other.history, strict=True):
        assert row.keys() == expected.keys()
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key
    for array, expected_array in zip(run.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(array, expected_array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_a_loop_gives_what_single_steps_give(name: str, trained: Any):
    (loops, messages), (steps, _) = trained(SPECS[name], True), trained(SPECS[name], False)
    assert any("are on the device" in message for message in messages)
    assert_same(loops, steps)


def test_a_run_that_is_interrupted_in_an_epoch_resumes_to_the_same_result(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {"compile": {"optimizer": "Adam", "steps_per_execution": 1, "metrics": ["accuracy"]}}
    whole, _ = trained(changes, True)
    end_of_step, calls = Watch.on_train_batch_end, 0

    def interrupt(self: Watch, batch: int, logs: Any = None) -> None:
        nonlocal calls
        calls += 1
        self.interruption.asked = calls == 6
        end_of_step(self, batch, logs)

    monkeypatch.setattr(Watch, "on_train_batch_end", interrupt)
    with pytest.raises(Interrupted, match="saved up to step 2 of epoch 2"):
        trained(changes, True, "interrupted")
    (folder,) = (tmp_path / "interrupted").iterdir()
    resumed = Run(verbs.resume(RunFolder(folder).path, verbose=0))
    assert_same(resumed, whole)
    for array, expected in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, expected)
