import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from kerasimg.data.augment import compile_augment
from kerasimg.data.batches import ENCODERS
from kerasimg.data.cache import CacheKind
from kerasimg.data.pipeline import Targets, batches, map_batches, own_errors
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

Folder = Callable[..., Path]
IMAGE = Image(size=[6, 5])
PIXELS = np.random.default_rng(1).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


@pytest.fixture
def source() -> Source:
    return open_source((PIXELS, LABELS))


def arrays(dataset, column: int = 0) -> np.ndarray:
    return np.concatenate([batch[column].numpy() for batch in dataset])


def test_every_form_of_targets_has_a_function():
    assert set(ENCODERS) == set(get_args(Targets))


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_batches_hold_the_images_in_order_as_float32(source: Source, cache: CacheKind):
    dataset = batches(source, [7, 2, 9], IMAGE, batch_size=2, cache=cache)
    for _ in range(2):
        images = arrays(dataset)
        assert images.dtype == np.float32
        assert np.array_equal(images, PIXELS[[7, 2, 9]])
        assert arrays(dataset, 1).tolist() == [1, 2, 0]
    assert dataset.element_spec[0].shape.as_list() == [None, 6, 5, 3]


@pytest.mark.parametrize(("drop", "steps"), [(False, 3), (True, 2)])
def test_the_number_of_batches_is_known(source: Source, drop: bool, steps: int):
    for augment in (None, brighter):
        dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, augment=augment, drop_remainder=drop)
        assert dataset.cardinality().numpy() == steps == len(list(dataset))
    assert dataset.element_spec[0].shape[0] == (4 if drop else None)


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_each_epoch_is_another_permutation_of_all_and_repeatable(source: Source, cache: CacheKind):
    def epochs(seed: int) -> list[list[float]]:
        dataset = batches(source, range(10), IMAGE, batch_size=3, shuffle=True, seed=seed, cache=cache, epochs=3)
        values = arrays(dataset)[:, 0, 0, 0].tolist()
        return [values[:10], values[10:20], values[20:]]

    first = epochs(0)
    assert all(sorted(epoch) == sorted(PIXELS[:, 0, 0, 0].tolist()) for epoch in first)
    assert first[0] != first[1] != first[2]
    assert epochs(0) == first != epochs(1)


def test_shuffled_images_keep_their_labels_and_weights(source: Source):
    weights = LABELS * 10.0
    dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, sample_weight=weights)
    of_image = {PIXELS[index].tobytes(): LABELS[index] for index in range(10)}
    for images, labels, weight in dataset:
        for row in range(len(images)):
            assert of_image[images[row].numpy().astype(np.uint8).tobytes()] == labels[row]
            assert weight[row] == labels[row].numpy() * 10


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("sparse", [2, 0]), ("one_hot", [[0, 0, 1], [1, 0, 0]])],
)
def test_targets_of_one_label(source: Source, targets: Targets, expected: list):
    labels = arrays(batches(source, [2, 3], IMAGE, batch_size=2, targets=targets), 1)
    assert labels.tolist() == expected
    assert labels.dtype == (np.int64 if targets == "sparse" else np.float32)


def test_binary_targets_are_a_column_of_floats():
    source = open_source((PIXELS, LABELS % 2), "binary")
    labels = arrays(batches(source, [0, 1], IMAGE, batch_size=2, targets="binary"), 1)
    assert labels.tolist() == [[0.0], [1.0]]
    assert labels.dtype == np.float32


def test_multi_hot_targets_hold_all_labels():
    hot = np.eye(10, dtype=int) + np.eye(10, k=1, dtype=int)
    source = open_source((PIXELS, hot), "multilabel")
    assert arrays(batches(source, range(10), IMAGE, batch_size=4, targets="multi_hot"), 1).tolist() == hot.tolist()


def test_targets_that_do_not_fit_are_a_wrong_call(source: Source):
    for targets, message in [("multi_hot", "do not fit the task"), ("binary", "need 2 classes, not 3")]:
        with pytest.raises(CallError, match=message):
            batches(source, [0], IMAGE, batch_size=1, targets=targets)
    with pytest.raises(CallError, match="no images"):
        batches(source, [], IMAGE, batch_size=1)
    with pytest.raises(CallError, match=r"expected 1 sample weight, got shape \(2,\)"):
        batches(source, [0], IMAGE, batch_size=1, sample_weight=[1, 2])


def brighter(images, labels, seeds, batch_size):
    """An augmentation that shows its seeds: adds epoch and position to the pixels."""
    import tensorflow as tf

    added = tf.cast(seeds[:, 3] * 1000 + seeds[:, 2], tf.float32)
    return tf.cast(images, tf.float32) + added[:, None, None, None] + tf.cast(
        seeds[:, 0, None, None, None], "float32"
    ), labels


def listed(dataset) -> list[list[np.ndarray]]:
    return [[column.numpy() for column in batch] for batch in dataset]


def assert_same(some: list[list[np.ndarray]], others: list[list[np.ndarray]]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for column, its in zip(one, other, strict=True):
            assert column.dtype == its.dtype
            assert np.array_equal(column, its)


def run(source: Source, **changes) -> list[list[np.ndarray]]:
    arguments = {"batch_size": 4, "shuffle": True, "seed": 3, "augment": brighter, "epochs": 3, "exact": False}
    return listed(batches(source, range(10), IMAGE, **arguments | changes))


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_batches_are_the_same_in_every_run_whatever_the_threads_and_the_cache(source: Source, cache: CacheKind):
    once = run(source, threads=1)
    assert_same(once, run(source, threads=2, cache=cache))
    assert_same(once, run(source, threads=5, cache=cache))


def test_no_thread_of_tensorflow_looks_for_other_numbers_of_threads(source: Source):
    dataset = batches(source, range(10), IMAGE, batch_size=4)
    for each in (dataset, map_batches(dataset, lambda *batch: batch)):
        assert each.options().autotune.enabled is False


def test_the_data_set_has_no_state_of_its_own(source: Source):
    dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, augment=brighter)
    assert_same(listed(dataset), listed(dataset))


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_run_goes_on_at_any_batch(source: Source, epoch: int, step: int):
    rest = run(source, first_epoch=epoch, first_step=step, epochs=3 - epoch)
    assert_same(rest, run(source)[epoch * 3 + step :])


@pytest.mark.parametrize("workers", [2, 3])
def test_the_shares_of_workers_are_the_whole(source: Source, workers: int):
    weights = np.arange(10)
    # 4 + 4 + 3: in slices of equal size or one apart.
    common = {"batch_size": 4, "shuffle": True, "augment": brighter, "sample_weight": [*weights[:8].tolist(), 9, 7, 5]}
    indices = [*range(10), 0]
    whole = listed(batches(source, indices, IMAGE, **common))
    parts = [listed(batches(source, indices, IMAGE, shard=(worker, workers), **common)) for worker in range(workers)]
    joined = [[np.concatenate(column) for column in zip(*step, strict=True)] for step in zip(*parts, strict=True)]
    assert_same(joined, whole)


def test_an_endless_data_set_goes_through_the_epochs(source: Source):
    endless = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, epochs=None, first_epoch=1)
    assert endless.cardinality().numpy() == -1
    finite = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, epochs=2, first_epoch=1)
    assert_same(listed(endless.take(6)), listed(finite))


def test_each_image_has_a_seed_of_its_run_epoch_and_position(source: Source):
    images = np.concatenate([batch[0] for batch in run(source, seed=5, epochs=2, shuffle=False)])
    added = images[:, 0, 0, 0] - np.tile(PIXELS[:, 0, 0, 0], 2)
    assert added.tolist() == [5 + position + 1000 * epoch for epoch in range(2) for position in range(10)]


def test_the_augmentation_knows_the_size_of_a_full_batch(source: Source):
    sizes = []

    def augment(images, labels, seeds, batch_size):
        sizes.append(batch_size)
        return brighter(images, labels, seeds, batch_size)

    assert [len(batch[0]) for batch in run(source, augment=augment)] == [4, 4, 2] * 3
    run(source, augment=augment, shard=(1, 2))
    assert sizes == [4, 2]  # as often as it was traced


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_step": 3}, "first_step: expected 0 to 2, got 3"),
        ({"shard": (2, 2)}, "shard: expected"),
        ({"shard": (0, 3)}, "the last batch of 10 images has 2, too few for 3 workers"),
        ({"shard": (0, 5)}, "a batch of 4 cannot be shared among 5 workers"),
        ({"batch_size": 11, "drop_remainder": True}, "10 images make no full batch of 11"),
        ({"cache": "ram"}, "cache: expected off, memory, disk or auto, got 'ram'"),
    ],
)
def test_calls_that_cannot_be_met_say_why(source: Source, changes: dict, message: str):
    with pytest.raises(CallError, match=message):
        run(source, **changes)


def test_a_image_that_breaks_in_the_middle_of_an_epoch_is_named(folder: Folder):
    root = folder("cat/1.png", "cat/2.png", "dog/1.png")
    source = open_source(root)
    (root / "cat" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/2\.png: is empty"), own_errors():
        list(batches(source, range(3), IMAGE, batch_size=2))


def test_the_augmentation_of_a_spec_is_repeatable_wherever_a_run_goes_on(source: Source):
    augment = compile_augment([("RandomFlip", {}), ("RandomRotation", {"factor": 0.3})], IMAGE, 3)
    once = run(source, augment=augment)
    assert_same(once[4:], run(source, augment=augment, first_epoch=1, first_step=1, epochs=2, threads=1))
    shares = [run(source, augment=augment, shard=(worker, 2)) for worker in range(2)]
    joined = [[np.concatenate(column) for column in zip(*step, strict=True)] for step in zip(*shares, strict=True)]
    assert_same(joined, once)
    first, second = (np.concatenate([batch[0] for batch in once[start : start + 3]]) for start in (0, 3))
    assert not np.array_equal(np.sort(first, axis=None), np.sort(second, axis=None))


def test_a_model_trains_on_the_batches(source: Source):
    import keras

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(
        batches(source, range(10), IMAGE, batch_size=4, shuffle=True), epochs=2, shuffle=False, verbose=0
    )
    assert len(history.history["loss"]) == 2


def test_blending_goes_with_one_hot_targets_and_is_refused_with_sparse_ones(source: Source):
    augment = compile_augment([("MixUp", {})], IMAGE, 1)
    labels = arrays(batches(source, range(9), IMAGE, batch_size=3, augment=augment, targets="one_hot"), 1)
    assert np.allclose(labels.sum(axis=1), 1)
    assert ((labels > 0) & (labels < 1)).any()
    with pytest.raises(CallError, match="MixUp blends labels"):
        batches(source, range(9), IMAGE, batch_size=3, augment=augment)


USED_AT_EXIT = """
import time
import numpy as np
from kerasimg.data import pipeline
from kerasimg.data.shuffling import Order

class Slow:
    order = Order(2, 2, False, 0, False, (0, 1))
    at_once = 2
    signature = [((), np.dtype(np.float32))]

    def load(self, number):
        time.sleep(0.2)
        return (np.full(2, number, np.float32),)

images = iter(pipeline.feed(Slow(), 0, None, lambda pixels: (pixels,)))
print(next(images)[0].numpy())
"""


def test_a_program_that_ends_while_it_uses_a_dataset_ends():
    done = subprocess.run([sys.executable, "-c", USED_AT_EXIT], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "[0. 0.]\n"), done.stderr
