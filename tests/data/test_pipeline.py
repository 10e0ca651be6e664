from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from kerasimg.data import pipeline
from kerasimg.data.augment import make_augment
from kerasimg.data.decode import decode
from kerasimg.data.pipeline import TARGETS, Targets, batches
from kerasimg.data.sources import Source, open_source
from kerasimg.errors import CallError
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
    assert set(TARGETS) == set(get_args(Targets))


@pytest.mark.parametrize("cache", [True, False])
def test_batches_hold_the_pictures_in_order_as_float32(source: Source, cache: bool):
    dataset = batches(source, [7, 2, 9], IMAGE, batch_size=2, cache=cache)
    for _ in range(2):
        images = arrays(dataset)
        assert images.dtype == np.float32
        assert np.array_equal(images, PIXELS[[7, 2, 9]])
        assert arrays(dataset, 1).tolist() == [1, 2, 0]
    assert dataset.element_spec[0].shape.as_list() == [None, 6, 5, 3]


@pytest.mark.parametrize(("drop", "steps"), [(False, 3), (True, 2)])
def test_the_number_of_batches_is_known(source: Source, drop: bool, steps: int):
    for augment in (None, make_augment([])):
        dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, augment=augment, drop_remainder=drop)
        assert dataset.cardinality().numpy() == steps == len(list(dataset))
    assert dataset.element_spec[0].shape[0] == (4 if drop else None)


@pytest.mark.parametrize("cache", [True, False])
def test_each_epoch_is_another_permutation_of_all_and_repeatable(source: Source, cache: bool):
    def epochs(seed: int) -> list[list[float]]:
        dataset = batches(source, range(10), IMAGE, batch_size=3, shuffle=True, seed=seed, cache=cache)
        return [arrays(dataset)[:, 0, 0, 0].tolist() for _ in range(3)]

    first = epochs(0)
    assert all(sorted(epoch) == sorted(PIXELS[:, 0, 0, 0].tolist()) for epoch in first)
    assert first[0] != first[1] != first[2]
    assert epochs(0) == first != epochs(1)


def test_shuffled_pictures_keep_their_labels_and_weights(source: Source):
    weights = LABELS * 10.0
    dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True, sample_weight=weights)
    of_picture = {PIXELS[index].tobytes(): LABELS[index] for index in range(10)}
    for images, labels, weight in dataset:
        for row in range(len(images)):
            assert of_picture[images[row].numpy().astype(np.uint8).tobytes()] == labels[row]
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
    with pytest.raises(CallError, match="no pictures"):
        batches(source, [], IMAGE, batch_size=1)
    with pytest.raises(CallError, match=r"expected 1 sample weights, got shape \(2,\)"):
        batches(source, [0], IMAGE, batch_size=1, sample_weight=[1, 2])


@pytest.mark.parametrize(("free", "decoded"), [(2 * 10 * 90 / 0.4, 10), (10 * 90 / 0.4 - 1, 20)])
def test_pictures_are_kept_when_they_fit(source: Source, monkeypatch: pytest.MonkeyPatch, free: float, decoded: int):
    calls = []
    monkeypatch.setattr(pipeline, "free_bytes", lambda: free)
    monkeypatch.setattr(pipeline, "decode", lambda *args: calls.append(args) or decode(*args))
    dataset = batches(source, range(10), IMAGE, batch_size=4, shuffle=True)
    assert [len(arrays(dataset)) for _ in range(2)] == [10, 10]
    assert len(calls) == decoded


def test_a_picture_that_breaks_in_the_middle_of_an_epoch_is_named(folder: Folder):
    import tensorflow as tf

    root = folder("cat/1.png", "cat/2.png", "dog/1.png")
    source = open_source(root)
    (root / "cat" / "2.png").write_bytes(b"")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"cat/2\.png: is empty"):
        list(batches(source, range(3), IMAGE, batch_size=2))


def test_augmentation_is_repeatable_and_differs_from_epoch_to_epoch(source: Source):
    import keras

    def epochs() -> list[np.ndarray]:
        augment = make_augment([keras.layers.RandomFlip(seed=1), keras.layers.RandomRotation(0.3, seed=2)])
        dataset = batches(source, range(10), IMAGE, batch_size=3, shuffle=True, seed=5, augment=augment)
        return [arrays(dataset) for _ in range(2)]

    once, again = epochs(), epochs()
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])
    assert not np.array_equal(np.sort(once[0], axis=None), np.sort(once[1], axis=None))
    assert not np.array_equal(once[0].astype(np.uint8), PIXELS)


def test_a_model_trains_on_the_batches(source: Source):
    import keras

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(
        batches(source, range(10), IMAGE, batch_size=4, shuffle=True), epochs=2, shuffle=False, verbose=0
    )
    assert len(history.history["loss"]) == 2


def test_blending_goes_with_one_hot_targets_and_is_refused_with_sparse_ones(source: Source):
    import keras

    augment = make_augment([keras.layers.MixUp(seed=1)])
    labels = arrays(batches(source, range(9), IMAGE, batch_size=3, augment=augment, targets="one_hot"), 1)
    assert np.allclose(labels.sum(axis=1), 1)
    assert ((labels > 0) & (labels < 1)).any()
    with pytest.raises(CallError, match="MixUp blends labels"):
        batches(source, range(9), IMAGE, batch_size=3, augment=augment)
