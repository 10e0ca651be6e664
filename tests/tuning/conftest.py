"""Searching without a word, on images that are learned in a moment."""

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
    """search(spec) looks through it, silent and without a page, in a folder of its own."""
    settings: dict[str, Any] = {"data": few, "out": tmp_path / "runs"}
    return lambda spec, **how: kerasimg.Search(searches.tune(spec, **{**settings, **how}))


@pytest.fixture(scope="session")
def searched(tiny: Any) -> Callable[..., dict[str, Any]]:
    """searched(tune, ...) is the tiny spec with a rate and a kind of pooling to search for, one epoch a trial."""

    def spec(tune: dict[str, Any], **sections: Any) -> dict[str, Any]:
        rate = {"$float": [0.001, 1.0], "log": True, "default": 0.01}
        return tiny(
            compile={"optimizer": {"type": "Adam", "learning_rate": rate}},
            fit={"batch_size": 8, "stages": [{"epochs": 1}]},
            tune={"tuner": "random", "max_trials": 3, **tune},
            **sections,
        )

    return spec
