"""Several devices, which are processors here, do as one with the same batches. A process of its own makes them."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.catalog import load
from kerasimg.training import devices

SCRIPT = Path(__file__).with_name("on_devices.py")
CASES = ["plain", "normal", "cached", "fresh"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What on_devices.py finds under a backend."""
    known: dict[str, Any] = {}

    def on(backend: str) -> dict[str, Any]:
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in known:
            out = tmp_path_factory.mktemp(backend)
            done = subprocess.run([sys.executable, str(SCRIPT), backend, str(out)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            known[backend] = json.loads((out / "found.json").read_text())
        return known[backend]

    return on


@pytest.fixture(params=["tensorflow", "jax"])
def found(request: pytest.FixtureRequest, trained: Any) -> dict[str, Any]:
    found: dict[str, Any] = trained(request.param)
    return found


def weights(end: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.array(one) for one in end["weights"]])


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_one_device(found: dict[str, Any], case: str):
    if case not in found:
        pytest.skip("not tried under this backend")
    one, several = found[case]["off"], found[case]["auto"]
    # Numbers are added up in another order. What comes before BatchNormalization may be scaled without any effect, so
    # no gradient takes back what rounding does to that scale.
    np.testing.assert_allclose(weights(several), weights(one), rtol=0, atol=3e-4 if case == "normal" else 2e-6)
    assert several["n"] == one["n"] == 6
    assert several["accuracy"] == one["accuracy"]
    assert [len(stage["devices"]) for stage in several["stages"]] == [4] * len(several["stages"])


@pytest.mark.parametrize("case", CASES)
def test_each_image_is_judged_once_though_batches_are_filled_up(found: dict[str, Any], case: str):
    if case not in found:
        pytest.skip("not tried under this backend")
    one, several = found[case]["off"]["history"], found[case]["auto"]["history"]
    assert [row.keys() for row in one] == [row.keys() for row in several]
    for before, after in zip(one, several, strict=True):
        for name in ("accuracy", "f1", "val_accuracy", "val_f1", "learning_rate"):
            assert after[name] == pytest.approx(before[name], abs=1e-6), name
        assert after["val_loss"] == pytest.approx(before["val_loss"], rel=1e-3 if case == "normal" else 1e-5)
        # While it trains, Keras weighs the last batch's loss by its rows: 8, of which 7 are images.
        assert after["loss"] == pytest.approx(before["loss"], abs=0.02)


def test_a_run_on_several_devices_that_was_killed_ends_as_if_it_had_not_been(found: dict[str, Any]):
    assert weights(found["plain"]["resumed"]).tobytes() == weights(found["plain"]["auto"]).tobytes()
    assert found["plain"]["resumed"]["history"] == found["plain"]["auto"]["history"]


def test_as_many_devices_are_taken_as_divide_the_batch_and_the_user_is_told(trained: Any):
    found = trained("tensorflow")
    assert found["plain"]["auto"]["said"][1] == (
        "devices: 4 (CPU:0, CPU:1, CPU:2, CPU:3), with 2 of a batch's 8 images each"
    )
    assert found["said"] == {
        "odd": [
            "devices: 3 (CPU:0, CPU:1, CPU:2, 1 left idle, since 9 cannot be split evenly), "
            "with 3 of a batch's 9 images each"
        ],
        "prime": ["devices: one of 4; batches of 5 cannot be split evenly among more"],
        "taught": ["devices: one of 4, since Keras' Distiller ignores the weights of rows"],
    }


def test_one_device_is_taken_as_it_is(tiny: Any, listen: Any):
    said: list[str] = []
    listen(said.append)
    spec = load(tiny(fit={"distribute": "auto"}), num_classes=3)
    assert devices.devices_for(spec) is devices.ONE
    told = {
        "torch": "devices: one, since Keras trains on several under JAX and TensorFlow, not under PyTorch",
    }.get(keras.backend.backend(), "devices: one of 1; there is no other")
    assert said == [told]


def test_nothing_is_asked_for_and_nothing_is_said(tiny: Any, listen: Any):
    said: list[str] = []
    listen(said.append)
    assert devices.devices_for(load(tiny(), num_classes=3)) is devices.ONE
    assert said == []


def test_batches_are_filled_up_with_rows_that_weigh_nothing():
    import tensorflow as tf

    several = devices.Devices(("a", "b", "c", "d"), object())
    given = tf.data.Dataset.from_tensors((np.float32([[1], [2], [3], [4], [5]]), np.arange(5), np.full(5, 2.0, "f4")))
    x, y, weight = next(iter(several.even(given)))
    assert y.numpy().tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert x.numpy().ravel().tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert weight.numpy()[:, 1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    # The mean over 8 rows, of which 5 weigh 2 * 8 / 5, is the weighed mean over the 5 images.
    np.testing.assert_allclose(weight.numpy()[:, 0], [3.2] * 5 + [0] * 3)
    assert devices.ONE.even(given) is given
