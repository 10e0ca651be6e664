from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.data.sources import Source, open_source
from kerasimg.errors import DataError
from kerasimg.training.counting import label_weights, picture_weights


def arrays(counts: tuple[int, ...]) -> Source:
    labels = np.repeat(np.arange(len(counts)), counts)
    return open_source((np.zeros((len(labels), 4, 4, 3), "uint8"), labels))


def spec(tiny: Any, **fit: Any) -> Any:
    return kerasimg.load(tiny(fit=fit), num_classes=2)


@pytest.mark.parametrize(("kind", "rare", "common"), [("balanced", 2.5, 0.625), ("sqrt", 2.5**0.5, 0.625**0.5)])
def test_rare_classes_count_more(tiny: Any, kind: str, rare: float, common: float):
    weights = picture_weights(spec(tiny, class_weight=kind), arrays((8, 2)), np.array([9, 0, 8, *range(1, 8)]))
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights[:3] == pytest.approx([rare, common, rare])


def test_all_count_alike_where_nothing_is_said(tiny: Any):
    assert picture_weights(spec(tiny), arrays((8, 2)), np.arange(10)) is None


@pytest.fixture
def manifest(tmp_path: Path, pictures: Any) -> Any:
    pictures(tmp_path, {"red": 2, "blue": 2})

    def write(*weights: str) -> Source:
        files = ["red/00.png", "red/01.png", "blue/00.png", "blue/01.png"]
        rows = [f"{file},{file.split('/')[0]},{weight}" for file, weight in zip(files, weights, strict=True)]
        (tmp_path / "all.csv").write_text("\n".join(["path,label,care", *rows]) + "\n")
        return open_source(tmp_path / "all.csv")

    return write


def test_a_column_of_the_manifest_says_how_much_a_picture_counts(tiny: Any, manifest: Any):
    source = manifest("1", "0.5", "2", "0")
    found = picture_weights(spec(tiny, sample_weight="care"), source, np.array([3, 2, 1]))
    assert found == pytest.approx([0, 2, 0.5])


def test_the_weight_of_the_class_and_that_of_the_picture_are_multiplied(tiny: Any, manifest: Any):
    source = manifest("1", "3", "1", "1")
    found = picture_weights(spec(tiny, sample_weight="care", class_weight="balanced"), source, np.array([0, 1, 2]))
    assert found == pytest.approx([0.75, 2.25, 1.5])


def test_a_picture_without_a_number_is_named(tiny: Any, manifest: Any):
    with pytest.raises(DataError) as caught:
        picture_weights(spec(tiny, sample_weight="care"), manifest("1", "-1", "much", ""), np.arange(4))
    told = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1] for line in told[:2]] == [
        "red/01.png: expected a number >= 0 as its 'care', found '-1'",
        "blue/00.png: expected a number >= 0 as its 'care', found 'much'",
    ]


def test_a_column_that_is_not_there_is_told_once(tiny: Any):
    with pytest.raises(DataError, match="names the column 'care', which no picture has a number in; only a manifest"):
        picture_weights(spec(tiny, sample_weight="care"), arrays((2, 2)), np.arange(4))


def test_of_several_labels_each_counts_for_its_own(tiny: Any):
    hot = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
    source = open_source((np.zeros((4, 4, 4, 3), "uint8"), hot), "multilabel")
    several = kerasimg.load(tiny(task="multilabel", fit={"class_weight": "balanced"}), num_classes=2)
    found = label_weights(several, source, np.arange(4))
    assert found is not None
    np.testing.assert_allclose(found, [[2, 4 / 6], [4 / 6, 2]])
    assert picture_weights(several, source, np.arange(4)) is None
