"""Training on several devices, CPUs in a separate process, equals training on one with the same batches."""

import importlib.util
import json
import os
import socket
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
            # Two processes at once: with several devices in one, most of the time is waiting.
            running = []
            for cases in (CASES[:1], CASES[1:]):
                out = tmp_path_factory.mktemp(backend)
                command = [sys.executable, str(SCRIPT), backend, str(out), *cases]
                with (out / "errors").open("w") as errors:
                    running.append((out, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)))
            for out, process in running:
                assert process.wait() == 0, (out / "errors").read_text()[-3000:]
            known[backend] = {
                k: v for out, _ in running for k, v in json.loads((out / "found.json").read_text()).items()
            }
        return known[backend]

    return on


@pytest.fixture(params=["tensorflow", "jax"])
def results(request: pytest.FixtureRequest, trained: Any) -> dict[str, Any]:
    result: dict[str, Any] = trained(request.param)
    return result


def weights(end: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.array(single) for single in end["weights"]])


@pytest.mark.parametrize("case", CASES)
def test_the_weights_equal_those_of_one_device(results: dict[str, Any], case: str):
    if case not in results:
        pytest.skip("not tried under this backend")
    single, several = results[case]["off"], results[case]["auto"]
    # Sums have another order. The scale of weights before BatchNormalization has no effect on the output, so
    # no gradient corrects its rounding errors.
    np.testing.assert_allclose(weights(several), weights(single), rtol=0, atol=3e-4 if case == "normal" else 2e-6)
    assert several["n"] == single["n"] == 6
    assert several["accuracy"] == single["accuracy"]
    assert {len(stage["devices"]) for stage in several["stages"]} == {4 if case == "plain" else 2}


@pytest.mark.parametrize("case", CASES)
def test_each_image_counts_once_in_padded_batches(results: dict[str, Any], case: str):
    if case not in results:
        pytest.skip("not tried under this backend")
    single, several = results[case]["off"]["history"], results[case]["auto"]["history"]
    assert [row.keys() for row in single] == [row.keys() for row in several]
    for before, after in zip(single, several, strict=True):
        for name in ("accuracy", "f1", "val_accuracy", "val_f1", "learning_rate"):
            assert after[name] == pytest.approx(before[name], abs=1e-6), name
        assert after["val_loss"] == pytest.approx(before["val_loss"], rel=1e-3 if case == "normal" else 1e-5)
        # During training, Keras weights the last batch's loss by its rows: 8, of which 7 are images.
        assert after["loss"] == pytest.approx(before["loss"], abs=0.02)


def test_a_killed_run_on_several_devices_is_resumed_to_the_same_result(results: dict[str, Any]):
    assert weights(results["plain"]["resumed"]).tobytes() == weights(results["plain"]["auto"]).tobytes()
    assert results["plain"]["resumed"]["history"] == results["plain"]["auto"]["history"]


def test_two_processes_train_as_one(trained: Any, tmp_path: Path):
    """As on two machines, each with two of the four devices."""
    single = trained("jax")["plain"]["auto"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for number in range(2):
        out = tmp_path / str(number)
        out.mkdir()
        named = {"JOB_ADDRESSES": f"127.0.0.1:{port},127.0.0.1", "NUM_PROCESSES": "2", "PROCESS_ID": str(number)}
        environment = os.environ | {f"KERAS_DISTRIBUTION_{name}": value for name, value in named.items()}
        command = [sys.executable, str(SCRIPT), "jax", str(out), "plain"]
        with (out / "errors").open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        running.append((out, process))
    for out, process in running:
        assert process.wait() == 0, (out / "errors").read_text()[-3000:]
    for out, _ in running:
        found = json.loads((out / "found.json").read_text())
        several = found["plain"]["auto"]
        assert [len(stage["devices"]) for stage in several["stages"]] == [4]
        np.testing.assert_allclose(weights(several), weights(single), rtol=0, atol=2e-6)
        assert [row["val_accuracy"] for row in several["history"]] == [row["val_accuracy"] for row in single["history"]]
        assert several["accuracy"] == single["accuracy"]
        assert weights(found["plain"]["resumed"]).tobytes() == weights(several).tobytes()
        uneven = "batches of 9 cannot be split evenly among the 4 devices of 2 processes; choose another fit.batch_size"
        assert found["said"]["odd"] == [f"fit.distribute: {uneven}"]


def test_as_many_devices_as_divide_the_batch_are_used_and_logged(trained: Any):
    result = trained("tensorflow")
    assert result["plain"]["auto"]["said"][1] == (
        "devices: 4 (CPU:0, CPU:1, CPU:2, CPU:3), with 2 of a batch's 8 images each"
    )
    assert result["said"] == {
        "odd": [
            "devices: 3 (CPU:0, CPU:1, CPU:2, 1 left idle, since 9 cannot be split evenly), "
            "with 3 of a batch's 9 images each"
        ],
        "prime": ["devices: one of 4; batches of 5 cannot be split evenly among more"],
        "taught": ["devices: one of 4, since Keras' Distiller ignores the weights of rows"],
    }


def test_one_device_needs_no_strategy(tiny: Any, listen: Any):
    messages: list[str] = []
    listen(messages.append)
    spec = load(tiny(fit={"distribute": "auto"}), num_classes=3)
    assert devices.devices_for(spec) is devices.ONE
    expected = {
        "torch": "devices: one, since Keras trains on several under JAX and TensorFlow, not under PyTorch",
    }.get(keras.backend.backend(), "devices: one of 1; there is no other")
    assert messages == [expected]


def test_without_distribute_nothing_is_logged(tiny: Any, listen: Any):
    messages: list[str] = []
    listen(messages.append)
    assert devices.devices_for(load(tiny(), num_classes=3)) is devices.ONE
    assert messages == []


def test_batches_are_padded_with_rows_without_weight():
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
