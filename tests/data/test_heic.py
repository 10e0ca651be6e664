"""HEIC, as phones write it: read by the extra `heic`, and without it named with what to install."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data import image_files
from kerasimg.data.image_files import BadImage, read_image
from kerasimg.data.readable import require_readable
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

SMOOTH = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)).resize((60, 48))


@pytest.fixture
def heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(SMOOTH).save(file, quality=95)
    return file.getvalue()


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(PIL.Image.OPEN, "HEIF", raising=False)
    image_files.formats.cache_clear()
    yield
    image_files.formats.cache_clear()


def test_it_is_read(heic: bytes):
    read = np.asarray(read_image(heic)).astype(int)
    assert np.abs(read - np.asarray(SMOOTH)).mean() < 6


def test_folders_of_it_are_data(heic: bytes, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.HEIC").write_bytes(heic)
    assert len(open_source(tmp_path)) == 2


def test_a_damaged_one_is_named(heic: bytes):
    for damaged in (heic[:40], heic[: len(heic) // 2]):
        with pytest.raises(BadImage, match=r"damaged|truncated"):
            read_image(damaged)


@pytest.mark.usefixtures("without_library")
def test_without_the_library_the_extra_is_named():
    with pytest.raises(BadImage, match=r'its library is not installed: pip install "kerasimg\[heic\]"'):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0")


@pytest.mark.usefixtures("without_library")
def test_without_the_library_many_images_are_one_error(tmp_path: Path):
    for number in range(30):
        (tmp_path / "a" / f"{number:02}.HEIC").parent.mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number:02}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        require_readable(open_source(tmp_path))
    _, heic, empty = caught.value.faults
    assert heic.path == "a/00.HEIC, a/01.HEIC, a/02.HEIC and 27 more"
    assert empty.path == "b/1.jpg"
