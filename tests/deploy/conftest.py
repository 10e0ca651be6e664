"""A finished run of a small convolutional network, and its bundles."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg import cache_folder
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.web import litertjs
from kerasimg.errors import CallError


@pytest.fixture(scope="session")
def run(tiny: Any, images: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier of red, green and blue images."""
    folder = tmp_path_factory.mktemp("deploy")
    data = images(folder / "colours", {"red": 20, "green": 20, "blue": 20})
    model = [
        {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    spec = tiny(model=model, compile={"optimizer": {"type": "Adam", "learning_rate": 0.03}})
    return kerasimg.train(spec, data=data, out=folder / "runs", report=False, verbose=0)


@pytest.fixture(scope="session")
def exported(run: Run) -> dict[str, Bundle]:
    """Target -> bundle in the run's folder; litert in every precision."""
    (litert,) = kerasimg.export(run, "litert", precision=["float32", "float16", "int16", "dynamic", "int8"])
    others = kerasimg.export(run, ["savedmodel", "onnx", "openvino", "keras"])
    return {bundle.manifest.target: bundle for bundle in [litert, *others]}


@pytest.fixture
def copy(exported: dict[str, Bundle], tmp_path: Path) -> Callable[[str], Path]:
    """copy("litert") returns the folder of a copied bundle, which a test may change."""

    def of_target(name: str) -> Path:
        return Path(shutil.copytree(exported[name].folder, tmp_path / name))

    return of_target


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The LiteRT.js files, from the user's cache or by npm."""
    cached = cache_folder._systems_own() / "kerasimg" / "litertjs" / litertjs._cache().name
    if litertjs.VARIABLE not in os.environ and cached.is_dir():
        os.environ[litertjs.VARIABLE] = str(cached)
    try:
        return litertjs.runtime_files()
    except CallError as error:
        pytest.skip(str(error))
