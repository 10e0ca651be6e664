import json
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerasimg.data.image_files import BadImage
from kerasimg.data.readers import parquet
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Encoded = Callable[[int], bytes]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write(path: Path, features: Any = None, rows: int = 1000, **columns: Any) -> Path:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)
    return path


def message(path: Path, task: str = "multiclass") -> str:
    with pytest.raises(DataError) as caught:
        open_source(path, task)
    return str(caught.value).replace(f"{path}: ", "")


def test_a_struct_of_bytes_with_names_of_classes_as_hugging_face_writes_it(tmp_path: Path, encoded: Encoded):
    features = {"image": {"_type": "Image"}, "label": {"names": ["dog", "cat", "emu"], "_type": "ClassLabel"}}
    for part, labels in (("train", [0, 1, 0]), ("validation", [1, 0])):
        images = pa.array([{"bytes": encoded(number), "path": "x.png"} for number in range(len(labels))], STRUCT)
        write(tmp_path / f"{part}-00000-of-00001.parquet", features, image=images, label=labels)
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog", "emu")
    assert source.label_ids().tolist() == [1, 0, 1, 0, 1]
    assert source.parts.tolist() == [0, 0, 0, 1, 1]
    assert source.items[4].id == "validation-00000-of-00001.parquet[1]"
    assert [item.image for item in source.items] == [encoded(number) for number in (0, 1, 2, 0, 1)]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["dog", " cat", "cat"], ("cat", "dog")),
        (pa.array(["dog", "cat", "cat"]).dictionary_encode(), ("cat", "dog")),
        (pa.array([10, 9, 9], pa.uint8()), ("9", "10")),
    ],
)
def test_bytes_with_labels_by_name_or_number(tmp_path: Path, encoded: Encoded, labels: Any, classes: tuple):
    source = open_source(write(tmp_path / "a.parquet", jpg=[encoded(number) for number in range(3)], cls=labels))
    assert source.classes == classes
    assert source.label_ids().tolist() == [1, 0, 0]


def test_lists_are_several_labels(tmp_path: Path, encoded: Encoded):
    features = {"labels": {"feature": {"names": ["red", "round"], "_type": "ClassLabel"}, "_type": "List"}}
    path = write(tmp_path / "a.parquet", features, image=[encoded(0)] * 3, labels=[[1, 0, 1], [], [1]])
    assert open_source(path, "multilabel").label_ids().tolist() == [[1, 1], [0, 0], [0, 1]]
    assert message(path).splitlines()[1] == ("image 1: expected one label, got 0; several per image: --task multilabel")


def test_any_order_and_number_of_threads_gives_the_same_images_and_few_groups_are_kept(
    tmp_path: Path, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
):
    every = [encoded(number) for number in range(60)]
    source = open_source(write(tmp_path / "a.parquet", rows=7, image=every, label=[number % 2 for number in range(60)]))
    monkeypatch.setattr(parquet, "MOST_BYTES", 3 * 7 * len(every[0]) + 500)
    order = np.random.default_rng(0).permutation(600) % 60
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.columns.image, order)) == [every[row] for row in order]
    cached = source.columns.images.read_last.values()
    assert 1 < len(cached) < 9
    assert sum(group.nbytes for group in cached) <= parquet.MOST_BYTES
    assert pickle.loads(pickle.dumps(source)).items[59].image == every[59]


def test_a_image_may_be_a_path_beside_the_file_or_missing(tmp_path: Path, encoded: Encoded):
    (tmp_path / "x.png").write_bytes(encoded(1))
    rows = [{"bytes": None, "path": "x.png"}, {"bytes": None, "path": None}, None]
    source = open_source(write(tmp_path / "a.parquet", image=pa.array(rows, STRUCT), label=[0, 1, 1]))
    assert source.items[0].image == str(tmp_path / "x.png")
    for index in (1, 2):
        with pytest.raises(BadImage, match=r"is empty \(null\)"):
            _ = source.items[index].image


def test_all_faults_of_labels_are_listed_with_their_rows(tmp_path: Path, encoded: Encoded):
    path = tmp_path / "a.parquet"
    write(path, image=[encoded(0)] * 4, label=["cat", None, "cat", None])
    assert message(path).splitlines() == [f"row {row}, column label: expected a label, found null" for row in (1, 3)]
    features = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    write(path, features, image=[encoded(0)] * 3, label=[0, -1, 2])
    assert message(path).splitlines() == [
        "row 1, column label: expected a label of 0 to 1, found -1",
        "row 2, column label: expected a label of 0 to 1, found 2",
    ]
    write(path, image=[encoded(0)] * 2, label=["cat", " "])
    assert message(path) == "row 1, column label: expected a label, found ' '"
    write(path, image=[encoded(0)] * 2, label=[0.5, 1.0])
    assert message(path) == "row 0, column label: expected integers or text as labels, found double"


def test_columns_of_other_names_are_a_fault_that_lists_them(tmp_path: Path, encoded: Encoded):
    path = tmp_path / "a.parquet"
    write(path, photo=["x.png"], label=[1])
    assert message(path) == (
        "expected a column with an image (bytes, or a struct with bytes), named image, img, picture, jpg, jpeg, png, "
        "webp; found photo (string), label (int64)"
    )
    write(path, image=[encoded(0)], breed=[1])
    assert message(path).endswith(
        "named label, labels, class, class_name, cls, category; found image (binary), breed (int64)"
    )
    kinds = {name: {"names": ["x"], "_type": "ClassLabel"} for name in ("fine", "coarse")}
    write(path, kinds, image=[encoded(0)], fine=[0], coarse=[0])
    assert message(path) == "expected one column with its label, found fine, coarse; rename the right one to 'label'"
    write(path, photo=[encoded(0)], category=["cat"])
    assert open_source(path, classes=["cat"]).items[0].image == encoded(0)


def test_files_with_other_columns_than_the_first_are_faults(tmp_path: Path, encoded: Encoded):
    write(tmp_path / "a.parquet", image=[encoded(0)], label=["cat"])
    write(tmp_path / "b.parquet", img=[encoded(0)], label=["cat"])
    assert "b.parquet: has no column 'image', as the first file has; found img, label" in message(
        tmp_path / "*.parquet"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no such file" * 9])
def test_a_damaged_file_is_a_fault(tmp_path: Path, content: bytes):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert message(path).startswith("cannot be read as a Parquet file (")


def test_a_damaged_group_of_rows_is_a_bad_image(tmp_path: Path, encoded: Encoded):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [encoded(1)] * 9, "label": [0, 1, 0] * 3}), path, use_dictionary=False)
    source = open_source(path)
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 60)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(BadImage, match=r"cannot be read \(.*a\.parquet, group 0 of rows"):
        _ = source.items[0].image


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CallError, match=r'pip install "kerasimg\[parquet\]"'):
        open_source(tmp_path / "a.parquet")
