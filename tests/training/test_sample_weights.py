from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.data.augment import compile_augment
from kerasimg.data.pipeline import batches
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError
from kerasimg.training.objective import WeightedLabels, image_weights, label_weights

SIGMOID = [{"layer": "Flatten"}, {"layer": "Dense", "units": "=head_units", "activation": "=head_activation"}]


def arrays(counts: tuple[int, ...]) -> Source:
    labels = np.repeat(np.arange(len(counts)), counts)
    return open_source((np.zeros((len(labels), 4, 4, 3), "uint8"), labels))


def spec(tiny: Any, **fit: Any) -> Any:
    return kerasimg.load(tiny(fit=fit), num_classes=2)


@pytest.mark.parametrize(("kind", "rare", "common"), [("balanced", 2.5, 0.625), ("sqrt", 2.5**0.5, 0.625**0.5)])
def test_rare_classes_have_larger_weights(tiny: Any, kind: str, rare: float, common: float):
    weights = image_weights(spec(tiny, class_weight=kind), arrays((8, 2)), np.array([9, 0, 8, *range(1, 8)]))
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights[:3] == pytest.approx([rare, common, rare])


def test_without_settings_there_are_no_weights(tiny: Any):
    assert image_weights(spec(tiny), arrays((8, 2)), np.arange(10)) is None


@pytest.fixture
def manifest(tmp_path: Path, images: Any) -> Any:
    images(tmp_path, {"red": 2, "blue": 2})

    def write(*weights: str) -> Source:
        files = ["red/00.png", "red/01.png", "blue/00.png", "blue/01.png"]
        rows = [f"{file},{file.split('/')[0]},{weight}" for file, weight in zip(files, weights, strict=True)]
        (tmp_path / "all.csv").write_text("\n".join(["path,label,care", *rows]) + "\n")
        return open_source(tmp_path / "all.csv")

    return write


def test_a_column_of_the_manifest_gives_the_sample_weights(tiny: Any, manifest: Any):
    source = manifest("1", "0.5", "2", "0")
    found = image_weights(spec(tiny, sample_weight="care"), source, np.array([3, 2, 1]))
    assert found == pytest.approx([0, 2, 0.5])


def test_the_weight_of_the_class_and_that_of_the_image_are_multiplied(tiny: Any, manifest: Any):
    source = manifest("1", "3", "1", "1")
    found = image_weights(spec(tiny, sample_weight="care", class_weight="balanced"), source, np.array([0, 1, 2]))
    assert found == pytest.approx([0.75, 2.25, 1.5])


def test_an_image_without_a_weight_is_named(tiny: Any, manifest: Any):
    with pytest.raises(DataError) as caught:
        image_weights(spec(tiny, sample_weight="care"), manifest("1", "-1", "much", ""), np.arange(4))
    lines = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1] for line in lines[:2]] == [
        "red/01.png: expected a number >= 0 as its 'care', found '-1'",
        "blue/00.png: expected a number >= 0 as its 'care', found 'much'",
    ]


def test_a_missing_column_is_reported_once(tiny: Any):
    with pytest.raises(DataError, match="names the column 'care', which no image has a number in; only a manifest"):
        image_weights(spec(tiny, sample_weight="care"), arrays((2, 2)), np.arange(4))


def test_several_labels_have_their_own_weights(tiny: Any):
    hot = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
    source = open_source((np.zeros((4, 4, 4, 3), "uint8"), hot), "multilabel")
    several = kerasimg.load(tiny(task="multilabel", model=SIGMOID, fit={"class_weight": "balanced"}), num_classes=2)
    found = label_weights(several, source, np.arange(4))
    assert found is not None
    np.testing.assert_allclose(found, [[2, 4 / 6], [4 / 6, 2]])
    assert image_weights(several, source, np.arange(4)) is None


@pytest.mark.parametrize("layer", ["MixUp", "CutMix"])
@pytest.mark.parametrize("targets", ["one_hot", "binary"])
def test_a_blended_image_blends_the_weights_of_both_images(tiny: Any, layer: str, targets: Any):
    counts = (90, 10)
    source = arrays(counts)
    order = np.arange(100)
    weights = image_weights(spec(tiny, class_weight="balanced"), source, order)
    image = kerasimg.load(tiny(image={"size": [4, 4]}), num_classes=2).image
    augment = compile_augment([(layer, {})], image, 0)
    common = {"batch_size": 50, "shuffle": True, "augment": augment, "targets": targets, "epochs": 12}
    total = np.zeros(2)
    plain = np.zeros(2)
    for _, y, w in batches(source, order, image, sample_weight=weights, **common):
        y, w = np.asarray(y), np.asarray(w)
        shares = np.hstack([1 - y, y]) if targets == "binary" else y
        assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
        total += (shares * w[:, None]).sum(axis=0)
        plain += w.sum() / 2
    # Each class has half the weight, as without blending; without the partner's weight it would be 0.73 to 0.27.
    np.testing.assert_allclose(total / total.sum(), [0.5, 0.5], atol=0.06)
    np.testing.assert_allclose(plain.sum(), 12 * weights.sum(), rtol=0.1)


def test_the_loss_of_a_blended_weighted_label_is_the_blend_of_two_losses():
    loss = WeightedLabels(np.array([[1.0, 0.5], [2.0, 4.0]]), keras.losses.BinaryCrossentropy(label_smoothing=0.1))
    predicted = np.array([[0.8, 0.3]])
    item, other = np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]])
    blended = float(loss(0.7 * item + 0.3 * other, predicted))
    assert blended == pytest.approx(0.7 * float(loss(item, predicted)) + 0.3 * float(loss(other, predicted)), rel=1e-5)
