import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data import sources
from kerasimg.data.decode import decode
from kerasimg.data.readers.folders import SAMPLE
from kerasimg.data.sources import READERS, open_recorded, open_source, readers, table, task_of
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
        f"{root}: class 'zebra': the model does not know it (images: 1)\n"
        "the model knows cat, dog: rename these classes, or leave them out"
    )


@pytest.mark.parametrize(
    ("name", "kind", "verb"),
    [("training.json", "a run", "train"), ("search.json", "a search", "tune"), ("auto.json", "an auto", "auto")],
)
def test_the_folder_of_a_run_is_no_images(folder: Folder, name: str, kind: str, verb: str):
    root = folder("evaluation/1.png", "export/1.png")
    (root / name).write_text("{}")
    with pytest.raises(CallError, match=rf"is {kind}; name the folder of the images .* kerasimg {verb} --resume"):
        open_source(root)


def test_an_array_without_labels_names_what_is_missing():
    with pytest.raises(CallError, match=r"got ndarray; images need labels: data=\(images, labels\)"):
        open_source(np.zeros((4, 8, 8, 3), np.uint8))


def test_images_that_have_moved_are_named_by_the_option_for_it(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    assert len(open_recorded(str(root), None, "multiclass", "advice")) == 2
    assert len(open_recorded("gone", str(root), "multiclass", "advice")) == 2
    with pytest.raises(DataError, match=r"no such file or folder(.|\n)*if these images have moved: --data DIR"):
        open_recorded("gone", None, "multiclass", "--data DIR")


def test_folders_above_the_classes_are_noted(folder: Folder, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    open_source(folder("2023/cat/1.png", "2023/dog/1.png", "2024/cat/1.png", "2024/dog/2.png"))
    assert "the classes are 2023, 2024, and each has folders cat, dog: if those are the classes" in caplog.text
    caplog.clear()
    open_source(folder("cat/a/1.png", "cat/b/1.png", "cat/1.png", "dog/a/1.png", "dog/b/2.png"))
    assert "if those are the classes" not in caplog.text


def test_a_path_that_does_not_exist_is_a_fault_with_the_nearest(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match=r"no such file or folder; did you mean '.*pets'"):
        open_source(root.parent / "pest")


def test_a_file_of_another_kind_is_a_fault(folder: Folder):
    with pytest.raises(DataError, match=r"expected a folder or a file of one of \.csv, \.tsv, \.jsonl"):
        open_source(folder("a.png") / "a.png")


def test_data_of_another_type_is_a_wrong_call_that_lists_what_is_taken():
    with pytest.raises(CallError, match="got int") as caught:
        open_source(3)
    assert [text for reader in READERS for text in reader.objects if text not in str(caught.value)] == []


def test_the_table_in_the_docs_is_made_from_the_readers():
    assert table() in (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


PLUGIN = """
import os
from kerasimg.data.readers import Item, Reader, Reading

class Lines(Reader):
    name, takes = "lines", "a path and a label in each line"
    extensions, prefix = (".lines",), "lines:"

    def read(self, data, task, classes=()):
        path = data.removeprefix(self.prefix)
        with open(path) as file:
            rows = [line.split() for line in file]
        items = [Item(name, os.path.join(os.path.dirname(path), name), (label,)) for name, label in rows]
        return Reading(items, {label for _, label in rows})
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package that adds a data source by an entry point."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(entry: str) -> None:
        folder = tmp_path / "site" / "mine-1.0.dist-info"
        folder.mkdir(parents=True)
        (tmp_path / "site" / "mine.py").write_text(PLUGIN)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{sources.GROUP}]\nlines = {entry}\n")
        sources._plugins.cache_clear()

    yield install
    shutil.rmtree(tmp_path / "site")
    sys.modules.pop("mine", None)
    sources._plugins.cache_clear()


def test_a_source_of_another_package_trains_a_model(installed: Callable[[str], None], tmp_path: Path):
    installed("mine:Lines")
    rows = []
    for number in range(16):
        label = "dark" if number % 2 else "bright"
        PIL.Image.new("RGB", (8, 8), (10 + number, 0, 0) if number % 2 else (255 - number,) * 3).save(
            tmp_path / f"{number}.png"
        )
        rows.append(f"{number}.png {label}\n")
    (tmp_path / "some.lines").write_text("".join(rows))
    assert open_source(f"lines:{tmp_path / 'some.lines'}").classes == ("bright", "dark")
    spec = {
        "kerasimg": 1,
        "image": {"size": [8, 8]},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 2, "activation": "softmax"}],
        "fit": {"batch_size": 4, "stages": [{"epochs": 1}]},
    }
    run = kerasimg.train(spec, data=tmp_path / "some.lines", out=tmp_path / "runs", report=False, verbose=0)
    assert run.classes == ["bright", "dark"]
    assert kerasimg.evaluate(run)["n"] == 2  # found again by the path in data.json
    with pytest.raises(DataError, match=r"\.zip, .*\.lines"):
        open_source(tmp_path / "0.png")


def test_a_source_of_another_package_that_cannot_be_loaded_is_named(installed: Callable[[str], None], folder: Folder):
    installed("mine:Missing")
    with pytest.raises(CallError, match=r"the data source 'lines' of mine cannot be loaded: .*Missing"):
        open_source(folder("cat/1.png", "dog/1.png"))
    assert open_source("sample").classes  # what kerasimg reads itself is asked first


def test_a_source_of_another_package_is_a_reader(installed: Callable[[str], None]):
    installed("builtins:dict")
    with pytest.raises(CallError, match="the data source 'lines': expected a subclass of Reader, got builtins:dict"):
        list(readers())


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
    several = open_source(tmp_path / "m.csv", "multilabel")
    assert several.describe().endswith("; task multilabel: an image may have several labels")


def test_the_positive_class_is_the_second_by_name_unless_it_is_named():
    data = labelled("defect", "ok", "ok", "defect")
    source = open_source(data, "binary")
    assert (source.classes, source.positive, source.label_ids().tolist()) == (("defect", "ok"), "ok", [0, 1, 1, 0])
    source = open_source(data, "binary", positive="defect")
    assert (source.classes, source.positive, source.label_ids().tolist()) == (("ok", "defect"), "defect", [1, 0, 0, 1])
    assert "; the positive class is 'defect'" in source.describe()
    with pytest.raises(DataError, match=r"positive_class 'bad' is not a class of the data \(classes: defect, ok\)"):
        open_source(data, "binary", positive="bad")
