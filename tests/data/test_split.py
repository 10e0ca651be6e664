import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.index import Items, Labels
from kerasimg.data.items import Item, in_order
from kerasimg.data.ledger import Ledger
from kerasimg.data.readers.image_store import Held
from kerasimg.data.readers.packed_strings import Texts
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.data.split import record, split
from kerasimg.errors import DataError

Folder = Callable[..., Path]

DRAWN = {
    "multiclass": {"validation": [6, 14, 19, 31], "test": [1, 12, 17, 21, 29, 36, 37, 38]},
    "multilabel": {"validation": [11, 12, 18, 29], "test": [0, 14, 17, 21, 23, 31, 37, 38]},
}


def source_of(labels: list, parts: list | None = None, task: str = "multiclass") -> Source:
    tuples = [label if isinstance(label, tuple) else (label,) for label in labels]
    items = tuple(
        Item(f"{number:04}.png", "", names, parts[number] if parts else None) for number, names in enumerate(tuples)
    )
    return Source(items, in_order(name for names in tuples for name in names), task, "pets")


def counts(source: Source, indices: np.ndarray) -> Counter:
    return Counter(label for index in indices for label in source.items[index].labels)


def message(source: Source, *shares: float) -> str:
    with pytest.raises(DataError) as caught:
        split(source, *shares)
    return str(caught.value)


def test_the_parts_are_disjoint_and_complete_and_of_the_shares_asked_for():
    source = source_of(["cat"] * 600 + ["dog"] * 400)
    parts = split(source, 0.15, 0.25, seed=3)
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))
    assert counts(source, parts["test"]) == {"cat": 150, "dog": 100}
    assert counts(source, parts["validation"]) == {"cat": 90, "dog": 60}
    assert counts(source, parts["train"]) == {"cat": 360, "dog": 240}


def test_classes_of_any_size_have_their_share_to_within_one_image():
    sizes = {f"class{number:02}": 2 + number * number for number in range(30)}
    source = source_of([name for name, size in sizes.items() for _ in range(size)])
    parts = split(source, 0.2, 0.1)
    assert len(parts["test"]) == round(0.1 * len(source))
    assert len(parts["validation"]) == round(0.2 * len(source))
    for name, size in sizes.items():
        assert abs(counts(source, parts["test"])[name] - 0.1 * size) <= 1
        assert abs(counts(source, parts["validation"])[name] - 0.2 * size) <= 1
        assert counts(source, parts["train"])[name] >= 1


def test_a_seed_gives_the_same_parts_in_whatever_order_the_images_come():
    source = source_of(["cat", "dog", "emu"] * 40)
    turned = replace(source, items=source.items[::-1])

    def ids(of: Source, seed: int) -> dict:
        return {part: sorted(of.items[index].id for index in indices) for part, indices in split(of, seed=seed).items()}

    assert ids(source, 1) == ids(turned, 1) == ids(source, 1)
    assert ids(source, 1) != ids(source, 2)


def test_one_more_image_moves_few_others():
    source = source_of(["cat", "dog"] * 500)
    before = split(replace(source, items=source.items[:-1]))
    after = split(source)
    for part in ("validation", "test"):
        assert len(set(before[part]) ^ set(after[part])) <= 4


def test_parts_of_the_data_are_kept():
    source = source_of(["cat", "dog"] * 50, ["train"] * 60 + ["test"] * 20 + [None] * 20)
    parts = split(source, 0.1, 0.5)
    assert parts["test"].tolist() == list(range(60, 80))
    assert len(parts["validation"]) == 8  # of the 80 others
    given = source_of(["cat", "dog"] * 4, ["train"] * 4 + ["validation"] * 2 + ["test"] * 2)
    assert {part: indices.tolist() for part, indices in split(given, 0.3, 0.3).items()} == {
        "train": [0, 1, 2, 3],
        "validation": [4, 5],
        "test": [6, 7],
    }


def test_a_share_of_zero_draws_no_part():
    assert set(split(source_of(["cat", "dog"] * 10), 0.0, 0.0)) == {"train"}
    assert set(split(source_of(["cat", "dog"] * 10), 0.2, 0.0)) == {"train", "validation"}


def test_every_class_keeps_a_image_to_train_on():
    source = source_of(["cat"] * 2 + ["dog"] * 2 + ["emu"])
    parts = split(source, 0.2, 0.2)
    assert set(counts(source, parts["train"])) == {"cat", "dog", "emu"}
    assert len(parts["validation"]) == len(parts["test"]) == 1


def test_too_few_images_are_a_fault():
    assert message(source_of(["cat", "dog"]), 0.5, 0.0) == (
        "pets: validation_split: 0.5 asks for 1 of the images, but only 0 can be taken, since every class needs one "
        "to train on; add images to the smallest classes, or do without: --set fit.validation_split=0, and stages with "
        '"keep": "last"'
    )
    few = source_of(["cat"] * 3 + ["dog"] * 3)
    assert message(few, 0.45, 0.45).startswith("pets: validation_split: 0.45 asks for 3 of the images, but only 1 can")


def test_a_class_without_training_images_is_a_fault():
    source = source_of(["cat", "dog", "cat", "dog", "emu"], ["train"] * 4 + ["test"])
    wrong = (
        "class 'emu': has images in the test part, but none to train on; add some to the train part, or remove those"
    )
    assert message(source, 0.0, 0.0) == f"pets: {wrong}"


@pytest.mark.parametrize("seed", range(5))
def test_images_of_several_labels_are_spread_by_the_rarest(seed: int):
    random = np.random.default_rng(seed)
    rates = [0.6, 0.3, 0.1, 0.02]
    labels = [
        tuple(name for name, rate in zip("abcd", rates, strict=True) if random.random() < rate) for _ in range(1000)
    ]
    source = source_of(labels, task="multilabel")
    parts = split(source, 0.15, 0.15, seed)
    every = counts(source, range(1000))
    for part in ("validation", "test"):
        assert len(parts[part]) == 150
        for name, count in counts(source, parts[part]).items():
            assert abs(count / every[name] - 0.15) < 0.05 + 1 / every[name]
    assert set(counts(source, parts["train"])) == set("abcd")


def test_labels_that_only_stand_with_rarer_ones_keep_a_image_to_train_on():
    labels = [("x", "p"), ("p",), ("x", "q"), ("q",), ("x", "r"), ("r",)]
    for seed in range(50):
        source = source_of(labels, task="multilabel")
        assert set(counts(source, split(source, 0.3, 0.2, seed)["train"])) == {"x", "p", "q", "r"}


def test_a_record_holds_every_image_with_its_part_labels_and_hash(folder: Folder):
    root = folder(*(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)))
    source = open_source(root)
    parts = split(source)
    stored = json.loads(json.dumps(record(source, parts)))
    assert stored["classes"] == ["cat", "dog"]
    assert len(stored["images"]) == 20
    one = stored["images"][0]
    first = source.items[parts["train"][0]]
    assert one == {
        "id": first.id,
        "part": "train",
        "labels": list(first.labels),
        "sha256": hashlib.sha256((root / first.id).read_bytes()).hexdigest(),
    }
    assert Counter(one["part"] for one in stored["images"]) == {part: len(found) for part, found in parts.items()}


def test_a_record_of_arrays_holds_the_hash_of_their_bytes():
    images = np.arange(8 * 4, dtype=np.uint8).reshape(8, 2, 2)
    source = open_source((images, [0, 1] * 4))
    stored = record(source, {"train": [3, 1]})
    assert [one["id"] for one in stored["images"]] == ["images[3]", "images[1]"]
    assert stored["images"][0]["sha256"] == hashlib.sha256(images[3].tobytes()).hexdigest()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_parts_that_a_seed_draws_stay_the_same(task: str):
    """Drawn once, by the rules of the module written out image by image."""
    labels = [
        tuple(name for place, name in enumerate("abc") if (number * 7 + number // 5) % (place + 2) == 0)
        if task == "multilabel"
        else ("abc"[(number * number) % 7 % 3],)
        for number in range(40)
    ]
    parts = split(source_of(labels, task=task), 0.1, 0.2, seed=4)
    assert {part: indices.tolist() for part, indices in parts.items() if part != "train"} == DRAWN[task]


def test_a_record_takes_the_hashes_that_the_ledger_knows_and_reads_the_other_files(folder: Folder):
    root = folder("cat/1.png", "cat/2.png", "dog/1.png")
    source = open_source(root)
    Ledger.open().add(source.keys([0, 1]), np.array([b"\1" * 31 + b"\0", b""], "S32"), ["", "is truncated"])
    hashes = [one["sha256"] for one in record(source, {"train": [2, 1, 0]})["images"]]
    read = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in ("dog/1.png", "cat/2.png")]
    assert hashes == [*read, "01" * 31 + "00"]


def test_two_hundred_thousand_images_are_split_evenly():
    count = 200_000
    texts = Texts.joined(b"\0".join(b"c/%d.png" % number for number in range(count)))
    labels = Labels(tuple(f"c{code}" for code in range(1000)), np.arange(count, dtype=np.int32) % 1000)
    items = Items(texts, Held([]), labels, np.full(count, -1, np.int8))
    parts = split(Source(items, in_order(labels.names), "multiclass", "pets"))
    assert {part: len(indices) for part, indices in parts.items()} == {
        "train": 140_000,
        "validation": 30_000,
        "test": 30_000,
    }
    assert np.bincount(labels.codes[parts["test"]]).tolist() == [30] * 1000
