"""Small images and folders of them, made at test time."""

import io
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder("cat/a.png", "dog/b.png") makes a folder of these files: images, or text where the name says so."""

    def make(*names: str) -> Path:
        root = tmp_path / "pets"
        root.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir()
            elif path.suffix in (".txt", ".db", ".xml") or path.name.startswith("."):
                path.write_text("no image")
            else:
                PIL.Image.new("RGB", (4, 3), (number % 256, 100, 200)).save(path, format="PNG")
        return root

    return make


@pytest.fixture
def encoded() -> Callable[[int], bytes]:
    """encoded(3) is the PNG of an image of 4 x 3 pixels, each number another."""

    def make(number: int) -> bytes:
        file = io.BytesIO()
        PIL.Image.new("RGB", (4, 3), (number, 100, 200)).save(file, format="PNG")
        return file.getvalue()

    return make
