from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kerasimg.data.image_files import BadImage
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

Encoded = Callable[[int], bytes]


def example(**features: Any) -> bytes:
    import tensorflow as tf

    def feature(value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        if values and isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        encoded = [one.encode() if isinstance(one, str) else one for one in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))

    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(path: Path, *records: bytes, compression: str = "") -> Path:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for record in records:
            writer.write(record)
    return path


def message(path: Path, task: str = "multiclass") -> str:
    with pytest.raises(DataError) as caught:
        open_source(path, task)
    return str(caught.value).replace(f"{path}: ", "")


def test_records_are_images_with_labels_by_text_before_number(tmp_path: Path, encoded: Encoded):
    for shard in range(2):
        write(
            tmp_path / f"pets-train.tfrecord-0000{shard}-of-00002",
            *(
                example(
                    image__height=3,
                    image__encoded=encoded(10 * shard + number),
                    image__class__label=number,
                    image__class__text=name,
                    image__object__bbox=[0.5, 1.0],
                )
                for number, name in enumerate(("dog", "cat"))
            ),
        )
    source = open_source(tmp_path / "pets-train.tfrecord-*")
    assert [(item.id, item.labels, item.part) for item in source.items] == [
        ("pets-train.tfrecord-00000-of-00002[0]", ("dog",), "train"),
        ("pets-train.tfrecord-00000-of-00002[1]", ("cat",), "train"),
        ("pets-train.tfrecord-00001-of-00002[0]", ("dog",), "train"),
        ("pets-train.tfrecord-00001-of-00002[1]", ("cat",), "train"),
    ]
    for _ in range(2):
        assert [item.image for item in source.items] == [encoded(number) for number in (0, 1, 10, 11)]


def test_numbers_are_labels_and_may_be_negative_or_large(tmp_path: Path, encoded: Encoded):
    path = write(tmp_path / "a.tfrecord", *(example(image=encoded(1), label=label) for label in (300, -1, 7)))
    assert open_source(path).classes == ("-1", "7", "300")


def test_several_labels_in_one_record(tmp_path: Path, encoded: Encoded):
    records = [example(image=encoded(1), label=labels) for labels in (["red", "round"], ["red"], [])]
    path = write(tmp_path / "a.tfrecord", *records)
    assert open_source(path, "multilabel").label_ids().tolist() == [[1, 1], [1, 0], [0, 0]]
    assert message(path).splitlines()[0] == ("image 0: expected one label, got 2; several per image: --task multilabel")


def test_opening_reads_no_tensorflow(tmp_path: Path, encoded: Encoded):
    import subprocess
    import sys

    path = write(tmp_path / "a.tfrecord", *(example(image=encoded(1), label=label) for label in (0, 1)))
    code = (
        "import sys; from kerasimg.data.sources import open_source; "
        f"item = open_source({str(path)!r}).items[1]; len(item.image); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_record_is_a_bad_image_and_the_others_are_read(tmp_path: Path, encoded: Encoded):
    path = write(tmp_path / "a.tfrecord", *(example(image=encoded(number), label=number) for number in range(3)))
    whole = bytearray(path.read_bytes())
    whole[whole.index(encoded(1)) + 40] ^= 1
    path.write_bytes(whole)
    source = open_source(path)
    for _ in range(2):
        with pytest.raises(BadImage, match=r"is damaged \(the CRC of its record at byte \d+ of .* does not match\)"):
            _ = source.items[1].image
        assert [source.items[index].image for index in (0, 2)] == [encoded(0), encoded(2)]


def test_a_damaged_length_ends_the_reading_and_is_named(tmp_path: Path, encoded: Encoded):
    records = [example(image=encoded(number), label=number) for number in range(3)]
    path = write(tmp_path / "a.tfrecord", *records)
    whole = bytearray(path.read_bytes())
    second = len(records[0]) + 16
    whole[second + 3] ^= 1
    path.write_bytes(whole)
    assert message(path) == (
        f"record 1: is damaged or cut short at byte {second} (the CRC of the record's length does not match)"
    )


@pytest.mark.parametrize(
    ("cut", "expected"),
    [(-1, "record 1: is cut short: the file ends within it"), (-200, "record 1: is cut short"), (None, "is empty")],
)
def test_a_file_that_is_cut_short_is_a_fault(tmp_path: Path, encoded: Encoded, cut: int | None, expected: str):
    path = write(tmp_path / "a.tfrecord", *(example(image=encoded(number) * 9, label=number) for number in range(2)))
    path.write_bytes(path.read_bytes()[:cut] if cut else b"")
    assert message(path).startswith(expected)


def test_a_compressed_file_is_a_fault(tmp_path: Path, encoded: Encoded):
    for compression in ("GZIP", "ZLIB"):
        path = write(tmp_path / "a.tfrecord", example(image=encoded(1), label=1), compression=compression)
        assert message(path).startswith("is compressed, so single records cannot be read")


def test_a_file_of_another_kind_is_a_fault(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"path,label\na.png,cat\n" * 9)
    assert message(path) == "record 0: is not a TFRecord file (the CRC of the record's length does not match)"


@pytest.mark.parametrize("record", [b"", b"\x00", b"\xff" * 30, b"\x0a\xff", b"\x0a\x05hello", b"\x08"])
def test_records_of_another_kind_are_faults(tmp_path: Path, record: bytes):
    path = write(tmp_path / "a.tfrecord", record, record)
    assert message(path).startswith("record 0: ")


def test_all_faults_of_a_file_are_listed_with_their_records(tmp_path: Path, encoded: Encoded):
    path = write(
        tmp_path / "a.tfrecord",
        example(image=encoded(0), label="cat"),
        example(label="cat"),
        example(image=[encoded(0), encoded(1)], label="cat"),
        example(image=encoded(0), label=""),
    )
    assert message(path).splitlines() == [
        "record 1: expected one image in the feature 'image', found 0",
        "record 2: expected one image in the feature 'image', found 2",
        "record 3: expected a label, found ''",
    ]


def test_features_of_other_names_are_a_fault_that_lists_them(tmp_path: Path, encoded: Encoded):
    path = write(tmp_path / "a.tfrecord", example(photo=encoded(0), label="cat"))
    assert message(path) == (
        "record 0: expected the image in a feature image/encoded, image, encoded_image, jpeg, png; "
        "found the features label, photo"
    )
