"""Batches of arrays in memory equal those of tf.data bit for bit."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasimg.data.cache import Cache
from kerasimg.data.loading import Loader
from kerasimg.data.pipeline import TARGETS, Targets
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.spec.document import Image
from kerasimg.training import array_batches
from kerasimg.training.features import FeaturePlan, StageData, plan_features

layers = keras.layers
IMAGE = Image(size=[8, 8])
PARTS = {"train": np.arange(2, 25), "validation": np.array([0, 1, 25, 26, 27])}
WEIGHTS = np.linspace(0.5, 2, 23, dtype=np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def source() -> Source:
    images = np.random.default_rng(3).integers(0, 256, (28, 8, 8, 3))
    return open_source((images.astype("uint8"), np.arange(28) % 2))


@pytest.fixture
def model() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", trainable=False)(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, trainable=False)(x))
    return keras.Model(image, layers.Dense(2, activation="softmax")(x))


def planned(model: keras.Model, source: Source, **options: Any) -> FeaturePlan:
    settings = {"precision": "folded"} | {name: options.pop(name) for name in ("mode", "views") if name in options}
    return plan_features(model, StageData(source, PARTS, IMAGE, **{"batch_size": 4, **options}), **settings)


def arrays(batches: Any) -> list[list[np.ndarray]]:
    return [[np.asarray(part) for part in batch] for batch in batches]


def same(result: Any, wanted: Any) -> bool:
    result, wanted = arrays(result), arrays(wanted)
    return len(result) == len(wanted) and all(
        item.dtype == other.dtype and np.array_equal(item, other)
        for batch, expected in zip(result, wanted, strict=True)
        for item, other in zip(batch, expected, strict=True)
    )


@pytest.mark.parametrize("mode", ["off", "cached"])
@pytest.mark.parametrize("targets", ["sparse", "one_hot", "binary"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_every_batch_equals_that_of_tf_data(model: Any, source: Source, mode: Any, targets: Targets, weights: Any):
    options = {"mode": mode, "targets": targets, "sample_weight": weights, "seed": 5}
    plan, other = (planned(model, source, as_arrays=yes, **options) for yes in (True, False))
    place = {"first_epoch": 3, "first_step": 2, "epochs": 2}
    assert isinstance(plan.train(**place), array_batches.Batches)
    assert isinstance(plan.validation(), array_batches.Batches)
    assert same(plan.train(**place), other.train(**place))
    assert same(plan.validation(), other.validation())


def test_views_take_turns(model: Any, source: Source):
    options = {"mode": "cached", "views": 2, "epochs": 4, "augment": [("RandomFlip", {})]}
    plan, other = (planned(model, source, as_arrays=yes, **options) for yes in (True, False))
    assert same(plan.train(epochs=4), other.train(epochs=4))


@pytest.mark.parametrize("targets", TARGETS)
def test_labels_of_all_images_equal_those_of_the_batches(targets: Targets):
    labels = np.array([[0, 1], [1, 1], [0, 0]], np.uint8) if targets == "multi_hot" else np.array([0, 1, 1])
    result, wanted = array_batches.as_targets(labels, targets, 2), np.asarray(TARGETS[targets](tf.constant(labels), 2))
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


def test_images_that_are_augmented_or_read_during_training_come_through_tf_data(
    model: Any, source: Source, colours: Any, tmp_path: Path
):
    augmented = planned(model, source, mode="off", as_arrays=True, augment=[("RandomFlip", {})])
    assert not isinstance(augmented.train(), array_batches.Batches)
    files = open_source(colours)
    parts = {"train": np.arange(len(files))}
    cache = Cache("memory")
    plan = plan_features(model, StageData(files, parts, IMAGE, cache=cache, as_arrays=True), mode="off")
    assert not isinstance(plan.train(), array_batches.Batches)
    Loader(files, parts["train"], IMAGE, cache, exact=False).load(parts["train"])
    assert isinstance(plan.train(), array_batches.Batches)


def test_training_continues_over_the_end_of_an_epoch(model: Any, source: Source):
    plan = planned(model, source, mode="off", as_arrays=True)
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(
        plan.train(epochs=None),
        steps_per_epoch=6,
        epochs=2,
        validation_data=plan.validation(),
        shuffle=False,
        verbose=0,
    )
    assert len(history.history["val_loss"]) == 2
