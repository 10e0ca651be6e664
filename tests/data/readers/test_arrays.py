import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)


def message(data, task: str = "multiclass") -> str:
    with pytest.raises(DataError) as caught:
        open_source(data, task)
    return str(caught.value)


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., None], IMAGES.astype("float32"), IMAGES.tolist()])
def test_arrays_of_bytes_or_floats_are_images(images):
    source = open_source((images, [9, 10, 9, 1]))
    assert source.classes == ("1", "9", "10")
    assert source.label_ids().tolist() == [1, 2, 1, 0]
    assert [item.id for item in source.items] == ["images[0]", "images[1]", "images[2]", "images[3]"]
    assert np.array_equal(np.squeeze(source.items[2].image), IMAGES[2])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([[0], [1], [0], [1]], np.uint8), ("0", "1")),
        (np.array([0.0, 1.0, 1.0, 0.0]), ("0", "1")),
        (np.array([True, False, True, True]), ("0", "1")),
        (np.array(["dog", "cat", "cat", "dog"]), ("cat", "dog")),
        (np.array([b"dog", b"cat", b"cat", b"dog"]), ("cat", "dog")),
        (np.array(["dog", "cat", "cat", "dog"], object), ("cat", "dog")),
    ],
)
def test_labels_may_be_a_column_floats_booleans_or_names(labels, classes):
    assert open_source((IMAGES, labels)).classes == classes


def test_zeros_and_ones_are_several_labels_and_a_class_may_be_unused():
    hot = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    source = open_source((IMAGES, hot), "multilabel")
    assert source.classes == ("0", "1", "2")
    assert np.array_equal(source.label_ids(), hot)


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (IMAGES[:3], [0, 1, 0, 1], "3 images, but labels of shape (4,)"),
        (IMAGES, np.eye(4)[[0, 1, 2, 3]], "turn one-hot labels into numbers: labels.argmax(axis=1)"),
        (IMAGES, [0.5, 1, 0, 1], "expected integers or names as labels, got float64"),
        (IMAGES / 255, [0, 1, 0, 1], "multiply by 255 what was scaled to 0 to 1"),
        (IMAGES - 10.0, [0, 1, 0, 1], "expected values of 0 to 255, got -10 to 13"),
        (IMAGES * np.nan, [0, 1, 0, 1], "expected values of 0 to 255, got nan to nan"),
        (IMAGES.reshape(4, 6), [0, 1, 0, 1], "expected numbers of shape (N, height, width)"),
        (np.ones((4, 3, 8, 8)), [0, 1, 0, 1], "images.transpose(0, 2, 3, 1)"),
        (np.ones((0, 8, 8)), [], "holds no images"),
        ([], [], "holds no images"),
        (np.array([None] * 4).reshape(4, 1, 1), [0, 1, 0, 1], "got object of shape"),
    ],
)
def test_arrays_that_do_not_fit_are_faults(images, labels, fault: str):
    assert fault in message((images, labels))


def test_labels_of_the_task_multilabel_are_zeros_and_ones():
    assert "expected labels of zeros and ones, (4, number of classes)" in message((IMAGES, [0, 1, 2, 1]), "multilabel")


@pytest.mark.parametrize("keys", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_an_npz_file_holds_parts(tmp_path: Path, keys: tuple[str, str]):
    path = tmp_path / "data.npz"
    arrays = {}
    for part in ("train", "val", "test"):
        arrays |= {keys[0].format(part): IMAGES, keys[1].format(part): np.array([0, 1, 2, 0])}
    np.savez(path, **arrays)
    source = open_source(path)
    assert len(source) == 12
    assert [source.items[index].id for index in (0, 5, 11)] == ["train[0]", "validation[1]", "test[3]"]
    assert [source.items[index].part for index in (0, 5, 11)] == ["train", "validation", "test"]


def test_an_npz_file_may_hold_one_array(tmp_path: Path):
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=np.array([0, 1, 2, 0]))
    source = open_source(path)
    assert (source.items[1].id, source.items[1].part) == ("x[1]", None)


def test_an_npz_file_without_the_labels_or_with_other_names_is_a_fault(tmp_path: Path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=IMAGES, y_train=np.array([0, 1, 2, 0]), x_test=IMAGES)
    assert message(path) == f"{path}: y_test: is missing, and belongs to x_test"
    np.savez(path, photos=IMAGES)
    assert message(path) == f"{path}: expected x_train and y_train, or x and y; found photos"


def test_pickled_objects_are_not_loaded(tmp_path: Path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object), y=np.array([1]))
    assert "Python objects are not loaded from files" in message(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no archive", b"\x80\x04."])
def test_a_damaged_npz_file_is_a_fault(tmp_path: Path, content: bytes):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert "cannot be read as an .npz file" in message(path)


def test_an_array_in_an_npz_file_that_declares_more_than_there_is_memory_is_a_fault(tmp_path: Path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((8, 8, 8, 3), np.uint8), y=np.zeros(8, int))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    image = members["x.npy"]
    start, end = image.index(b"'shape': "), image.index(b"\n")
    members["x.npy"] = image[:start] + b"'shape': (9999999, 9999999, 8), }".ljust(end - start) + image[end:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "cannot be read as an .npz file (it needs more memory than there is)" in message(path)


def test_a_single_array_is_no_npz_file(tmp_path: Path):
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, IMAGES)
    assert message(path) == f"{path}: cannot be read as an .npz file (it holds a single array)"
