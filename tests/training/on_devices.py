"""Trains the same specs on one device and on several, for test_devices.py, which runs this in a separate process.

python on_devices.py BACKEND OUT CASE...

With the variables KERAS_DISTRIBUTION_... of Keras it is one of several processes, which share the devices.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

BACKEND, OUT, ASKED = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
DEVICES = 4 if "plain" in ASKED else 2  # TensorFlow traces the step once for each device
DEVICES //= int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1))
os.environ |= {"KERAS_BACKEND": BACKEND, "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERASIMG_CACHE": str(OUT / "cache")}

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

if BACKEND == "tensorflow":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)

from kerasimg.backend import load_keras  # noqa: E402

if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
    import keras

    keras.distribution.initialize()
load_keras()

from kerasimg import log  # noqa: E402
from kerasimg.api import Run  # noqa: E402
from kerasimg.catalog import load  # noqa: E402
from kerasimg.errors import CallError  # noqa: E402
from kerasimg.evaluation import evaluate  # noqa: E402
from kerasimg.run_folder import RunFolder  # noqa: E402
from kerasimg.training import checkpoint, checkpoint_callbacks  # noqa: E402
from kerasimg.training import train as verbs  # noqa: E402
from kerasimg.training.devices import devices_for  # noqa: E402

CONVOLUTION = {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3, "activation": "relu"}
NORMAL = {"layer": "BatchNormalization", "name": "normal"}
HEAD = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": "=num_classes", "activation": "softmax"}]
SGD = {"type": "SGD", "learning_rate": 0.2, "momentum": 0.9}
FROZEN = {"epochs": 3, "freeze": ["body"], "warmup_epochs": 1}
LAST = {"epochs": 2, "decay": "cosine", "layer_decay": 0.7}
BALANCED = {"features": "off", "class_weight": "balanced"}
CASES: dict[str, dict[str, Any]] = {
    # 47 of 60 images are for training, in batches of 8, the last of 7; 7 are for validation.
    # One stage, since each is traced for each of the devices, and once more after the kill.
    "plain": {"model": [CONVOLUTION, *HEAD], "fit": {"ema": 0.8, "stages": [LAST], **BALANCED}},
    # 48 of 60 images: no batch is padded, which BatchNormalization would see.
    "normal": {
        "model": [CONVOLUTION, NORMAL, *HEAD],
        "fit": {"validation_split": 0.1, "stages": [{"epochs": 1}, LAST], **BALANCED},
    },
    "cached": {"model": [CONVOLUTION, *HEAD], "fit": {"features": "cached", "stages": [FROZEN]}},
    "fresh": {
        "augment": [{"layer": "RandomFlip"}],
        "model": [CONVOLUTION, *HEAD],
        "fit": {"features": "fresh", "stages": [FROZEN]},
    },
}
if BACKEND != "tensorflow":
    del CASES["fresh"], CASES["cached"]  # the one cannot be had there, the other is the same


for builder in ("confusion_figure", "reliability_figure", "curves_figure", "save_figure"):
    setattr(evaluate, builder, lambda *given, **options: None)  # as in conftest.py: they take longer than a training


class Killed(BaseException):
    """An exception that no code catches."""


def data() -> tuple[np.ndarray, np.ndarray]:
    """60 images of three classes, each a noisy shade of grey."""
    labels = np.arange(60) % 3
    noise = np.random.default_rng(0).integers(0, 60, (60, 8, 8, 3))
    return (noise + 70 * labels[:, None, None, None]).clip(0, 255).astype("uint8"), labels


def spec(case: str, distribute: str) -> dict[str, Any]:
    written = {"kerasimg": 1, "name": f"{case}-{distribute}", "params": {"num_classes": None}}
    compile = {"optimizer": SGD, "metrics": ["accuracy", "f1"]}
    if case in ("plain", "normal"):
        compile["steps_per_execution"] = 1  # a loop of steps is traced once for each device; "cached" has one
    written |= {"image": {"size": [8, 8]}, "compile": compile}
    fit = {"batch_size": 8, "validation_split": 0.11, "test_split": 0.1, "distribute": distribute}
    return {**written, **CASES[case], "fit": {**fit, **CASES[case]["fit"]}}


def end(run: Run) -> dict[str, Any]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]
    weights = [weight.ravel().tolist() for weight in run.model.get_weights()]
    return {"history": rows, "weights": weights, "accuracy": run.scores["accuracy"], "n": run.scores["n"]}


def killed_and_resumed(written: dict[str, Any], out: Path) -> Run:
    """A run that is interrupted after its third checkpoint, within an epoch, and resumed."""
    write, count = checkpoint.write, []
    checkpoint_callbacks.SHARE, checkpoint_callbacks.WITHIN_EPOCH_S = float("inf"), 0.0

    def counted(*arguments: Any) -> None:
        write(*arguments)
        count.append(1)
        if len(count) == 9:
            raise Killed

    checkpoint.write = counted
    try:
        verbs.train(written, data=data(), out=out, verbose=0)
    except Killed:
        pass
    finally:
        checkpoint.write = write
    return Run(verbs.resume(out / f"{written['name']}-1", data=data(), verbose=0))


def listening(messages: list[str]) -> Any:
    """While the block runs, messages are added to `said`."""
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    return log.attached(handler, logging.INFO)


found: dict[str, Any] = {}
for case in CASES.keys() & ASKED:
    for distribute in ("off", "auto"):
        said: list[str] = []
        with listening(said):
            run = Run(verbs.train(spec(case, distribute), data=data(), out=OUT, verbose=0))
        found.setdefault(case, {})[distribute] = end(run)
        found[case][distribute]["said"] = said
        found[case][distribute]["stages"] = RunFolder.of(run).required("training.json")["stages"]
if "plain" in ASKED:
    found["plain"]["resumed"] = end(killed_and_resumed(spec("plain", "auto"), OUT / "killed"))
    found["said"] = {}
    for name, changed in {
        "odd": {"batch_size": 9},
        "prime": {"batch_size": 5},
        "taught": {"teacher": {"run": "x"}},
    }.items():
        written = spec("plain", "auto")
        with listening(said := found["said"].setdefault(name, [])):
            try:
                devices_for(load(written | {"fit": written["fit"] | changed}, num_classes=3))
            except CallError as error:
                said.append(str(error))
(OUT / "found.json").write_text(json.dumps(found))
