"""Rows on disk are found by their keys, and old ones make room for new ones."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.shuffling import Order
from kerasimg.training import feature_files
from kerasimg.training.feature_files import Store, row_keys
from kerasimg.training.feature_rows import FeatureBatches, Rows

RECIPE = {"frozen": "abc", "engine": "folded"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    return tmp_path / "features"


def keys(*numbers: int) -> np.ndarray:
    return row_keys(np.array([bytes([number]) * 15 + b"\0" for number in numbers], "S16"))


def test_stored_rows_are_found_and_no_others():
    store = Store(RECIPE)
    assert store.add(keys(1, 2), {"0": np.array([[1.0], [2.0]], np.float16)})
    assert store.add(keys(5), {"0": np.array([[5.0]], np.float16)})
    result = Store(RECIPE).find(keys(5, 7, 2, 5))
    values = [
        None if file < 0 else float(result.arrays[file]["0"][row, 0])
        for file, row in zip(result.files, result.rows, strict=True)
    ]
    assert values == [5.0, None, 2.0, 5.0]
    assert (Store({**RECIPE, "engine": "bfloat16"}).find(keys(1)).files == -1).all()


def test_a_view_and_a_position_give_another_key():
    content = np.array([b"a" * 16, b"a" * 16], "S16")
    assert len(set(row_keys(content, np.array([0, 2**32])).tolist())) == 2
    assert len(set(row_keys(content).tolist())) == 1


def test_the_recipe_is_stored_with_the_rows(cache: Path):
    Store(RECIPE).add(keys(1), {"0": np.zeros((1, 1), np.float16)})
    (about,) = cache.glob("*/about.json")
    assert '"frozen": "abc"' in about.read_text()


def test_the_least_recently_used_files_make_room_and_files_in_use_do_not(monkeypatch: pytest.MonkeyPatch):
    store = Store(RECIPE)
    big = np.zeros((1, 4000), np.float16)
    monkeypatch.setattr(feature_files, "room", lambda: 20_000)
    assert store.add(keys(1), {"0": big})
    assert store.add(keys(2), {"0": big})
    assert not store.add(keys(3), {"0": big})  # both are in use
    (first, second) = sorted(feature_files.files(), key=lambda file: store.find(keys(1)).files[0])
    hour_ago = time.time() - 3600
    os.utime(first.path, (hour_ago, hour_ago))
    assert store.add(keys(3), {"0": big})
    assert [file.path for file in feature_files.files() if file.path == first.path] == []
    assert second.path.exists()


def test_where_nothing_can_be_written_nothing_is_stored(cache: Path):
    cache.write_text("a file")
    store = Store(RECIPE)
    assert not store.add(keys(1), {"0": np.zeros((1, 1), np.float16)})
    assert (store.find(keys(1)).files == -1).all()


def test_all_features_can_be_removed(cache: Path):
    Store(RECIPE).add(keys(1), {"0": np.zeros((1, 1), np.float16)})
    assert feature_files.remove_older(3600) == []
    assert len(feature_files.remove_older()) == 1
    assert list(cache.iterdir()) == []


def test_features_have_their_share_however_many_images_are_cached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERASIMG_CACHE_GB", "1")
    assert feature_files.room() == 10**9


def test_batches_of_features_take_the_views_in_turn_and_end_each_epoch_with_a_partial_batch():
    # Five images in two views; a feature is its row, a weight its image.
    rows = Rows([np.arange(10.0)[:, None]], None, count=5, reused=0, computed=10, seconds=0, on_disk=False)
    order = Order(5, 2, True, 3)
    weights = np.arange(5, dtype=np.float32)
    batches = FeatureBatches(rows, np.arange(5) % 2, 2, order, "one_hot", weights)
    seen = []
    for epoch in range(3):
        loaded = [batches.load(number) for number in range(3 * epoch, 3 * epoch + 3)]
        assert [len(features) for features, *_ in loaded] == [2, 2, 1]
        features, labels, weight = (np.concatenate(each) for each in zip(*loaded, strict=True))
        view, images = np.divmod(features[:, 0].astype(int), 5)
        assert set(view) == {epoch % 2}
        assert sorted(images) == [0, 1, 2, 3, 4]
        assert labels.tolist() == np.eye(2)[images % 2].tolist()
        assert weight.tolist() == images.tolist()
        seen.append(images.tolist())
    assert seen[0] != seen[1] != seen[2] != seen[0]
