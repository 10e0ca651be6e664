"""Fixtures for silent searches, on images that are learned quickly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.tuning import search as searches


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    """A folder of red, green and blue images, 10 each."""
    folder: Path = images(tmp_path_factory.mktemp("data") / "few", {"red": 10, "green": 10, "blue": 10})
    return folder


@pytest.fixture
def search(few: Path, tmp_path: Path) -> Callable[..., Any]:
    """search(spec) searches the spec without log and report, in its own folder."""
    settings: dict[str, Any] = {"data": few, "out": tmp_path / "runs"}
    return lambda spec, **options: kerasimg.Search(searches.tune(spec, **{**settings, **options}))


@pytest.fixture(scope="session")
def searched(tiny: Any) -> Callable[..., dict[str, Any]]:
    """searched(tune, ...) is the tiny spec with two search values (rate, pooling) and one epoch per trial."""

    def spec(tune: dict[str, Any], **sections: Any) -> dict[str, Any]:
        rate = {"$float": [0.001, 1.0], "log": True, "default": 0.01}
        return tiny(
            compile={"optimizer": {"type": "Adam", "learning_rate": rate}},
            fit={"batch_size": 8, "stages": [{"epochs": 1}]},
            tune={"tuner": "random", "max_trials": 3, **tune},
            **sections,
        )

    return spec
