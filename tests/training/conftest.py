"""Fixtures for silent trainings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kerasimg.api import Run
from kerasimg.files import replacing
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


@pytest.fixture
def on_a_full_disk() -> Any:
    """As `files.replacing`, on a disk where no space is left for the new file."""

    @contextmanager
    def replacing_on_a_full_disk(path: Path) -> Iterator[Path]:
        with replacing(path) as partial:
            partial.symlink_to("/dev/full")
            yield partial

    return replacing_on_a_full_disk
