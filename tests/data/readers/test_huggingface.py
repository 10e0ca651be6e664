import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

datasets = pytest.importorskip("datasets")

Encoded = Callable[[int], bytes]


@pytest.fixture
def make(encoded: Encoded):
    """make([0, 1]) is a dataset of images of these labels, dog and cat."""

    def dataset(labels: list, kind=None, first: int = 0):
        features = datasets.Features(
            {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=["dog", "cat"])}
        )
        rows = {"image": [{"bytes": encoded(first + row), "path": None} for row in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    return dataset


def test_a_dataset_gives_images_and_names_of_classes(make, encoded: Encoded):
    source = open_source(make([0, 1, 0]))
    assert (source.where, source.classes) == ("dataset", ("cat", "dog"))
    assert [(item.id, item.labels, item.part) for item in source.items] == [
        ("dataset[0]", ("dog",), None),
        ("dataset[1]", ("cat",), None),
        ("dataset[2]", ("dog",), None),
    ]
    assert [item.image for item in source.items] == [encoded(row) for row in range(3)]


def test_the_splits_are_the_parts(make, encoded: Encoded):
    splits = datasets.DatasetDict({"train": make([0, 1]), "validation": make([1], first=5), "extra": make([0])})
    source = open_source(splits)
    assert [(item.id, item.part) for item in source.items] == [
        ("train[0]", "train"),
        ("train[1]", "train"),
        ("validation[0]", "validation"),
        ("extra[0]", None),
    ]
    assert source.items[2].image == encoded(5)


def test_rows_that_were_chosen_and_shuffled_are_those_that_are_read(make, encoded: Encoded):
    whole = make([0, 1, 0, 1, 1])
    chosen = whole.select([4, 0, 2])
    source = open_source(chosen)
    assert [item.labels[0] for item in source.items] == ["cat", "dog", "dog"]
    assert [item.image for item in source.items] == [encoded(row) for row in (4, 0, 2)]
    assert (open_source(chosen).keys() == source.keys()).all()
    assert not set(source.keys().tolist()) & set(open_source(whole).keys().tolist())
    formatted = open_source(chosen.with_format("numpy"))
    assert formatted.items[0].image == encoded(4)


@pytest.mark.parametrize("several", [False, True])
def test_a_saved_folder_is_a_source(make, encoded: Encoded, tmp_path: Path, several: bool):
    data = datasets.DatasetDict({"train": make([0, 1]), "test": make([1])}) if several else make([0, 1])
    data.save_to_disk(tmp_path / "pets")
    source = open_source(tmp_path / "pets")
    assert source.where == str(tmp_path / "pets")
    assert [item.part for item in source.items] == (["train", "train", "test"] if several else [None, None])
    assert source.items[1].image == encoded(1)
    assert (open_source(tmp_path / "pets").keys() == source.keys()).all()


def test_images_of_pillow_and_paths_are_read(tmp_path: Path, encoded: Encoded):
    (tmp_path / "x.png").write_bytes(encoded(7))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})
    rows = {"img": [PIL.Image.new("RGB", (4, 3), (9, 9, 9)), str(tmp_path / "x.png"), None], "label": ["a", "b", "b"]}
    source = open_source(datasets.Dataset.from_dict(rows, features=features))
    assert decode(source.items[0].image, Image(size=[3, 4])).tolist() == [[[9, 9, 9]] * 4] * 3
    assert decode(source.items[1].image, Image(size=[3, 4]))[0, 0, 0] == 7
    with pytest.raises(BadImage, match=r"is empty \(null\)"):
        _ = source.items[2].image


def test_several_labels(make):
    kind = datasets.Sequence(datasets.ClassLabel(names=["red", "round"]))
    data = make([[0, 1], [], [1]], kind)
    assert open_source(data, "multilabel").label_ids().tolist() == [[1, 1], [0, 0], [0, 1]]
    with pytest.raises(DataError, match="dataset: dataset: image 0: expected one label, got 2"):
        open_source(data)


def test_labels_that_are_missing_are_faults_with_their_rows(make):
    with pytest.raises(DataError) as caught:
        open_source(datasets.DatasetDict({"train": make([0, None]), "test": make([-1], datasets.Value("int64"))}))
    assert str(caught.value) == "dataset: train[1].label: expected a label, found null"


def test_a_dataset_without_images_is_a_fault(make):
    with pytest.raises(DataError, match="holds no images"):
        open_source(make([]))
    with pytest.raises(DataError, match=r"dataset: dataset: expected a column with an image"):
        open_source(datasets.Dataset.from_dict({"text": ["x"], "label": [1]}))


def test_a_damaged_folder_is_a_fault(make, tmp_path: Path):
    with warnings.catch_warnings():
        make([0, 1]).save_to_disk(tmp_path / "pets")
    (tmp_path / "pets" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a folder of save_to_disk"):
        open_source(tmp_path / "pets")


def test_without_the_library_the_extra_is_named(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make([0, 1]).save_to_disk(tmp_path / "pets")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CallError, match=r'pip install "kerasimg\[datasets\]"'):
        open_source(tmp_path / "pets")
