import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

Folder = Callable[..., Path]


def ids(source: Source) -> list[str]:
    return [item.id for item in source.items]


def message(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(root)
    return str(caught.value)


def test_a_folder_per_class_gives_each_image_its_label(folder: Folder):
    source = open_source(folder("dog/1.png", "cat/2.png", "cat/1.png"))
    assert [(item.id, item.labels, item.part) for item in source.items] == [
        ("cat/1.png", ("cat",), None),
        ("cat/2.png", ("cat",), None),
        ("dog/1.png", ("dog",), None),
    ]
    assert source.classes == ("cat", "dog")
    assert source.label_ids().tolist() == [0, 0, 1]
    assert source.label_ids([2, 0]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "part"),
    [("validation", "validation"), ("val", "validation"), ("valid", "validation"), ("Test", "test")],
)
def test_folders_above_the_classes_name_the_parts(folder: Folder, name: str, part: str):
    source = open_source(folder("train/cat/1.png", "train/dog/1.png", f"{name}/cat/1.png"))
    assert {item.id: item.part for item in source.items} == {
        "train/cat/1.png": "train",
        "train/dog/1.png": "train",
        f"{name}/cat/1.png": part,
    }
    assert source.classes == ("cat", "dog")


def test_a_class_may_be_called_train(folder: Folder):
    assert open_source(folder("train/1.png", "bus/1.png")).classes == ("bus", "train")


def test_folders_within_a_class_belong_to_it(folder: Folder):
    source = open_source(folder("cat/black/1.png", "cat/2.png", "dog/1.png"))
    assert [item.labels for item in source.items] == [("cat",), ("cat",), ("dog",)]


def test_hidden_files_are_passed_over_and_other_files_counted(folder: Folder):
    root = folder("cat/1.png", "dog/1.png", "cat/.DS_Store", "cat/Thumbs.db", "README.txt", "dog/1.xml", ".git/x.png")
    source = open_source(root)
    assert ids(source) == ["cat/1.png", "dog/1.png"]
    assert source.ignored == 2
    assert source.describe() == f"2 images of 2 classes in {root}; 2 other files ignored"


def test_names_may_be_upper_case_spaced_and_not_ascii(folder: Folder):
    source = open_source(folder("Žluťoučký kůň/má fotka.JPG", "big dog/A B.JPEG"))
    assert source.classes == ("big dog", "Žluťoučký kůň")
    assert ids(source) == ["big dog/A B.JPEG", "Žluťoučký kůň/má fotka.JPG"]


def test_class_names_written_in_either_unicode_form_are_the_same(folder: Folder):
    source = open_source(folder("train/cafe\u0301/1.png", "train/bar/1.png", "test/caf\u00e9/1.png"))
    assert source.classes == ("bar", "caf\u00e9")


@pytest.mark.skipif(os.name != "posix", reason="file names are text elsewhere")
def test_a_name_that_is_no_utf_8_can_be_printed(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    (root / "cat" / "1.png").rename(os.fsdecode(os.fsencode(root) + b"/cat/\xe9.png"))
    source = open_source(root)
    assert source.items[0].id == "cat/\\udce9.png"
    assert os.path.exists(source.items[0].image)


def test_classes_that_are_integers_stand_in_their_order(folder: Folder):
    assert open_source(folder("10/1.png", "9/1.png", "1/1.png")).classes == ("1", "9", "10")


def test_links_to_images_are_followed(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    (root / "cat" / "2.png").symlink_to(root / "cat" / "1.png")
    assert ids(open_source(root)) == ["cat/1.png", "cat/2.png", "dog/1.png"]


def test_links_that_lead_in_a_circle_end(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "dog" / "itself").symlink_to(root / "dog" / "itself")
    assert ids(open_source(root)) == ["cat/1.png", "dog/1.png"]


@pytest.mark.parametrize("parts", ["", "train/"])
def test_a_link_back_to_the_data_set_adds_no_images_of_other_classes(folder: Folder, parts: str):
    root = folder(f"{parts}cat/1.png", f"{parts}dog/1.png")
    (root / parts / "cat" / "all").symlink_to(root)
    (root / parts / "dog" / "parent").symlink_to(root / parts)
    assert ids(open_source(root)) == [f"{parts}cat/1.png", f"{parts}dog/1.png"]


def test_the_order_does_not_depend_on_that_of_the_file_system(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    root = folder(*(f"{name}/{number}.png" for name in ("b", "a") for number in (3, 1, 2)))
    expected = ids(open_source(root))
    monkeypatch.setenv("KERASIMG_CACHE", str(root.parent / "another"))
    scandir = os.scandir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", lambda path: Reversed(reversed(list(scandir(path)))))
    assert ids(open_source(root)) == expected == sorted(expected)


def test_an_empty_class_folder_is_left_out_and_named(folder: Folder):
    source = open_source(folder("train/cat/1.png", "train/dog/1.png", "train/emu/", "test/cat/2.png", "val/"))
    assert (source.classes, source.empty) == (("cat", "dog"), ("train/emu", "val"))
    assert source.describe().endswith("; empty folders left out: train/emu, val")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("Training", "Testing"), ["train", "test"]),
        (("Training", "Validation"), ["train", "validation"]),
        (("TRAIN", "VALID"), ["train", "validation"]),
        (("train", "Val"), ["train", "validation"]),
        (("training", "Test"), ["train", "test"]),
    ],
)
def test_parts_are_known_by_the_names_that_data_sets_use(folder: Folder, names: tuple[str, str], parts: list[str]):
    source = open_source(folder(*(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog"))))
    assert source.classes == ("cat", "dog")
    assert {item.part for item in source.items} == set(parts)


@pytest.mark.parametrize("above", ["photos", "photos/photos", "photos/v1/data"])
@pytest.mark.parametrize("part", ["", "Train/"])
def test_folders_above_the_classes_are_passed_through(folder: Folder, above: str, part: str):
    files = [f"{above}/{part}{label}/1.png" for label in ("cat", "dog")]
    source = open_source(folder(*files, "__MACOSX/photos/cat/._1.png", ".DS_Store", f"{above}/__MACOSX/x.png"))
    assert source.classes == ("cat", "dog")
    assert ids(source) == files
    assert {item.part for item in source.items} == ({"train"} if part else {None})


def test_a_class_that_holds_folders_alone_is_a_class_where_a_model_knows_it(folder: Folder):
    root = folder("cat/a/1.png", "cat/b/1.png")
    assert open_source(root).classes == ("a", "b")
    assert open_source(root, classes=("cat", "dog")).label_counts() == {"cat": 2}


def test_empty_class_folders_alone_are_a_fault(folder: Folder):
    root = folder("emu/", "fox/")
    assert message(root) == (
        f"{root}: emu: holds no images; put the class's images in it, or remove it\n"
        f"{root}: fox: holds no images; put the class's images in it, or remove it"
    )


def test_a_folder_without_class_folders_is_a_fault(folder: Folder):
    root = folder("1.png", "2.png")
    assert message(root) == (
        f"{root}: holds 2 images but no folders; expected one folder per class, with the images of the class in it"
    )


def test_an_empty_folder_is_a_fault(folder: Folder):
    assert "holds no folders" in message(folder())


def test_a_single_class_is_a_fault(folder: Folder):
    root = folder("cat/1.png")
    assert message(root) == f"{root}: expected at least 2 classes (task 'multiclass'), found 1: cat"


def test_images_outside_of_class_folders_are_faults(folder: Folder):
    root = folder("1.png", "train/2.png", "train/cat/1.png", "train/dog/1.png")
    assert "1.png: is outside of the class folders" in message(root)
    root = folder("train/cat/1.png")
    (root / "1.png").unlink()
    (root / "train" / "2.png").unlink()
    assert open_source(root).classes == ("cat", "dog")


def test_a_part_beside_class_folders_is_a_fault(folder: Folder):
    root = folder("train/cat/1.png", "train/dog/1.png", "emu/1.png")
    assert message(root) == (
        f"{root}: emu: holds images, but is beside train/; move it into one of these, or elsewhere"
    )


def test_images_directly_in_test_are_a_fault_beside_train(folder: Folder):
    root = folder("train/cat/1.png", "train/dog/1.png", "test/1.png")
    assert f"{root}: test: holds images, but is beside train/" in message(root)


def test_a_folder_without_images_may_stand_beside_the_parts(folder: Folder):
    assert len(open_source(folder("train/cat/1.png", "train/dog/1.png", "annotations/1.xml"))) == 2


def test_a_part_in_two_folders_is_a_fault(folder: Folder):
    root = folder("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "validation/cat/1.png")
    assert "validation: is the validation part, like val/; remove one" in message(root)


def test_a_part_without_class_folders_is_a_fault(folder: Folder):
    root = folder("train/cat/1.png", "train/dog/1.png", "test/notes.txt")
    assert "test: holds no class folders" in message(root)


@pytest.mark.skipif(os.name != "posix", reason="such names are one name elsewhere")
def test_two_folders_of_one_class_are_a_fault(folder: Folder):
    assert "is the same class as" in message(folder("cafe\u0301/1.png", "caf\u00e9/1.png", "bar/1.png"))


def test_a_hundred_thousand_files_are_no_burden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(50):
            (tmp_path / name / f"{number}.jpg").touch()
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *args, **named: calls.append(args) or stat(*args, **named))
    assert len(open_source(tmp_path)) == 100
    assert len(calls) < 20  # some for each folder, none for a file
