"""Features that are computed once or in every epoch train the model as images would."""

import re
from collections.abc import Mapping
from itertools import chain, islice, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg import remembered
from kerasimg.data.augment import compile_augment
from kerasimg.data.pipeline import batches
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, Interrupted
from kerasimg.evaluation.evaluate import Chosen, image_batches
from kerasimg.models import inference
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image
from kerasimg.training import feature_rows
from kerasimg.training import features as features_module
from kerasimg.training.deadline import Deadline, Interruption
from kerasimg.training.features import FeaturePlan, StageData, passes_by_features, plan_features

TENSORFLOW = keras.backend.backend() == "tensorflow"

layers = keras.layers
IMAGE = Image(size=[8, 8])
FLIP = [("RandomFlip", {"mode": "horizontal"}), ("RandomRotation", {"factor": 0.1})]
MIXUP = [("RandomFlip", {"mode": "horizontal"}), ("MixUp", {"alpha": 0.4})]
PARTS = {"train": np.arange(2, 25), "validation": np.array([0, 1, 25, 26, 27])}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    return tmp_path / "features"


@pytest.fixture(scope="module")
def source() -> Source:
    random = np.random.default_rng(3)
    labels = np.arange(28) % 3
    images = random.integers(0, 80, (28, 8, 8, 3)) + labels[:, None, None, None] * 60
    return open_source((images.astype("uint8"), labels))


@pytest.fixture
def model() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, padding="same", trainable=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization(trainable=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def planned(model: keras.Model, source: Source, **options: Any) -> FeaturePlan:
    settings = {"precision": "folded"} | {
        name: options.pop(name) for name in ("mode", "views", "precision") if name in options
    }
    return plan_features(
        model, StageData(source, PARTS, IMAGE, **{"batch_size": 4, "epochs": 3, **options}), **settings
    )


def pairs(dataset: Any) -> list[tuple[np.ndarray, ...]]:
    return [tuple(np.asarray(part) for part in batch) for batch in dataset]


def plain(model: keras.Model, dataset: Any) -> list[tuple[np.ndarray, ...]]:
    """Returns the features that Keras computes for these images, with labels and weights."""
    from kerasimg.models.split_model import split_frozen

    frozen = split_frozen(model).frozen
    return [(np.asarray(frozen(x, training=False)), *map(np.asarray, rest)) for x, *rest in dataset]


def assert_same(result: list[Any], wanted: list[Any], tolerance: float = 2e-3) -> None:
    assert len(result) == len(wanted)
    for item, other in zip(result, wanted, strict=True):
        np.testing.assert_allclose(item[0], other[0], atol=tolerance)
        for mine, theirs in zip(item[1:], other[1:], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)


MODES: Mapping[str, tuple[dict[str, Any], str]] = {
    "no augmentation": ({}, "cached"),
    "augmentation": ({"augment": FLIP}, "fresh"),
    "views": ({"augment": FLIP, "views": 2}, "cached"),
    "blended views": ({"augment": MIXUP, "views": 2, "targets": "one_hot"}, "cached"),
    "blended": ({"augment": MIXUP, "targets": "one_hot"}, "fresh"),
    "asked for": ({"augment": FLIP, "views": 2, "mode": "fresh"}, "fresh"),
}


@pytest.mark.parametrize("name", MODES)
def test_auto_is_cached_without_augmentation_or_with_views_and_fresh_otherwise(model: Any, source: Any, name: str):
    options, mode = MODES[name]
    plan = planned(model, source, **options)
    assert plan.mode == mode
    assert plan.line.startswith(f"features: {mode}")
    assert plan.steps_per_execution == (6 if mode == "cached" else 1)
    assert plan.model is not model
    assert plan.figures["precision"] == "folded"


def test_ctrl_c_ends_the_computing_of_features_and_stores_those_so_far(
    model: Any, source: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(feature_rows, "_batch_size", lambda image: 10)
    asked = Interruption()
    asked.asked = True
    with pytest.raises(Interrupted, match="interrupted while the features of the training images were computed"):
        planned(model, source, deadline=Deadline(interruption=asked))
    resumed = planned(model, source)
    assert resumed.figures["train_features"]["found"] == 10


@pytest.mark.parametrize("name", ["no augmentation", "augmentation", "blended"])
def test_an_epoch_of_features_equals_the_images_through_the_frozen_part(model: Any, source: Any, name: str):
    options, _ = MODES[name]
    weights = np.linspace(0.5, 2, 23, dtype=np.float32)
    plan = planned(model, source, seed=5, sample_weight=weights, **options)
    targets = options.get("targets", "sparse")
    augment = compile_augment(options.get("augment", ()), IMAGE, 5)
    common: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 5, "augment": augment, "targets": targets}
    images = batches(
        source, PARTS["train"], IMAGE, sample_weight=weights, exact=False, first_epoch=1, epochs=2, **common
    )
    assert_same(pairs(plan.train(first_epoch=1, epochs=2)), plain(model, images))
    assert_same(
        pairs(plan.validation()),
        plain(model, batches(source, PARTS["validation"], IMAGE, batch_size=4, targets=targets)),
    )


@pytest.mark.parametrize("name", ["views", "blended views"])
def test_each_image_is_seen_in_every_view_in_turn_with_the_labels_of_that_view(model: Any, source: Any, name: str):
    options, _ = MODES[name]
    plan = planned(model, source, seed=5, **options)
    targets = options.get("targets", "sparse")
    augment = compile_augment(options["augment"], IMAGE, 5)
    common: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 5, "augment": augment, "targets": targets}
    for epoch in (0, 1):
        images = batches(source, PARTS["train"], IMAGE, first_epoch=epoch, **common)
        assert_same(pairs(plan.train(first_epoch=epoch)), plain(model, images))
    third = np.concatenate([x for x, _ in pairs(plan.train(first_epoch=2))])
    first = np.concatenate([x for x, _ in pairs(plan.train(first_epoch=0))])
    assert not np.array_equal(third, first)  # in another order
    np.testing.assert_array_equal(np.sort(third[:, 0]), np.sort(first[:, 0]))


@pytest.mark.parametrize("name", ["no augmentation", "augmentation"])
def test_batches_depend_only_on_the_arguments(model: Any, source: Any, name: str):
    plan = planned(model, source, **MODES[name][0])
    whole = pairs(plan.train(epochs=2))
    finite = plan.train(epochs=2)
    assert len(whole) == 12 == (finite.cardinality() if TENSORFLOW else finite.num_batches)
    assert_same(pairs(plan.train(epochs=2)), whole, 0)
    assert_same(pairs(plan.train(first_epoch=1, first_step=2)), whole[8:], 0)
    assert_same(pairs(islice(plan.train(first_step=4, epochs=None), 8)), whole[4:], 0)
    assert len(pairs(plan.train(drop_remainder=True))) == 5
    shards = [pairs(plan.train(shard=(k, 2))) for k in (0, 1)]
    joined = [tuple(map(np.concatenate, zip(*both, strict=True))) for both in zip(*shards, strict=True)]
    assert_same(joined, whole[:6], 1e-5)


def test_a_later_run_reuses_features_and_computes_only_new_images(model: Any, source: Any):
    first = planned(model, source)
    assert first.figures["train_features"]["computed"] == 23
    again = planned(model, source, seed=9, batch_size=7)
    assert again.figures["train_features"] | {"seconds": 0} == {
        **first.figures["train_features"],
        "found": 23,
        "computed": 0,
        "seconds": 0,
    }
    other = plan_features(model, StageData(source, {"train": np.arange(28)}, IMAGE), precision="folded")
    assert (other.rows["train"].reused, other.rows["train"].computed) == (28, 0)
    np.testing.assert_array_equal(other.rows["train"].parts[0][2:25], first.rows["train"].parts[0])


def test_features_are_computed_again_if_anything_they_depend_on_changes(model: Any, source: Any):
    views: dict[str, Any] = {"augment": FLIP[:1], "views": 2}
    planned(model, source, **views)
    assert planned(model, source, **views).rows["train"].computed == 0
    others: list[dict[str, Any]] = [{"seed": 1}, {"precision": "plain"}, {"augment": MIXUP, "targets": "one_hot"}]
    for change in others:
        assert planned(model, source, **{**views, **change}).rows["train"].reused == 0
    data = StageData(source, PARTS, Image(size=[8, 8], interpolation="nearest"))
    plan = plan_features(model, data, precision="folded")
    assert plan.rows["validation"].reused == 0
    kernel = model.layers[2].kernel
    kernel.assign(kernel * 1.01)
    assert planned(model, source).rows["validation"].reused == 0


def test_a_run_killed_while_computing_features_continues_with_the_same_numbers(
    model: Any, source: Any, monkeypatch: Any
):
    whole = planned(model, source).rows["train"].parts[0]
    monkeypatch.setattr(feature_rows, "BATCH", 5)
    monkeypatch.setattr(feature_rows, "ROWS_PER_FILE", 5)
    monkeypatch.setattr(feature_rows, "version", lambda name: "another")  # so that nothing is found
    original = feature_rows._keep
    times = iter([True, True, False])

    def killed(*arguments: Any) -> bool:
        if not next(times):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(feature_rows, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        planned(model, source)
    monkeypatch.setattr(feature_rows, "_keep", original)
    rows = planned(model, source).rows["train"]
    assert (rows.reused, rows.computed) == (10, 13)
    np.testing.assert_array_equal(rows.parts[0], whole)


def test_a_damaged_file_is_computed_again(model: Any, source: Any, cache: Path):
    planned(model, source)
    paths = sorted(cache.glob("*/*.features"))
    assert len(paths) == 2
    for path in paths:
        content = bytearray(path.read_bytes())
        content[-3] ^= 255
        path.write_bytes(bytes(content))
    assert planned(model, source).rows["train"].computed == 23


def test_values_beyond_float16_are_stored_as_float32(source: Any):
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1000.0)(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, trainable=False)(x))
    big = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    assert planned(big, source).rows["train"].parts[0].dtype == np.float32


def test_a_value_beyond_float16_that_the_check_did_not_see_makes_all_float32(model: Any, source: Any):
    frozen = layers.Conv2D(1, 1, trainable=False, kernel_initializer="ones")
    wide = keras.Model(model.input, layers.Dense(3)(layers.Flatten()(frozen(layers.Rescaling(300.0)(model.input)))))
    plan = planned(wide, source)
    assert plan.rows["train"].parts[0].dtype == np.float32
    rows = feature_rows.rows_of(
        feature_rows.Recipe(plan.engine, IMAGE, "float16"), source, PARTS["train"], 1, "off", "images"
    )
    np.testing.assert_array_equal(rows.parts[0], plan.rows["train"].parts[0])


class Own(keras.layers.Layer):
    """A layer of a program's own."""

    factor = 1.0

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


@pytest.mark.parametrize("place", ["frozen", "augment"])
def test_what_an_own_layer_computed_is_not_used_for_another(
    place: str, model: Any, source: Any, monkeypatch: pytest.MonkeyPatch
):
    def plan() -> FeaturePlan:
        if place == "augment":
            return planned(model, source, augment=[("Own", {})], views=1)
        image = keras.Input((8, 8, 3))
        return planned(keras.Model(image, model(Own()(image))), source)

    kerasimg.register(Own)
    first = plan()
    assert first.figures["train_features"]["computed"] == 23
    monkeypatch.setattr(Own, "factor", 0.5)
    second = plan()
    assert second.figures["train_features"]["computed"] == 23
    assert np.abs(first.rows["train"].parts[0] - second.rows["train"].parts[0]).max() > 0.01


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_blended_labels_keep_their_shape(name: str, model: Any):
    random = np.random.default_rng(3)
    two = open_source((random.integers(0, 255, (28, 8, 8, 3)).astype("uint8"), np.arange(28) % 2))
    plan = planned(model, two, augment=[(name, {})], views=2, targets="binary")
    labels = np.concatenate([y for _, y in pairs(plan.train())])
    assert labels.shape == (23, 1)
    assert ((labels > 0.01) & (labels < 0.99)).any()


def test_training_the_plan_trains_the_model(model: Any, source: Any):
    plan = planned(model, source)
    frozen = [np.asarray(weight) for weight in model.non_trainable_weights]
    plan.model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    plan.model.fit(
        plan.train(epochs=None),
        steps_per_epoch=6,
        epochs=30,
        validation_data=plan.validation(),
        shuffle=False,
        verbose=0,
    )
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    _, accuracy = model.evaluate(batches(source, PARTS["train"], IMAGE, batch_size=4), verbose=0)
    assert accuracy > 0.9
    for before, weight in zip(frozen, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(before, np.asarray(weight))


def test_off_trains_the_whole_model_on_images(model: Any, source: Any):
    plan = planned(model, source, mode="off", augment=FLIP)
    assert (plan.model, plan.line, plan.steps_per_execution) == (model, "", None)
    assert pairs(plan.train())[0][0].shape == (4, 8, 8, 3)
    assert len(pairs(plan.validation())) == 2


def test_without_a_frozen_part_auto_logs_the_reason_and_a_required_mode_is_refused(model: Any, source: Any):
    for layer in model.layers:
        layer.trainable = True
    plan = planned(model, source)
    assert plan.mode == "off"
    assert plan.line == "features: off, for no layer with weights is frozen before the first that trains"
    with pytest.raises(CallError, match="no layer with weights is frozen"):
        planned(model, source, mode="cached")


def test_cached_with_augmentation_needs_views(model: Any, source: Any):
    with pytest.raises(CallError, match="needs fit\\.views"):
        planned(model, source, mode="cached", augment=FLIP)


def test_a_small_frozen_part_is_not_split_off(source: Any):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1, trainable=False)(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3)(x))
    plan = planned(keras.Model(image, layers.Dense(3, activation="softmax")(x)), source)
    assert plan.mode == "off"
    assert "of the work" in plan.line


def test_a_stage_with_the_end_of_the_backbone_unfrozen_has_its_own_seam(model: Any, source: Any):
    first = planned(model, source)
    model.layers[-5].trainable = True  # the last convolution
    second = planned(model, source, mode="cached")
    assert first.engine.split.shapes == [(16,)]
    assert second.engine.split.shapes == [(8, 8, 8)]
    assert len(second.model.trainable_variables) == 4
    assert_same(
        pairs(second.validation()), plain(model, batches(source, PARTS["validation"], IMAGE, batch_size=4)), 4e-3
    )


def test_the_log_estimates_how_long_features_take(
    model: Any, source: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(feature_rows, "REPORT_S", -1.0)
    monkeypatch.setattr(feature_rows, "BATCH", 4)
    with caplog.at_level("INFO"):
        planned(model, source)
    reports = [record.getMessage() for record in caplog.records if " left" in record.getMessage()]
    assert re.match(r"features of training images: 16 of 23, [\d,.]+ images/s, about \d+ s left", reports[0]), reports


def test_an_estimate_does_not_include_the_compilation(
    model: Any, source: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # The start, twice; six batches, the first two with 90 s of compilation; then whatever else is timed.
    clock = chain([0.0, 0.0, 90.0, 91.0, 100.0, 111.0, 112.0, 113.0], repeat(113.0))
    monkeypatch.setattr(feature_rows, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(feature_rows, "BATCH", 4)
    with caplog.at_level("INFO"):
        planned(model, source)
    reports = [record.getMessage() for record in caplog.records if "training images" in record.getMessage()]
    assert reports == [
        "computing features of 23 training images",
        "features of training images: 4 of 23",
        "features of training images: 12 of 23",
        "features of training images: 16 of 23, 0.4 images/s, about 18 s left",
    ]


def classifier_of(model: keras.Model) -> Classifier:
    spec = SimpleNamespace(image=IMAGE, task="multiclass", fit=SimpleNamespace(flips="off"))
    return Classifier(model, spec, ("0", "1", "2"))


def test_the_features_of_a_head_come_from_those_of_the_frozen_part(model: Any, source: Any, cache: Path):
    classifier = classifier_of(model)
    plan = planned(model, source, mode="cached", precision="folded")
    assert passes_by_features(classifier, {"features": "off"}, "auto") is None
    features = passes_by_features(classifier, {**plan.figures, "features": plan.mode}, "auto").draft
    found = features(Chosen(source, PARTS["validation"], "validation"))
    pixels = np.concatenate([batch[0] for batch in plain_images(source, PARTS["validation"])])
    values = classifier_of(model).values(pixels)
    np.testing.assert_allclose(found, values.features, rtol=2e-3, atol=2e-3)  # stored as float16
    # They have the key of the validation images' features, so those are read from the cache.
    about = feature_rows.Recipe(plan.engine, IMAGE, "float16").about(source, PARTS["validation"])
    [folder] = cache.iterdir()
    assert feature_rows.Store(about).place == folder


def test_images_that_no_source_has_are_asked_once(model: Any, source: Any):
    plan = planned(model, source, mode="cached", precision="folded")
    recipe = feature_rows.Recipe(plan.engine, IMAGE, "float16")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    draft = passes_by_features(classifier_of(model), {**plan.figures, "features": plan.mode}, "auto").draft
    expected = classifier_of(model).values(pixels).features
    np.testing.assert_allclose(draft(pixels), expected, rtol=2e-3, atol=2e-3)
    asked: list[int] = []
    compute = plan.engine.compute
    # What fills a batch is black.
    plan.engine.compute = lambda images: asked.append(int(images.any(axis=(1, 2, 3)).sum())) or compute(images)
    others = np.concatenate([pixels[::-1], 255 - pixels[:1]])
    [again] = feature_rows.rows_of_pixels(recipe, others)
    assert asked == [1]
    np.testing.assert_array_equal(again[:5], feature_rows.rows_of_pixels(recipe, pixels)[0][::-1])
    np.testing.assert_array_equal(again, feature_rows.rows_of_pixels(recipe, others)[0])
    assert asked == [1]


def test_an_evaluation_asks_a_frozen_part_once_for_each_image(model: Any, source: Any, monkeypatch: Any):
    monkeypatch.setattr(feature_rows, "BATCH", 1)  # several at once
    plan = planned(model, source, mode="cached", precision="folded")
    notes = {**plan.figures, "features": plan.mode}
    images = Chosen(source, PARTS["validation"], "test")
    expected = classifier_of(model).answer(image_batches(classifier_of(model), source, images.indices), [1, 4])
    classifier = classifier_of(model)
    found = classifier.answer_from(passes_by_features(classifier, notes, "auto").exact(images), [1, 4])
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-5)
    assert found.features.shape == (2, 16)
    # The next run has another head on the same frozen part.
    model.layers[-1].kernel.assign(-model.layers[-1].kernel)
    monkeypatch.setattr(feature_rows.Exact, "compute", None)
    again = passes_by_features(classifier_of(model), notes, "auto").exact(images)
    np.testing.assert_allclose(
        again.outputs, classifier_of(model).values(pixels_of(source, images.indices)).outputs, atol=1e-6
    )
    monkeypatch.undo()
    frozen = model.layers[2]
    frozen.kernel.assign(2 * frozen.kernel)
    other = classifier_of(model)
    changed = passes_by_features(other, notes, "auto").exact(images)
    np.testing.assert_allclose(changed.outputs, other.values(pixels_of(source, images.indices)).outputs, atol=1e-5)
    assert np.abs(changed.features - again.features).max() > 1e-3


def test_a_trained_classifier_uses_the_pass_of_its_frozen_part(model: Any, source: Any):
    plan = planned(model, source, mode="cached", precision="folded")
    classifier, alone = classifier_of(model), classifier_of(model)
    passes_by_features(classifier, {**plan.figures, "features": plan.mode}, "auto")
    pixels = pixels_of(source, PARTS["train"])
    for kind in (0, 1):
        np.testing.assert_allclose(classifier.values(pixels)[kind], alone.values(pixels)[kind], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(pixels), model.predict(pixels, verbose=0), atol=1e-5)


def test_the_frozen_part_is_compared_with_the_whole_model_once(model: Any, source: Any, monkeypatch: Any):
    settled: list[Any] = []
    settle = features_module.settle
    monkeypatch.setattr(features_module, "settle", lambda *a, **k: settled.append(settle(*a, **k)) or settled[-1])
    options: dict[str, Any] = {"mode": "cached", "precision": "auto"}
    first, second = planned(model, source, **options), planned(model, source, **options)
    assert len(settled) == 1
    assert second.figures["engine"] == first.figures["engine"]
    assert second.figures["engine"]["agreement"]["same_first"]
    images = pixels_of(source, PARTS["train"])
    np.testing.assert_array_equal(second.engine.compute(images)[0], first.engine.compute(images)[0])
    # Anything that the comparison depends on: the head, the images, the requested form.
    model.layers[-1].bias.assign(model.layers[-1].bias + 1)
    planned(model, source, **options)
    plan_features(model, StageData(source, {"train": np.arange(20)}, IMAGE, batch_size=4, epochs=3), mode="cached")
    planned(model, source, mode="cached", precision="plain")
    assert len(settled) == 4
    assert len(remembered.remove_older()) == 4
    planned(model, source, **options)
    assert len(settled) == 5


def test_a_fallback_at_the_seam_is_remembered_with_its_reason(model: Any, source: Any, monkeypatch: Any):
    monkeypatch.setitem(inference.TOLERANCE, "folded", -1.0)
    monkeypatch.setattr(inference, "has_bfloat16", lambda: False)
    first = planned(model, source, mode="cached", precision="auto")
    assert first.engine.form == "plain"
    monkeypatch.setattr(features_module, "settle", None)
    second = planned(model, source, mode="cached", precision="auto")
    assert (second.engine.form, second.engine.said) == ("plain", first.engine.said)
    assert "so it is not used" in second.line


def pixels_of(source: Source, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([batch[0] for batch in plain_images(source, indices)])


def plain_images(source: Source, indices: np.ndarray) -> Any:
    return (tuple(map(np.asarray, batch)) for batch in batches(source, indices, IMAGE, batch_size=4, exact=False))
