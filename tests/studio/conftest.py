"""A folder of images, and the studio's application for it in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from kerasimg.studio.app import create_app
from kerasimg.studio.jobs import Jobs
from kerasimg.studio.library import Library
from kerasimg.studio.model_process import ModelProcess
from kerasimg.studio.runs import Runs

TOKEN = "token-of-the-tests"
ORIGIN = "http://127.0.0.1:8765"


@pytest.fixture
def photos(images: Callable[..., Path], tmp_path: Path) -> Path:
    """3 red and 2 blue images, one of them in the class of the other, and one without a label."""
    images(tmp_path / "photos", {"red": 3, "blue": 2})
    (tmp_path / "photos/blue/01.png").rename(tmp_path / "photos/red/blue.png")
    (tmp_path / "photos/unlabelled").mkdir()
    (tmp_path / "photos/red/02.png").rename(tmp_path / "photos/unlabelled/a.png")
    return tmp_path / "photos"


@pytest.fixture
def library(photos: Path) -> Iterator[Library]:
    with Library(photos) as opened:
        yield opened


class Page:
    """What the page in a browser sends."""

    def __init__(self, library: Library, runs: Runs, model: ModelProcess) -> None:
        app = create_app(library, runs, model, TOKEN)
        self.runs = runs
        self.client = TestClient(app, base_url=ORIGIN, raise_server_exceptions=False)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(f"/{TOKEN}/{path}", **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", {"origin": ORIGIN})
        return self.client.post(f"/{TOKEN}/{path}", json=body, **options)


@pytest.fixture
def page(library: Library, tmp_path: Path) -> Iterator[Page]:
    with Jobs(library.state / "jobs") as jobs, ModelProcess() as model:
        yield Page(library, Runs(library, jobs, tmp_path / "runs"), model)
