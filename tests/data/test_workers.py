"""Two devices of tf.distribute and of keras.distribution see every image once. A process of its own makes them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.shuffling import Order

SCRIPT = Path(__file__).with_name("on_workers.py")


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_see_the_shares_of_two_workers(backend: str):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run([sys.executable, str(SCRIPT), backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    orders = [Order(22, 4, shuffle=True, seed=5, shard=(worker, 2)) for worker in range(2)]
    assert seen == [[order.batch(step)[1].tolist() for step in range(order.steps)] for order in orders]
    assert sorted(np.concatenate([step for device in seen for step in device]).tolist()) == list(range(22))
