import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError

Encoded = Callable[[int], bytes]

FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"},
            "label": {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"},
        }
    },
}


@pytest.fixture
def prepared(tmp_path: Path, encoded: Encoded) -> Path:
    """A data set as TensorFlow Datasets prepares it: two shards to train on, one to test."""
    import tensorflow as tf

    folder = tmp_path / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"name": "train", "shardLengths": ["2", "1"], "filepathTemplate": template},
        {"name": "test", "shardLengths": ["1"], "filepathTemplate": template},
        {"name": "none", "shardLengths": ["0"], "filepathTemplate": template},
    ]
    (folder / "dataset_info.json").write_text(
        json.dumps({"name": "pets", "fileFormat": "tfrecord", "splits": splits, "version": "1.0.0"})
    )
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "label.labels.txt").write_text("dog\ncat\nemu\n")
    for name, numbers in {
        "train-00000-of-00002": [0, 1],
        "train-00001-of-00002": [2],
        "test-00000-of-00001": [3],
    }.items():
        split, _, shard = name.partition("-")
        with tf.io.TFRecordWriter(str(folder / f"pets-{split}.tfrecord-{shard}")) as writer:
            for number in numbers:
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded(number)])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return folder


def test_a_prepared_folder_is_a_source(prepared: Path, encoded: Encoded):
    source = open_source(prepared)
    assert source.classes == ("cat", "dog", "emu")
    assert [(item.id, item.labels, item.part) for item in source.items] == [
        ("pets-train.tfrecord-00000-of-00002[0]", ("dog",), "train"),
        ("pets-train.tfrecord-00000-of-00002[1]", ("cat",), "train"),
        ("pets-train.tfrecord-00001-of-00002[0]", ("dog",), "train"),
        ("pets-test.tfrecord-00000-of-00001[0]", ("cat",), "test"),
    ]
    assert [item.image for item in source.items] == [encoded(number) for number in range(4)]


def test_files_that_are_missing_are_faults(prepared: Path):
    for path in prepared.glob("pets-train*"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        open_source(prepared)
    assert str(caught.value).splitlines() == [
        f"{prepared}: pets-train.tfrecord-0000{shard}-of-00002: no such file, though dataset_info.json lists it"
        for shard in range(2)
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("features.json", "{", "features.json: cannot be read as JSON"),
        ("features.json", "[]", "features.json: expected a JSON object"),
        ("features.json", "{}", "expected featuresDict.features with a pythonClassName each"),
        ("features.json", json.dumps(FEATURES).replace("Image", "Audio"), "expected one feature Image"),
        ("dataset_info.json", '{"fileFormat": "riegeli"}', "expected fileFormat 'tfrecord', found 'riegeli'"),
        ("dataset_info.json", "{}", "lists no files"),
        ("label.labels.txt", "dog", "record 1: expected a label of 0 to 0, found 1"),
    ],
)
def test_a_damaged_folder_is_a_fault(prepared: Path, name: str, content: str, expected: str):
    (prepared / name).write_text(content)
    with pytest.raises(DataError) as caught:
        open_source(prepared)
    assert expected in str(caught.value)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(CallError, match=r'pip install "kerasimg\[tfds\]"'):
        open_source("tfds:pets")


def test_a_name_finds_what_was_prepared_and_asks_for_what_was_not(prepared: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for the library, which takes half a minute to import and asks the network for names."""

    def builder(name: str) -> SimpleNamespace:
        if name == "nosuch":
            raise ValueError("Dataset nosuch not found.\nAvailable ...")
        return SimpleNamespace(data_dir=prepared.parents[1] / name / "1.0.0")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(builder=builder))
    source = open_source("tfds:pets")
    assert (source.where, source.classes, len(source)) == ("tfds:pets", ("cat", "dog", "emu"), 4)
    for name, expected in {
        "tfds:mnist": "is not prepared; prepare it first: tfds.builder('mnist').download_and_prepare()",
        "tfds:nosuch": "no such data set (Dataset nosuch not found.)",
    }.items():
        with pytest.raises(DataError) as caught:
            open_source(name)
        assert str(caught.value) == f"{name}: {expected}"
