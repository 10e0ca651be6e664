import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.index import Items, Labels, join_labels
from kerasimg.data.items import Item
from kerasimg.data.readers.image_store import Held
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source

Folder = Callable[..., Path]

ITEMS = [
    Item("a", "a.png", ("cat",), "train"),
    Item("b", b"bytes", ("dog", "cat"), None, {"age": 3}),
    Item("c", np.zeros((2, 2), np.uint8), (), "test"),
    Item("d", lambda: b"read", ("emu",), "validation"),
]


def plain(item: Item) -> tuple:
    image = item.image
    return item.id, image if isinstance(image, str | bytes) else image.shape, item.labels, item.part, item.extras


def test_items_in_columns_are_what_they_were():
    items = Items.of(ITEMS)
    assert len(items) == 4
    assert [plain(item) for item in items] == [plain(item) for item in ITEMS]
    assert plain(items[-1]) == plain(ITEMS[3])
    assert [item.id for item in items[::-2]] == ["d", "b"]
    assert [item.id for item in items.take([2, 0, 2]).take(np.array([1, 2]))] == ["a", "c"]
    assert [item.id for item in items.take(np.array([True, False, False, True]))] == ["a", "d"]
    assert len(items.take([])) == 0
    assert [items.id(2), items.image(3)] == ["c", b"read"]
    assert items.parts.tolist() == [0, -1, 2, 1]
    assert Items.of(items) is items


@pytest.mark.parametrize("index", [4, -5])
def test_an_item_beyond_the_end_is_an_error(index: int):
    with pytest.raises(IndexError, match="among 4"):
        Items.of(ITEMS)[index]


def test_a_image_is_read_when_it_is_asked_for_and_not_before():
    calls = []
    items = Items.of([Item("a", lambda: calls.append(1) or b"x", ("cat",))])
    item = items[0]
    assert calls == []
    assert (item.image, calls) == (b"x", [1])


def test_labels_of_chosen_images_keep_their_order_and_number():
    labels = Items.of(ITEMS).labels
    assert labels.names == ("cat", "dog", "emu")
    taken = labels.take(np.array([1, 2, 3, 1]))
    assert [taken.of(row) for row in range(4)] == [("dog", "cat"), (), ("emu",), ("dog", "cat")]
    assert taken.owners().tolist() == [0, 0, 2, 3, 3]
    assert labels.counts().tolist() == [2, 1, 1]
    assert labels.renamed(["emu", "dog", "cat"]).tolist() == [2, 1, 2, 0]
    with pytest.raises(KeyError, match="emu"):
        labels.renamed(["dog", "cat"])


def test_joined_labels_have_one_list_of_names():
    one = Labels(("cat", "dog"), np.array([0, 1], np.int32))
    two = Labels(("dog", "emu"), np.array([1, 0, 0], np.int32))
    assert join_labels([one, two]).names == ("cat", "dog", "emu")
    assert join_labels([one, two]).codes.tolist() == [0, 1, 2, 1, 1]
    several = Labels(("emu",), np.array([0], np.int32), np.array([0, 0, 1]))
    assert [join_labels([one, several]).of(row) for row in range(4)] == [("cat",), ("dog",), (), ("emu",)]


def test_the_numbers_of_labels_are_those_of_single_items():
    source = Source(tuple(ITEMS), ("cat", "dog", "emu"), "multilabel", "pets")
    assert source.label_ids().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert source.label_ids(range(1, 4)).tolist() == source.label_ids()[1:].tolist()
    assert source.label_counts() == {"cat": 2, "dog": 1, "emu": 1}
    assert source.only([0]).label_counts() == {"cat": 1}
    assert source.parts.tolist() == [0, -1, 2, 1]


def test_a_file_has_another_key_when_it_changes_and_the_same_by_any_name(folder: Folder, monkeypatch):
    root = folder("cat/1.png", "dog/1.png")
    first = open_source(root).keys()
    assert first.dtype == "S16"
    assert first.shape == (2,)
    monkeypatch.chdir(root.parent)
    assert (open_source("./pets/").keys() == first).all()
    assert (open_source(root).keys([1]) == first[1]).all()
    os.utime(root / "cat" / "1.png", ns=(0, 1))
    changed = open_source(root).keys() == first
    assert changed.tolist() == [False, True]
    (root / "dog" / "1.png").unlink()
    assert open_source((np.zeros((1, 2, 2)), [0]), classes=["0"]).keys()[0] not in first


def test_a_file_that_takes_the_place_of_another_has_another_key_though_size_and_date_are_the_same(folder: Folder):
    root = folder("cat/1.png", "cat/2.png", "dog/1.png")
    first, second = root / "cat" / "1.png", root / "cat" / "2.png"
    assert first.stat().st_size == second.stat().st_size
    for path in (first, second):
        os.utime(path, ns=(0, 1))
    before = open_source(root).keys()
    time.sleep(0.05)  # the clock of a file system may tick slowly
    first.rename(root / "cat" / "3")
    second.rename(first)
    (root / "cat" / "3").rename(second)
    assert (open_source(root).keys() == before).tolist() == [False, False, True]


def test_pixels_and_bytes_have_the_key_of_their_content():
    images = np.zeros((4, 2, 2), np.uint8)
    images[2] = 9
    first, second, third, fourth = open_source((images, [0, 1, 0, 1])).keys()
    assert first == second == fourth != third
    assert open_source((images.astype("float32"), [0, 1, 0, 1])).keys()[0] != first
    held = Items.of([Item("a", b"x", ("cat",)), Item("b", b"x", ("cat",)), Item("c", b"y", ("cat",))]).keys()
    assert held[0] == held[1] != held[2]


def test_a_source_can_be_sent_to_another_process(folder: Folder):
    source = open_source(folder("cat/1.png", "dog/1.png"))
    sent = pickle.loads(pickle.dumps(source.only([1])))
    assert [(item.id, item.image, item.labels) for item in sent.items] == [
        ("dog/1.png", source.items[1].image, ("dog",))
    ]


def test_keys_of_many_images_stand_in_their_order(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    from kerasimg.data.readers import image_store

    source = open_source(folder(*(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(20))))
    every = source.keys()
    monkeypatch.setattr(image_store, "KEYS_AT_ONCE", 3)
    assert (source.keys() == every).all()
    assert len(set(every.tolist())) == 40
    assert source.keys([]).shape == (0,)


def test_a_million_images_take_little_memory():
    count = 1_000_000
    codes = np.zeros(count, np.int32)

    class Ids:
        def __getitem__(self, index: int) -> str:
            return f"{index}.png"

    items = Items(Ids(), Held([""] * 20), Labels(("cat", "dog"), codes), np.zeros(count, np.int8))
    source = Source(items, ("cat", "dog"), "multiclass", "pets")
    assert source.only(np.arange(0, count, 2)).items[7].id == "14.png"
    assert source.describe() == "1,000,000 images of 2 classes in pets (train 1,000,000)"
    assert source.match(("dog", "cat")).label_ids()[:2].tolist() == [1, 1]
