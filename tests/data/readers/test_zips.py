"""A ZIP file of images is data as its folders would be, and nothing in it does harm."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.boundary import LIMITS
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError
from kerasimg.spec.document import Image

PNG = io.BytesIO()
PIL.Image.new("RGB", (8, 8), (200, 30, 40)).save(PNG, "PNG")
Zipped = Callable[..., Path]


@pytest.fixture
def zipped(tmp_path: Path) -> Zipped:
    def write(*names: str, kind: int = zipfile.ZIP_DEFLATED, content: bytes = PNG.getvalue()) -> Path:
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name in names:
                archive.writestr(name, b"" if name.endswith("/") else content)
        return path

    return write


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("above", ["", "photos/", "a/b/"])
def test_folders_in_a_zip_file_are_classes(zipped: Zipped, kind: int, above: str):
    names = ("dog/b.png", "dog/a/c.PNG", "cat/1.png", "cat/notes.txt")
    source = open_source(zipped(*(f"{above}{name}" for name in names), kind=kind))
    assert (source.classes, source.ignored) == (("cat", "dog"), 1)
    assert [item.id for item in source.items] == [
        f"{above}{name}" for name in ("cat/1.png", "dog/a/c.PNG", "dog/b.png")
    ]
    assert decode(source.items[1].image, Image(size=[1, 1])).tolist() == [[[200, 30, 40]]]
    assert len(set(source.keys())) == 3


def test_parts_hidden_files_and_empty_folders_are_as_on_disk(zipped: Zipped):
    path = zipped(
        *("Training/cat/1.png", "Training/dog/1.png", "Training/emu/", "Testing/cat/2.png"),
        *("__MACOSX/Training/cat/._1.png", "Training/cat/.hidden.png", ".DS_Store"),
    )
    source = open_source(path)
    assert [(item.id, item.part) for item in source.items] == [
        ("Testing/cat/2.png", "test"),
        ("Training/cat/1.png", "train"),
        ("Training/dog/1.png", "train"),
    ]
    assert source.empty == ("Training/emu",)


def test_a_model_trains_on_a_zip_file_and_is_evaluated_on_it(tiny: Any, tmp_path: Path, images: Any):
    folder = images(tmp_path / "data", {"red": 12, "blue": 12})
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    run = kerasimg.train(tiny(), data=path, out=tmp_path / "runs", verbose=0)
    assert kerasimg.evaluate(run)["n"] == 4
    assert kerasimg.check_data(path).ok


def test_a_changed_file_and_a_damaged_member_are_named(zipped: Zipped):
    path = zipped("cat/1.png", "dog/1.png", kind=zipfile.ZIP_STORED)
    source = open_source(path)
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content + b" ")
    with pytest.raises(BadImage, match="has changed since it was opened"):
        source.columns.image(0)
    path.write_bytes(content)
    with pytest.raises(BadImage, match="is damaged within the ZIP file"):
        open_source(path).columns.image(0)


def flagged(path: Path, place: int, value: int, size: str = "<H") -> Path:
    """The file with a field of the first entry of its directory changed."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + place
    struct.pack_into(size, content, start, value)
    path.write_bytes(content)
    return path


def test_an_encrypted_file_is_refused(zipped: Zipped):
    path = flagged(zipped("cat/1.png", "dog/1.png"), 8, 1)
    assert "cat/1.png: is encrypted; unpack the file with its password" in message(path)


@pytest.mark.parametrize("name", ["cat/more.zip", "more.tar", "cat/a.tgz", "dog/x.7Z"])
def test_an_archive_within_is_refused(zipped: Zipped, name: str):
    assert f"{name}: is an archive itself; unpack it" in message(zipped("cat/1.png", "dog/1.png", name))


@pytest.mark.parametrize("name", ["../cat/1.png", "/etc/cat/1.png", "a/../../cat/1.png"])
def test_a_name_that_leads_out_is_refused(zipped: Zipped, name: str):
    assert "is a path outside of the archive" in message(zipped("cat/1.png", "dog/1.png", name))


def test_bombs_are_refused_before_they_are_inflated(zipped: Zipped, monkeypatch: pytest.MonkeyPatch):
    assert "bytes in" in message(zipped("cat/1.png", "dog/1.png", content=bytes(20_000_000)))
    path = flagged(zipped("cat/1.png", "dog/1.png"), 24, 2**30, "<I")
    assert "has 1,073,741,824 bytes; at most" in message(path)
    source = open_source(flagged(zipped("cat/1.png", "dog/1.png"), 24, 50, "<I"))
    with pytest.raises(BadImage, match="its length or CRC-32"):
        source.columns.image(0)
    monkeypatch.setitem(LIMITS, "zip_members", LIMITS["zip_members"]._replace(value=1))  # type: ignore[attr-defined]
    assert "has 2 members; at most 1 are read" in message(zipped("cat/1.png", "dog/1.png"))


def test_members_that_overlap_are_refused(zipped: Zipped):
    path = zipped("cat/1.png", "dog/1.png")
    content = path.read_bytes()
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    changed = bytearray(content)
    struct.pack_into("<I", changed, second + 42, 5)
    path.write_bytes(changed)
    assert "overlaps another member" in message(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(40), np.random.default_rng(0).bytes(500)])
def test_what_is_no_zip_file_is_a_fault(tmp_path: Path, content: bytes):
    path = tmp_path / "photos.zip"
    path.write_bytes(content)
    assert "cannot be read as a ZIP file" in message(path)
