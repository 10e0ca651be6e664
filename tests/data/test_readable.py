import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data import decode_worker, loading, readable
from kerasimg.data.cache import Cache, CacheKind
from kerasimg.data.decode import decode
from kerasimg.data.image_files import read_pixels
from kerasimg.data.items import Bad
from kerasimg.data.ledger import Ledger, hexadecimal
from kerasimg.data.readable import require_readable, scan
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

Folder = Callable[..., Path]


@pytest.fixture
def pets(folder: Folder) -> Path:
    root = folder("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png")
    (root / "cat" / "2.png").write_bytes(b"")
    (root / "dog" / "1.png").write_text("<html>")
    return root


IDS = ["cat/1.png", "dog/1.png"]
BAD = [Bad("cat/2.png", "is empty"), Bad("dog/1.png", "is not an image (it begins like an HTML page)")]


@pytest.mark.parametrize("image", [None, Image(size=[2, 2])])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_scan_names_every_image_that_cannot_be_read(pets: Path, image: Image | None, threads: int | None):
    assert scan(open_source(pets), image, threads) == BAD


def test_unreadable_images_fail_and_all_are_named(pets: Path):
    with pytest.raises(DataError) as caught:
        require_readable(open_source(pets))
    assert str(caught.value) == (
        f"{pets}: 2 of 5 images cannot be read (below); repair or remove them, or leave them out: "
        '--on-bad-image skip (in Python: on_bad_image="skip")\n'
        f"{pets}: cat/2.png: is empty\n"
        f"{pets}: dog/1.png: is not an image (it begins like an HTML page)"
    )


def test_unreadable_images_can_be_left_out(pets: Path):
    source = require_readable(open_source(pets), "skip")
    assert [item.id for item in source.items] == ["cat/1.png", "cat/3.png", "dog/2.png"]
    assert source.skipped == tuple(BAD)
    assert source.classes == ("cat", "dog")
    assert source.describe().endswith("; 2 unreadable images left out")


def test_a_class_must_not_vanish_with_its_images(pets: Path):
    (pets / "dog" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'dog': none of its images can be read"):
        require_readable(open_source(pets), "skip")


def test_a_sound_source_is_handed_back(folder: Folder):
    source = open_source(folder("cat/1.png", "dog/1.png"))
    assert require_readable(source) is source


def test_a_long_scan_reports_its_progress_and_a_short_one_does_not(pets: Path, monkeypatch: pytest.MonkeyPatch):
    reports = []
    scan(open_source(pets), progress=lambda *report: reports.append(report))
    assert reports == []
    monkeypatch.setattr(readable, "PATIENCE_S", 0)
    monkeypatch.setattr(readable, "INTERVAL_S", 0)
    scan(open_source(pets), progress=lambda *report: reports.append(report))
    assert reports == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_an_image_is_read_again_only_when_it_has_changed(pets: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(decode_worker, "read_pixels", lambda image: read.append(image) or read_pixels(image))
    with pytest.raises(DataError):
        require_readable(open_source(pets))
    assert len(read) == 5
    with pytest.raises(DataError):
        require_readable(open_source(pets))
    assert len(read) == 5 + 2  # what cannot be read may have been mended from outside
    (pets / "cat" / "1.png").write_bytes((pets / "cat" / "1.png").read_bytes() + b"more")
    require_readable(open_source(pets), "skip")
    assert len(read) == 5 + 2 + 3


def test_a_scan_leaves_the_hashes_for_the_record(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    source = open_source(root)
    require_readable(source)
    known = Ledger.open().find(source.keys())
    assert hexadecimal(known.sha256) == [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in IDS]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_scan_leaves_the_pixels_for_the_first_epoch(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: CacheKind
):
    source, image = open_source(folder("cat/1.png", "dog/1.png")), Image(size=[2, 2])
    cache = Cache(kind, tmp_path / "cache")
    require_readable(source, image=image, cache=cache)

    def none(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(loading, "decode_fast", none)
    loader = loading.Loader(source, np.arange(2), image, cache, exact=False)
    assert np.array_equal(loader.load(np.arange(2)), [decode(item.image, image) for item in source.items])


def test_a_huge_file_is_not_read_as_a_whole(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_worker, "LARGEST_READ", 10)
    root = folder("cat/1.png", "dog/1.png")
    source = open_source(root)
    assert require_readable(source, image=Image(size=[2, 2])) is source
    known = Ledger.open().find(source.keys())
    assert hexadecimal(known.sha256) == [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in IDS]


def test_a_wrong_action_for_bad_images_is_refused(pets: Path):
    with pytest.raises(
        CallError, match=r"on_bad_image: expected \"fail\" or \"skip\", got 'skp'; did you mean 'skip'\?"
    ):
        require_readable(open_source(pets), "skp")  # type: ignore[arg-type]
