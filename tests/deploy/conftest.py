"""A finished run of a small convolutional network, and its bundles."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle


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
    (litert,) = kerasimg.export(run, "litert", precision=["float32", "float16", "dynamic", "int8"])
    others = kerasimg.export(run, ["savedmodel", "onnx", "openvino", "keras"])
    return {bundle.manifest.target: bundle for bundle in [litert, *others]}


@pytest.fixture
def copy(exported: dict[str, Bundle], tmp_path: Path) -> Callable[[str], Path]:
    """copy("litert") returns the folder of a copied bundle, which a test may change."""

    def of_target(name: str) -> Path:
        return Path(shutil.copytree(exported[name].folder, tmp_path / name))

    return of_target
