"""Several labels per image, in every form in which files have them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

HOT = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        PIL.Image.new("RGB", (4, 4), (9 * number, 50, 90)).save(tmp_path / f"{number}.png")
    return tmp_path


def jsonl(folder: Path, labels: list[Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps({"path": f"{n}.png", "labels": row}) for n, row in enumerate(labels)))
    return path


def csv(folder: Path, labels: list[str], column: str = "label") -> Path:
    path = folder / "data.csv"
    path.write_text(f"path\t{column}\n" + "".join(f"{n}.png\t{row}\n" for n, row in enumerate(labels)))
    return path


@pytest.mark.parametrize("kind", [int, bool, float])
def test_lists_of_0_and_1_in_jsonl_are_multi_hot(folder: Path, kind: type):
    source = open_source(jsonl(folder, [[kind(value) for value in row] for row in HOT]), "multilabel")
    assert source.classes == ("0", "1", "2")
    assert source.label_ids().tolist() == HOT


def test_lists_of_0_and_1_of_a_data_set_of_hugging_face_are_multi_hot():
    datasets = pytest.importorskip("datasets")
    image = PIL.Image.new("RGB", (4, 4))
    for feature in (datasets.Sequence(datasets.Value("int64")), datasets.Sequence(datasets.Value("int64"), length=3)):
        features = datasets.Features({"image": datasets.Image(), "labels": feature})
        data = datasets.Dataset.from_dict({"image": [image] * 4, "labels": HOT}, features=features)
        source = open_source(data, "multilabel")
        assert source.classes == ("0", "1", "2")
        assert source.label_ids().tolist() == HOT
    named = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"]))
    features = datasets.Features({"image": datasets.Image(), "labels": named})
    data = datasets.Dataset.from_dict({"image": [image] * 2, "labels": [[0, 1], [1]]}, features=features)
    assert open_source(data, "multilabel").label_ids().tolist() == [[1, 1], [0, 1]]


def test_lists_of_0_and_1_of_tfrecord_are_multi_hot(folder: Path):
    tf = pytest.importorskip("tensorflow")
    for number, rows in enumerate((HOT[:2], HOT[2:])):
        with tf.io.TFRecordWriter(str(folder / f"a-{number}.tfrecord")) as writer:
            for row in rows:
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[(folder / "0.png").read_bytes()]))
                labels = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
                features = tf.train.Features(feature={"image": image, "labels": labels})
                writer.write(tf.train.Example(features=features).SerializeToString())
    source = open_source(str(folder / "a-{0..1}.tfrecord"), "multilabel")
    assert source.classes == ("0", "1", "2")
    assert source.label_ids().tolist() == HOT


def test_lists_of_numbers_of_classes_stay_numbers(folder: Path):
    source = open_source(jsonl(folder, [[0, 2], [1], [], [2]]), "multilabel")
    assert source.label_ids().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    source = open_source(jsonl(folder, [[0], [1], [0]]), "multilabel")
    assert source.label_ids().tolist() == [[1, 0], [0, 1], [1, 0]]


def test_multi_hot_lists_of_several_lengths_are_named(folder: Path):
    with pytest.raises(DataError, match=r"lists of 0 and 1 of equal length \(multi-hot\), found 2 to 3 values"):
        open_source(jsonl(folder, [[1, 0, 1], [1, 0], [0, 1]]), "multilabel")


@pytest.mark.parametrize("column", ["label", "labels"])
@pytest.mark.parametrize("separator", ["|", ";", ",", " ", "; ", ", ", " | "])
def test_several_labels_in_one_text_are_separated(folder: Path, separator: str, column: str):
    rows = [["g", "b"], ["r"], ["g"], ["b", "r"], ["r", "g", "b"], [], ["r", "g"]]
    source = open_source(csv(folder, [separator.join(row) for row in rows], column), "multilabel")
    assert source.classes == ("b", "g", "r")
    assert [set(item.labels) for item in source.items] == [set(row) for row in rows]


@pytest.mark.parametrize("key", ["label", "labels"])
def test_a_text_in_jsonl_follows_the_same_rule(folder: Path, key: str):
    path = folder / "data.jsonl"
    rows = [{"path": "0.png", key: "g|b"}, {"path": "1.png", key: ["b"]}, {"path": "2.png", key: "r"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert open_source(path, "multilabel").classes == ("b", "g", "r")


def test_names_with_spaces_stay_whole_beside_a_separator(folder: Path):
    source = open_source(csv(folder, ["red car|night", "night", "red car"]), "multilabel")
    assert source.classes == ("night", "red car")


def test_separators_that_are_not_clear_are_named(folder: Path):
    with pytest.raises(DataError, match=r"'red car' could be one label or several"):
        open_source(csv(folder, ["red car", "tree"]), "multilabel")
    with pytest.raises(DataError, match=r"labels have two separators, 'a\|b' and 'c;d'"):
        open_source(csv(folder, ["a|b", "c;d"]), "multilabel")
    assert open_source(csv(folder, ["red car|", "tree"]), "multilabel").classes == ("red car", "tree")


def test_of_one_label_a_text_is_never_split(folder: Path):
    assert open_source(csv(folder, ["a,b", "c d", "a;b"])).classes == ("a,b", "a;b", "c d")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_1_and_1_0_are_one_class(folder: Path, task: Any):
    source = open_source(csv(folder, ["1", "1.0", "2.00", "10"]), task)
    assert source.classes == ("1", "2", "10")
    assert [item.labels for item in source.items] == [("1",), ("1",), ("2",), ("10",)]


def test_1_and_1_0_beside_names_are_named(folder: Path):
    with pytest.raises(DataError, match=r"'1' and '1\.0' would be two classes"):
        open_source(csv(folder, ["1", "1.0", "cat"]))
    assert open_source(csv(folder, ["1.0", "2.5", "cat"])).classes == ("1.0", "2.5", "cat")


def test_arrays_are_read_as_before():
    x = np.full((4, 4, 4), 99, np.uint8)
    assert open_source((x, np.array(HOT)), "multilabel").label_ids().tolist() == HOT
