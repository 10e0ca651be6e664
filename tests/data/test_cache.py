import os
import subprocess
import sys
import time
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest

from kerasimg.data import cache as cache_module
from kerasimg.data import cache_files, loading
from kerasimg.data.cache import Cache, CacheKind, about_pixels, find, group_name
from kerasimg.data.decode import decode
from kerasimg.data.loading import Loader
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError
from kerasimg.spec.document import Image

IMAGE = Image(size=[6, 5])
PIXELS = np.random.default_rng(1).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
BYTES = 6 * 5 * 3


@pytest.fixture
def source() -> Source:
    return open_source((PIXELS, np.arange(20) % 2))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that were decoded since, by their first value."""
    seen: list[int] = []

    def counted(img: np.ndarray, image: Image) -> np.ndarray:
        seen.append(int(img[0, 0, 0]))
        return decode(img, image)

    monkeypatch.setattr(loading, "decode", counted)
    return seen


def load(source: Source, cache: Cache, count: int = 20, image: Image = IMAGE) -> np.ndarray:
    return Loader(source, np.arange(count), image, cache, threads=2).load(np.arange(count))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{cache_files.SUFFIX}"))


@pytest.mark.parametrize("kind", ["memory", "disk", "auto"])
def test_a_image_is_decoded_once(source: Source, tmp_path: Path, decoded: list[int], kind: CacheKind):
    cache = Cache(kind, tmp_path)
    for _ in range(3):
        assert np.array_equal(load(source, cache), PIXELS)
    assert len(decoded) == 20
    assert bool(files(tmp_path)) == (kind == "disk")


def test_pixels_of_another_kind_are_other_images(source: Source, tmp_path: Path, decoded: list[int]):
    cache = Cache("disk", tmp_path)
    load(source, cache)
    for image in (Image(size=[5, 5]), Image(size=[6, 5], resize="crop"), Image(size=[6, 5], scale="unit")):
        load(source, cache, image=image)
    assert len(decoded) == 60  # how the model scales them is no matter of pixels
    fast = Loader(source, np.arange(20), IMAGE, cache, exact=False)
    assert not fast.rows.read(np.arange(20), np.empty((20, 6, 5, 3), np.uint8)).any()


def test_another_process_finds_the_images_on_disk_and_new_ones_are_added(
    source: Source, tmp_path: Path, decoded: list[int]
):
    load(source, Cache("disk", tmp_path), 12)
    assert len(decoded) == 12
    again = Cache("disk", tmp_path)
    assert np.array_equal(load(source, again), PIXELS)
    assert len(decoded) == 20
    assert sorted(decoded[12:]) == sorted(PIXELS[12:, 0, 0, 0].tolist())
    assert len(files(tmp_path)) == 2
    assert np.array_equal(load(source.only(range(5, 15)), Cache("disk", tmp_path), 10), PIXELS[5:15])
    assert len(decoded) == 20


def test_what_does_not_fit_into_memory_goes_to_the_disk(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
):
    monkeypatch.setattr(cache_module, "free_bytes", lambda: int(20 * BYTES / 0.4) + 9)
    monkeypatch.setattr(cache_module, "_in_memory", WeakSet())
    first = Cache("auto", tmp_path)
    load(source, first)
    assert not files(tmp_path)
    other = open_source((255 - PIXELS, np.arange(20) % 2))
    second = Cache("auto", tmp_path)
    assert np.array_equal(load(other, second), 255 - PIXELS)  # the first still holds its share
    assert len(files(tmp_path)) == 1
    assert "in memory" in first.describe()
    assert str(tmp_path) in second.describe()
    assert not first.shortage()
    assert not second.shortage()


def test_memory_that_is_too_small_for_all_holds_some(
    source: Source, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
):
    monkeypatch.setattr(cache_module, "free_bytes", lambda: int(8 * BYTES / 0.4) + 9)
    monkeypatch.setattr(cache_module, "_in_memory", WeakSet())
    cache = Cache("memory")
    for _ in range(2):
        assert np.array_equal(load(source, cache), PIXELS)
    assert len(decoded) == 20 + 12
    assert cache.shortage() == "no room for 12 decoded images in memory: each epoch decodes them again"


def test_the_disk_has_a_limit_and_what_was_used_longest_ago_goes_first(source: Source, tmp_path: Path):
    one = 2 * cache_files.HEAD + 20 * (96 + 24)
    load(source, Cache("disk", tmp_path, limit=2 * one))
    for number, path in enumerate(files(tmp_path)):
        os.utime(path, (1000 + number, 1000 + number))
    old = files(tmp_path)
    load(source, Cache("disk", tmp_path, limit=2 * one), image=Image(size=[5, 6]))
    assert set(old) < set(files(tmp_path))
    recent = [path for path in files(tmp_path) if path not in old]
    load(source, Cache("disk", tmp_path, limit=2 * one), image=Image(size=[9, 2]))
    assert old[0] not in files(tmp_path)
    assert set(recent) < set(files(tmp_path))
    # There is no more room, and those two have just been opened.
    load(source, Cache("disk", tmp_path, limit=2 * one), image=Image(size=[10, 3]))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2 * one


def test_a_disk_that_is_too_small_for_all_holds_some(source: Source, tmp_path: Path, decoded: list[int]):
    limit = 2 * cache_files.HEAD + 7 * (96 + 24)
    for _ in range(2):
        assert np.array_equal(load(source, Cache("disk", tmp_path, limit=limit)), PIXELS)
    assert len(decoded) == 20 + 13


@pytest.mark.parametrize("place", ["pixels", "sum", "key", "head", "end"])
def test_what_is_damaged_is_decoded_again(source: Source, tmp_path: Path, decoded: list[int], place: str):
    load(source, Cache("disk", tmp_path))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    at = {
        "pixels": cache_files._pixels_at(20) + 3 * 96 + 10,
        "sum": 4096 + 20 * 16 + 3 * 8,
        "key": 4096 + 40,
        "head": 3,
    }
    if place == "end":
        content = content[:-1]
    else:
        content[at[place]] ^= 4
    path.write_bytes(content)
    assert np.array_equal(load(source, Cache("disk", tmp_path)), PIXELS)
    assert len(decoded) == 20 + (20 if place in ("head", "end") else 1)
    assert np.array_equal(load(source, Cache("disk", tmp_path)), PIXELS)
    assert len(decoded) <= 41


def test_a_full_disk_ends_the_keeping_and_nothing_else(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
):
    cache = Cache("disk", tmp_path)
    loader = Loader(source, np.arange(20), IMAGE, cache, threads=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_files.OnDisk, "_write", full)
    assert np.array_equal(loader.load(np.arange(20)), PIXELS)
    assert np.array_equal(loader.load(np.arange(20)), PIXELS)
    assert len(decoded) == 40


FILL = """
import sys, numpy as np
from kerasimg.data import loading
from kerasimg.data.cache import Cache
from kerasimg.data.sources import open_source
from kerasimg.spec.document import Image
from pathlib import Path
from weakref import WeakSet
pixels = np.random.default_rng(2).integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
loader = loading.Loader(open_source((pixels, np.arange(3000) % 2)), np.arange(3000), Image(size=[64, 64]),
                        Cache("disk", Path(sys.argv[1])), threads=2)
print("ready", flush=True)
for start in range(0, 3000, 50):
    loader.load(np.arange(start, start + 50))
print("done", flush=True)
"""


def test_processes_that_fill_at_once_and_are_killed_leave_nothing_wrong(tmp_path: Path, decoded: list[int]):
    both = [
        subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    for process in both:
        process.kill()
        process.wait()
        process.stdout.close()
    (path,) = files(tmp_path)
    there, count = cache_files.images_in(path)
    assert count == 3000
    pixels = np.random.default_rng(2).integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
    source = open_source((pixels, np.arange(3000) % 2))
    assert np.array_equal(load(source, Cache("disk", tmp_path), 3000, Image(size=[64, 64])), pixels)
    assert 3000 - there - 2 <= len(decoded) <= 3000 - there + 2


def test_keys_are_found_by_all_their_bytes():
    known = np.array([[1, 5], [1, 6], [3, 0]], np.uint64)
    assert find(known, np.array([[3, 0], [1, 5], [4, 0], [3, 1], [0, 0]], np.uint64)).tolist() == [2, 0, -1, -1, -1]
    assert find(known[:0], known).tolist() == [-1, -1, -1]


def test_files_are_listed_and_removed_by_age(source: Source, tmp_path: Path):
    load(source, Cache("disk", tmp_path))
    (path,) = files(tmp_path)
    about = cache_files.about_of(path.parent)
    assert about["image"]["size"] == [6, 5]
    assert about["decoder"] == "exact"
    assert cache_files.images_in(path) == (20, 20)
    assert cache_files.remove_older(tmp_path, 3600) == []
    assert [file.path for file in cache_files.remove_older(tmp_path)] == [path]
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_a_share_of_the_disk_or_what_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert 0 < cache_files.limit(tmp_path / "none" / "yet") <= cache_files.LIMIT
    monkeypatch.setenv(cache_files.VARIABLE, "1.5")
    assert cache_files.limit(tmp_path) == 1_500_000_000
    monkeypatch.setenv(cache_files.VARIABLE, "much")
    with pytest.raises(CallError, match="KERASIMG_CACHE_GB: expected a number of GB, got 'much'"):
        cache_files.limit(tmp_path)


def test_every_key_of_image_that_changes_pixels_has_pixels_of_its_own():
    plain = Image(resize="crop")
    changed = {
        "size": [9, 9],
        "channels": 1,
        "resize": "pad",
        "crop_fraction": 0.5,
        "interpolation": "area",
        "background": [0, 0, 0],
    }
    sections = [{key: value} for key, value in changed.items()] + [{"channels": 4}, {"channels": 4, "range": [0, 9]}]
    names = {group_name(about_pixels(Image(**{"resize": "crop"} | section), True)) for section in sections}
    assert len(names | {group_name(about_pixels(plain, True))}) == len(sections) + 1
    assert {*changed, "range", "scale"} == set(Image.model_fields)
    assert about_pixels(plain, True) == about_pixels(Image(resize="crop", scale="unit"), True)
