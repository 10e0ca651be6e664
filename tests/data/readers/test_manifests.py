import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

Folder = Callable[..., Path]


@pytest.fixture
def manifest(folder: Folder) -> Callable[..., Path]:
    """manifest("a.csv", text) beside the images a.png, b.png and c.png."""

    def make(name: str, text: str) -> Path:
        path = folder("a.png", "b.png", "c.png") / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def message(path: Path, task: str = "multiclass") -> str:
    with pytest.raises(DataError) as caught:
        open_source(path, task)
    return str(caught.value).replace(f"{path}: ", "")


def test_a_csv_file_lists_images_with_labels_parts_and_extras(manifest):
    path = manifest("pets.csv", "path,label,split,age\na.png,cat,train,3\nb.png, dog ,val,\nc.png,cat,,1\n")
    source = open_source(path)
    assert [(item.id, item.labels, item.part, item.extras) for item in source.items] == [
        ("a.png", ("cat",), "train", {"age": "3"}),
        ("b.png", ("dog",), "validation", {"age": ""}),
        ("c.png", ("cat",), None, {"age": "1"}),
    ]
    assert source.items[0].image == str(path.parent / "a.png")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_may_be_separated_by_comma_semicolon_or_tab_and_begin_with_a_mark(manifest, mark: str):
    path = manifest("pets.csv", f"\ufeffpath{mark}label\na.png{mark}cat\nb.png{mark}dog\n")
    assert open_source(path).classes == ("cat", "dog")


def test_a_row_with_more_fields_than_columns_is_an_error_unless_they_are_empty(manifest):
    path = manifest("pets.csv", 'path,label\na.png,cat,\nb.png,dog, small\nc.png,"dog, small"\n')
    assert message(path) == "line 3: has more fields than the 2 columns; quote a value that contains ','"
    path.write_text(path.read_text().replace("dog, small\n", "dog\n"))
    assert open_source(path).classes == ("cat", "dog", "dog, small")


def test_a_jsonl_file_lists_images_with_several_labels(manifest):
    rows = [
        {"path": "a.png", "labels": ["red", "round"], "split": "test", "size": [1, 2]},
        {"path": "b.png", "labels": []},
        {"path": "c.png", "labels": ["red"], "split": None},
    ]
    source = open_source(manifest("pets.jsonl", "\n\n".join(map(json.dumps, rows))), "multilabel")
    assert source.classes == ("red", "round")
    assert source.label_ids().tolist() == [[1, 1], [0, 0], [1, 0]]
    assert source.items[0].part == "test"
    assert source.items[0].extras == {"size": [1, 2]}


def test_several_labels_in_csv_are_separated_by_bars(manifest):
    source = open_source(manifest("pets.csv", "path,labels\na.png,red|round\nb.png,\nc.png,round| red\n"), "multilabel")
    assert source.label_ids().tolist() == [[1, 1], [0, 0], [1, 1]]


def test_integers_are_labels_in_their_order(manifest):
    rows = [{"path": "a.png", "label": 10}, {"path": "b.png", "label": 9}]
    assert open_source(manifest("pets.jsonl", "\n".join(map(json.dumps, rows)))).classes == ("9", "10")


def test_a_manifest_written_on_windows_is_read_anywhere(manifest):
    source = open_source(manifest("pets.csv", "path,label\r\n.\\a.png,cat\r\nb.png,dog\r\n"))
    assert [item.id for item in source.items] == ["a.png", "b.png"]


def test_all_faults_of_a_manifest_are_listed_with_their_lines(manifest):
    path = manifest(
        "pets.csv",
        "path,label,split\na.png,cat,trainer\nb.png,,train\n./a.png,dog,\nz.png,dog,test\n,cat,\n",
    )
    assert message(path).splitlines() == [
        "line 2: no split 'trainer'; did you mean 'train'?; the parts are train, validation and test",
        "line 3: expected a label, got ''",
        "line 4: 'a.png' is already in line 2; use one line with all its labels",
        "line 5: no such file: z.png; paths are relative to the manifest's folder",
        "line 6: expected a path, got ''",
    ]


def test_a_manifest_without_the_columns_names_the_nearest(manifest):
    assert message(manifest("pets.csv", "paths,label\na.png,cat\n")) == (
        "line 1: expected the columns path and label (or labels), found paths, label; did you mean 'path'?"
    )
    assert message(manifest("empty.csv", "")) == ("line 1: expected the columns path and label (or labels), found none")
    assert message(manifest("other.csv", "Filename,class\na.png,cat\n")) == (
        "line 1: expected the columns path and label (or labels), found Filename, class; "
        "rename 'Filename' to 'path' and 'class' to 'label'"
    )


def test_faulty_lines_of_jsonl_are_named(manifest):
    lines = [
        '{"path": "a.png"',
        "[1]",
        '{"path": "b.png"}',
        '{"path": "c.png", "label": 0.5}',
        '{"path": 1, "label": 2}',
    ]
    faults = message(manifest("pets.jsonl", "\n".join(lines))).splitlines()
    assert faults[0].startswith("line 1: is not JSON")
    assert faults[1:] == [
        'line 2: expected an object: {"path": ..., "label": ...}',
        "line 3: expected the columns path and label (or labels), found path",
        "line 4: expected a label, got 0.5",
        "line 5: expected a path, got 1",
    ]


def test_several_labels_need_the_task_multilabel(manifest):
    path = manifest("pets.csv", "path,labels\na.png,red|round\nb.png,red\n")
    assert message(path) == ("line 2: expected one label, got 2; several per image: --task multilabel")


def test_a_message_lists_twenty_faults_and_the_error_holds_all(manifest):
    path = manifest("pets.csv", "path,label\n" + "".join(f"{number}.png,cat\n" for number in range(50)))
    with pytest.raises(DataError) as caught:
        open_source(path)
    assert len(caught.value.faults) == 50
    assert str(caught.value).splitlines()[20:] == ["... and 30 more"]


def test_a_manifest_that_is_no_text_is_a_fault(folder: Folder):
    path = folder() / "pets.csv"
    path.write_bytes(b"path,label\n\xff\xfe.png,cat\n")
    assert "cannot be read as UTF-8 text" in message(path)
    assert message(path).endswith("; save it as UTF-8 (CSV UTF-8)")
