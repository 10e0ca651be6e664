import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.decode import decode
from kerasimg.data.sources import SAMPLE, open_source, task_of
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

Folder = Callable[..., Path]


def test_the_sample_ships_with_ten_balanced_classes_and_its_licence():
    source = open_source("sample")
    assert Counter((item.part, item.labels[0]) for item in source.items) == {
        (part, name): count for part, count in (("train", 200), ("test", 50)) for name in source.classes
    }
    assert len(source.classes) == 10
    assert {"ankle_boot", "bag", "t_shirt_top"} < set(source.classes)
    assert "Zalando" in (SAMPLE / "LICENSE").read_text()
    image = decode(source.items[0].image, Image(size=[28, 28], channels=1))
    assert image.max() > 0
    assert source.describe().startswith("2,500 images of 10 classes in sample (test 500, train 2,000)")


def test_a_binary_task_has_exactly_two_classes(folder: Folder):
    assert open_source(folder("cat/1.png", "dog/1.png"), "binary").label_ids().tolist() == [0, 1]
    with pytest.raises(DataError, match=r"expected exactly 2 classes \(task 'binary'\), found 3: cat, dog, emu"):
        open_source(folder("emu/1.png"), "binary")


def test_a_folder_per_class_serves_the_task_multilabel_too(folder: Folder):
    assert open_source(folder("cat/1.png", "dog/1.png"), "multilabel").label_ids().tolist() == [[1, 0], [0, 1]]


def test_labels_are_numbered_by_the_classes_of_a_model(folder: Folder):
    source = open_source(folder("cat/1.png", "emu/1.png"))
    assert source.match(["emu", "dog", "cat"]).label_ids().tolist() == [2, 0]
    assert source.match(["emu", "dog", "cat"]).classes == ("emu", "dog", "cat")
    assert source.label_ids().tolist() == [0, 1]


def test_one_class_is_enough_for_a_model_that_knows_it(folder: Folder):
    assert open_source(folder("emu/1.png"), classes=["cat", "emu"]).label_ids().tolist() == [1]


def test_a_class_that_the_model_does_not_know_is_named_with_the_nearest(folder: Folder):
    root = folder("cats/1.png", "cats/2.png", "zebra/1.png", "dog/1.png")
    with pytest.raises(DataError) as caught:
        open_source(root).match(["cat", "dog"])
    assert str(caught.value) == (
        f"{root}: class 'cats': the model does not know it; did you mean 'cat'? (images: 2)\n"
        f"{root}: class 'zebra': the model does not know it (images: 1)"
    )


def test_a_path_that_does_not_exist_is_a_fault_with_the_nearest(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match="no such file or folder; did you mean 'pets'"):
        open_source(root.parent / "pest")


def test_a_file_of_another_kind_is_a_fault(folder: Folder):
    with pytest.raises(DataError, match=r"expected a folder or a file of one of \.csv, \.tsv, \.jsonl"):
        open_source(folder("a.png") / "a.png")


def test_data_of_another_type_is_a_wrong_call():
    with pytest.raises(CallError, match="got int"):
        open_source(3)


def test_opening_a_source_imports_no_tensorflow():
    code = "import kerasimg.data.split, kerasimg.data.readable, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def labelled(*labels: str) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((len(labels), 4, 4, 3), "uint8"), np.array(labels)


def test_the_task_is_seen_from_the_labels():
    images = np.zeros((4, 4, 4, 3), "uint8")
    assert task_of(labelled("a", "b", "c", "a")) == "multiclass"
    assert task_of(labelled("a", "b", "b", "a")) == "binary"
    assert task_of((images, np.array([[1, 0], [1, 1], [0, 1], [0, 0]]))) == "multilabel"


def test_several_labels_in_a_manifest_are_seen(tmp_path: Path):
    for name in "abc":
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text("path,labels\na.png,x|y\nb.png,y\nc.png,\n")
    assert task_of(tmp_path / "m.csv") == "multilabel"


def test_the_positive_class_is_the_second_by_name_unless_it_is_named():
    data = labelled("defect", "ok", "ok", "defect")
    source = open_source(data, "binary")
    assert (source.classes, source.positive, source.label_ids().tolist()) == (("defect", "ok"), "ok", [0, 1, 1, 0])
    source = open_source(data, "binary", positive="defect")
    assert (source.classes, source.positive, source.label_ids().tolist()) == (("ok", "defect"), "defect", [1, 0, 0, 1])
    assert "; the positive class is 'defect'" in source.describe()
    with pytest.raises(DataError, match=r"positive_class 'bad' is not a class of the data \(classes: defect, ok\)"):
        open_source(data, "binary", positive="bad")
