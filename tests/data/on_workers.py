"""Which images two devices see in an epoch, for test_workers.py, which runs this in a process of its own.

python on_workers.py BACKEND: prints, for each device, the numbers of its images in each step, as JSON.
"""

import json
import os
import sys
from typing import Any

BACKEND, DEVICES = sys.argv[1], 2
os.environ |= {"KERAS_BACKEND": BACKEND, "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from kerasimg.data.pipeline import batches  # noqa: E402
from kerasimg.data.sources import open_source  # noqa: E402
from kerasimg.spec.document import Image  # noqa: E402

COUNT = 22
PIXELS = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 3), np.uint8)
SOURCE = open_source((PIXELS, np.arange(COUNT) % 2))
GIVEN: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 5}


def numbers(images: Any) -> list[int]:
    return [int(value) for value in np.asarray(images)[:, 0, 0, 0]]


def by_tensorflow() -> list[list[list[int]]]:
    """One pipeline for each device of a MirroredStrategy."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(DEVICES)])

    def dataset(context: tf.distribute.InputContext) -> Any:
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        return batches(SOURCE, np.arange(COUNT), Image(size=[4, 4]), shard=shard, **GIVEN)

    options = tf.distribute.InputOptions(
        experimental_fetch_to_device=False,
        experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA,
    )
    steps = strategy.distribute_datasets_from_function(dataset, options)
    seen: list[list[list[int]]] = [[] for _ in range(DEVICES)]
    for images, _ in steps:
        for device, part in enumerate(strategy.experimental_local_results(images)):
            seen[device].append(numbers(part))
    return seen


def by_keras() -> list[list[list[int]]]:
    """keras.distribution parts each whole batch among the devices."""
    from keras.src.backend import distribution_lib

    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    seen: list[list[list[int]]] = [[] for _ in range(DEVICES)]
    for images, _ in batches(SOURCE, np.arange(COUNT), Image(size=[4, 4]), **GIVEN):
        layout = distribution.get_data_layout(images.shape)
        spread = distribution_lib.distribute_data_input(np.asarray(images), layout, distribution.batch_dim_name)
        for device, part in enumerate(spread.addressable_shards):
            seen[device].append(numbers(part.data))
    return seen


if __name__ == "__main__":
    print(json.dumps({"tensorflow": by_tensorflow, "jax": by_keras}[BACKEND]()))
