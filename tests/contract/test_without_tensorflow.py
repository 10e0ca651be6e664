"""Every command works on JAX and PyTorch without importing TensorFlow, whether it is installed or not.

KERAS_BACKEND=jax python -m pytest tests/contract/test_without_tensorflow.py
With PYTHONPATH=tests/without_tensorflow it is not installed.
"""

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg.layers  # noqa: F401  (so that Keras spares TensorFlow from the first test on)
from kerasimg import cli
from kerasimg.api import Run
from kerasimg.errors import CallError, DataError
from kerasimg.training import checkpoint, checkpoint_callbacks

pytestmark = pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="for the other backends")
INSTALLED = importlib.util.find_spec("tensorflow") is not None

Command = Callable[..., None]


@pytest.fixture(autouse=True)
def without_tensorflow() -> Any:
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Any, tiny: Any) -> Path:
    """A folder with data, a spec, and a run of it."""
    folder = tmp_path_factory.mktemp("without")
    images(folder / "data", {"red": 20, "grey": 20})
    images(folder / "new", {"red": 2})
    for number in range(3):  # wrong labels, so that no classifier is always right
        shutil.copy(folder / "data" / "grey" / f"0{number}.png", folder / "data" / "red" / f"wrong-{number}.png")
    write_specs(folder, tiny)
    command("train", folder / "tiny.json", "--data", folder / "data", "--out", folder / "runs")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return folder / "runs" / "tiny-1"


def command(*words: Any) -> None:
    """Runs a command of kerasimg in this process."""
    try:
        cli.app([str(word) for word in words], standalone_mode=False)
    finally:
        assert "tensorflow" not in sys.modules, words[0]


def write_specs(folder: Path, tiny: Any) -> None:
    model = [
        {"layer": "Conv2D", "name": "conv", "filters": 4, "kernel_size": 3},
        {"layer": "BatchNormalization"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dropout", "rate": 0.2},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    augment = [{"layer": "RandomFlip"}, {"layer": "RandomRotation", "factor": 0.1}]
    stages = [{"epochs": 1}, {"epochs": 1, "freeze": ["conv"], "learning_rate": 0.01}]
    fit = {"batch_size": 8, "stages": stages, "class_weight": "balanced"}
    spec = tiny(model=model, fit=fit, augment=augment)
    (folder / "tiny.json").write_text(json.dumps(spec))
    rate = {"type": "Adam", "learning_rate": {"$float": [0.01, 0.1], "default": 0.05}}
    search = tiny(
        name="search",
        tune={"tuner": "random", "max_trials": 2},
        compile={"optimizer": rate},
        fit={"batch_size": 8, "stages": [{"epochs": 1}]},
    )
    (folder / "search.json").write_text(json.dumps(search))


def test_a_run_is_trained_and_evaluated(run: Path):
    assert Run(run).finished
    assert Run(run).scores["n"] > 0
    assert ("tensorflow" in json.loads((run / "environment.json").read_text())["packages"]) == INSTALLED


def test_it_is_evaluated_calibrated_and_reported(run: Path, folder: Path):
    command("evaluate", run, "--data", folder / "data", "--part", "all")
    command("run", "calibrate", run, "--data", folder / "data", "--part", "all")
    command("run", "report", run)
    assert (run / "report.html").exists()


def test_it_classifies_images_and_explains_them(run: Path, folder: Path):
    command("predict", run, folder / "new")
    command("explain", run, folder / "new" / "red" / "00.png", "--out", folder / "explained")
    assert list((folder / "explained").iterdir())


def test_it_is_packed_and_unpacked(run: Path, folder: Path):
    command("run", "pack", run, "--out", folder / "tiny.kerasimg")
    command("run", "unpack", folder / "tiny.kerasimg", "--out", folder / "unpacked")
    command("predict", folder / "unpacked", folder / "new")


def test_data_is_checked_drawn_and_measured(folder: Path):
    command("data", "check", folder / "data")
    command("data", "preview", folder / "tiny.json", "--data", folder / "data", "--out", folder / "preview.png")
    command("data", "bench", folder / "tiny.json", "--data", folder / "data")
    assert (folder / "preview.png").exists()


def test_a_learning_rate_is_suggested(folder: Path):
    command("spec", "lr-find", folder / "tiny.json", "--data", folder / "data", "--steps", 12)


def test_label_errors_are_listed(folder: Path):
    spec = folder / "search.json"
    command("data", "label-errors", spec, "--data", folder / "data", "--folds", 2, "--out", folder / "errors")


def test_hyperparameters_are_searched(folder: Path):
    command("tune", folder / "search.json", "--data", folder / "data", "--out", folder / "searches")


def test_a_killed_run_is_resumed_to_the_same_result(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        """An exception that no code catches."""

    write, written = checkpoint.write, []

    def counted(*arguments: Any) -> None:
        write(*arguments)
        written.append(1)
        if len(written) == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_callbacks, "SHARE", float("inf"))
        patched.setattr(checkpoint_callbacks, "WITHIN_EPOCH_S", 0.0)
        patched.setattr(checkpoint, "write", counted)
        with pytest.raises(Killed):
            command("train", folder / "tiny.json", "--data", folder / "data", "--out", tmp_path)
    command("train", "--resume", tmp_path / "tiny-1")
    whole, resumed = Run(folder / "runs" / "tiny-1"), Run(tmp_path / "tiny-1")
    rows = [[{**row, "seconds": 0} for row in each.history] for each in (whole, resumed)]
    assert rows[0] == rows[1]
    for weight, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_the_model_is_exported_as_keras_file(run: Path, folder: Path):
    command("export", run, "--to", "keras", "--data", folder / "data", "--out", folder / "exports")
    assert (folder / "exports" / "keras" / "model.keras").exists()


@pytest.mark.skipif(INSTALLED, reason="TensorFlow is installed")
def test_other_exports_say_what_to_install(run: Path, folder: Path):
    with pytest.raises(CallError, match=r"TensorFlow converts the model.* pip install tensorflow"):
        command("export", run, "--to", "litert", "--data", folder / "data", "--out", folder / "exports")
    with pytest.raises(CallError, match="pip install tensorflow"):
        command("run", "measure", run, "--data", folder / "data")


@pytest.mark.skipif(not INSTALLED, reason="TensorFlow is not installed")
def test_a_process_with_tensorflow_writes_other_exports_and_they_are_verified_without(run: Path, folder: Path):
    command("export", run, "--to", "litert", "--data", folder / "data", "--out", folder / "exports")
    command("run", "verify", folder / "exports" / "litert")


FIRST_BATCHES = """
import sys
import keras
import numpy as np
from kerasimg.data.augment import compile_augment
from kerasimg.data.pipeline import batches
from kerasimg.data.sources import open_source
from kerasimg.spec.document import Image

layers = [("RandomFlip", {}), ("RandomRotation", {"factor": 0.2}), ("TrivialAugment", {}), ("MixUp", {})]
image = Image(size=[8, 8])
source = open_source(sys.argv[1])
options = {"batch_size": 9, "shuffle": True, "seed": 3, "targets": "one_hot", "epochs": 4, "exact": False}
weights = np.linspace(0.5, 2, len(source))
augment = compile_augment(layers, image, 3)
dataset = batches(source, range(len(source)), image, augment=augment, sample_weight=weights, **options)
columns = zip(*([keras.ops.convert_to_numpy(array) for array in batch] for batch in dataset))
np.savez(sys.argv[2], *map(np.concatenate, columns))
"""


@pytest.mark.skipif(not INSTALLED, reason="TensorFlow is not installed")
def test_the_first_20_batches_are_those_of_tensorflow(folder: Path, tmp_path: Path):
    made = {}
    for backend in (keras.backend.backend(), "tensorflow"):
        file = tmp_path / f"{backend}.npz"
        call = [sys.executable, "-c", FIRST_BATCHES, str(folder / "data"), str(file)]
        subprocess.run(call, env={**os.environ, "KERAS_BACKEND": backend}, check=True)
        with np.load(file) as arrays:
            made[backend] = [arrays[name] for name in arrays.files]
    (pixels, labels, weights), (pixels_of_tensorflow, *others) = made.values()
    assert len(pixels) == 4 * 43  # 4 epochs of 5 batches
    np.testing.assert_allclose(pixels, pixels_of_tensorflow, rtol=0, atol=1)
    np.testing.assert_allclose(labels, others[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights, others[1], rtol=0, atol=1e-6)


def test_an_image_that_breaks_while_a_model_trains_is_named(folder: Path, tmp_path: Path, images: Any):
    from kerasimg.data.pipeline import batches
    from kerasimg.data.sources import open_source
    from kerasimg.spec.document import Image

    root = images(tmp_path / "data", {"red": 4, "grey": 4})
    feed = batches(open_source(root), range(8), Image(size=[8, 8]), batch_size=2)
    (root / "red" / "01.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"red/01\.png: is empty"):
        list(feed)


def test_threads_end_with_the_batches(folder: Path):
    from kerasimg.data.pipeline import batches
    from kerasimg.data.sources import open_source
    from kerasimg.spec.document import Image

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("kerasimg")]

    whole = batches(open_source(folder / "data"), range(8), Image(size=[8, 8]), batch_size=2)
    endless = batches(open_source(folder / "data"), range(8), Image(size=[8, 8]), batch_size=2, epochs=None)
    assert len(list(whole)) == 4
    assert len(next(iter(endless))[0]) == 2
    assert names()
    del whole, endless
    gc.collect()  # those of earlier tests, too
    deadline = time.monotonic() + 10
    while names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names() == []
