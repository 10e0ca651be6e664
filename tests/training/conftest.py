"""Fixtures for silent trainings."""

from collections.abc import Callable
from typing import Any

import pytest

from kerasimg.api import Run
from kerasimg.training import train as verbs


@pytest.fixture(scope="session")
def train() -> Callable[..., Run]:
    """verbs.train, silent and without a report, which takes longer than these trainings."""
    return lambda *given, **options: Run(verbs.train(*given, **{"verbose": 0, **options}))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Any:
    """A folder of red, green and blue images, 12 each."""
    return images(tmp_path_factory.mktemp("data") / "colours", {"red": 12, "green": 12, "blue": 12})


@pytest.fixture(scope="session")
def run(train: Any, tiny: Any, colours: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on the coloured images."""
    return train(tiny(), data=colours, out=tmp_path_factory.mktemp("runs"))
