"""`tune.limits`: file size and latency of a trial's model, measured with LiteRT."""

import json
import math

import keras
import pytest

from kerasimg.deploy.measure import latency_ms

HEAD = {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"}
WIDE = {"layer": "Dense", "name": "wide", "units": {"$choice": [4, 20000], "default": 4}}
RATE = {"$choice": [0.01, 0.02], "default": 0.01}


@pytest.fixture
def limited(search, searched):
    """limited(limits) searches a narrow and a wide model with two rates each; the rows of its trials by values."""

    def run(limits):
        spec = searched({"tuner": "grid", "max_trials": 4, "limits": limits}, model=[{"layer": "Flatten"}, WIDE, HEAD])
        spec["compile"] = {"optimizer": {"type": "Adam", "learning_rate": RATE}}
        result = search(spec)
        rows = {
            (row["model.wide.units"], row["compile.optimizer.learning_rate"]): row
            for row in (trial.row for trial in result.trials)
        }
        assert {rate for _, rate in rows} == {0.01, 0.02}
        return result, rows

    return run


def status(rows, units):
    return [rows[units, rate]["status"] for rate in (0.01, 0.02)]


def test_a_model_whose_file_is_too_large_is_not_trained(limited):
    result, rows = limited({"litert_bytes": 50_000})
    assert status(rows, 4) == ["completed"] * 2
    assert status(rows, 20000) == ["infeasible"] * 2
    reason = rows[20000, 0.01]["reason"]
    assert reason.endswith(" bytes as a LiteRT file, and the limit is 50,000 (tune.limits)")
    weights = 4 * 20000 * (8 * 8 * 3 + 3)  # the file does not store biases that are 0
    assert weights < int(reason.split()[0].replace(",", "")) < 1.01 * weights
    trial = rows[20000, 0.01]["trial"]
    assert not (result.folder / "trials" / trial / "history.csv").exists()
    assert json.loads((result.folder / "winner.json").read_text())["values"]["model.wide.units"] == 4


def milliseconds(units):
    """Returns the latency of a model of this width on this machine."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(units), keras.layers.Dense(2, activation="softmax")]
    return latency_ms(keras.Sequential([keras.Input((8, 8, 3)), *layers]))


def test_a_model_that_is_too_slow_is_measured_once_and_not_trained(limited):
    between = math.sqrt(milliseconds(4) * milliseconds(20000))
    _, rows = limited({"latency_ms": between})
    assert status(rows, 4) == ["completed"] * 2
    assert status(rows, 20000) == ["infeasible"] * 2
    first, second = (rows[20000, rate]["reason"] for rate in (0.01, 0.02))
    assert f"ms for an image, and the limit is {between:,} (tune.limits)" in first
    assert first == second
