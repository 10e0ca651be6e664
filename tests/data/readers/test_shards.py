import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kerasimg.data.readers import shards, tars
from kerasimg.data.readers.shards import named_files, part_of, short_names
from kerasimg.data.sources import READERS, open_source
from kerasimg.errors import CallError, DataError

Encoded = Callable[[int], bytes]


@pytest.fixture
def write(tmp_path: Path, encoded: Encoded) -> Callable[..., Path]:
    """write("a.tar", "cat", "dog") makes a shard with an image of each class."""

    def make(name: str, *labels: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for number, label in enumerate(labels):
                for extension, content in ((".png", encoded(number)), (".cls", label.encode())):
                    info = tarfile.TarInfo(f"{number:03}{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return path

    return make


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-0001.tar", "train"),
        ("pets-val.tfrecord-00000-of-00002", "validation"),
        ("imagenet_Validation_3.parquet", "validation"),
        ("test.parquet", "test"),
        ("train0.tar", "train"),
        ("trains-1.tar", None),
        ("contest-1.tar", None),
        ("train/pets-1.tar", None),
    ],
)
def test_the_name_of_a_file_may_tell_its_part(name: str, part: str | None):
    assert part_of(name) == part


def test_braces_name_every_file_and_stars_those_that_are_there(tmp_path: Path):
    for number in range(8, 12):
        (tmp_path / f"s-{number:03}.tar").touch()
    (tmp_path / "s-1.tar").touch()

    def names(pattern: str) -> list[str]:
        return [os.path.basename(path) for path in named_files(str(tmp_path / pattern))]

    assert names("s-{009..011}.tar") == ["s-009.tar", "s-010.tar", "s-011.tar"]
    assert names("s-0{11,08}.tar") == ["s-011.tar", "s-008.tar"]
    assert names("s-*.tar") == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar", "s-1.tar"]
    assert names("s-{1..1}.tar") == ["s-1.tar"]
    assert names("{s-008,s-*}.tar")[:2] == ["s-008.tar", "s-009.tar"]
    with pytest.raises(DataError) as caught:
        names("s-{007..012}.tar")
    assert [os.path.basename(fault.path) for fault in caught.value.faults] == ["s-007.tar", "s-012.tar"]
    with pytest.raises(DataError, match="no such file"):
        names("z*.tar")
    with pytest.raises(CallError, match="matches more than 100,000 files"):
        names("s-{0..999999999999}.tar")


def test_a_pattern_is_a_source_and_names_give_the_parts(write, tmp_path: Path):
    write("train-0.tar", "cat", "dog")
    write("train-1.tar", "dog", "emu")
    write("test-0.tar", "cat")
    source = open_source(tmp_path / "{train,test}-*.tar")
    assert [(item.id, item.labels, item.part) for item in source.items] == [
        ("train-0.tar/000.png", ("cat",), "train"),
        ("train-0.tar/001.png", ("dog",), "train"),
        ("train-1.tar/000.png", ("dog",), "train"),
        ("train-1.tar/001.png", ("emu",), "train"),
        ("test-0.tar/000.png", ("cat",), "test"),
    ]
    assert source.classes == ("cat", "dog", "emu")
    assert source.where == str(tmp_path / "{train,test}-*.tar")
    assert len(set(source.keys().tolist())) == 5


def test_a_folder_of_nothing_but_shards_is_a_source(write, tmp_path: Path):
    write("pets/a.tar", "cat")
    write("pets/b.tar", "dog")
    (tmp_path / "pets" / "README.md").touch()
    assert len(open_source(tmp_path / "pets")) == 2


def test_archives_beside_class_folders_are_other_files(write, tmp_path: Path, encoded: Encoded):
    write("pets/a.tar", "cat")
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir()
        (tmp_path / "pets" / name / "1.png").write_bytes(encoded(1))
    source = open_source(tmp_path / "pets")
    assert (source.classes, source.ignored) == (("ant", "bee"), 1)


def test_files_of_one_name_in_several_folders_keep_them_apart(write, tmp_path: Path):
    write("x/train.tar", "cat")
    write("y/train.tar", "dog")
    assert [item.id for item in open_source(tmp_path / "*" / "train.tar").items] == [
        "x/train.tar/000.png",
        "y/train.tar/000.png",
    ]
    assert short_names(["a/1", "b/2"]) == ["1", "2"]


def test_the_index_of_a_shard_is_kept_until_the_shard_changes(write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SETTLED_NS", -(10**18))
    reads = []
    scan = tars._scan
    monkeypatch.setattr(tars, "_scan", lambda path: reads.append(path) or scan(path))
    path = write("a.tar", "cat", "dog")
    first, second = open_source(path), open_source(path)
    assert len(reads) == 1
    assert [item.id for item in second.items] == [item.id for item in first.items] == ["a.tar/000.png", "a.tar/001.png"]
    assert [item.image for item in second.items] == [item.image for item in first.items]
    assert second.label_ids().tolist() == [0, 1]
    write("a.tar", "dog", "emu", "cat")
    assert open_source(path).label_ids().tolist() == [1, 2, 0]
    assert len(reads) == 2
    cached = next((tmp_path / "cache" / "index").glob("*.shard"))
    cached.write_bytes(b"rubbish")
    assert len(open_source(path)) == 3


def test_a_shard_that_changes_after_it_was_opened_is_named(write):
    from kerasimg.data.image_files import BadImage

    source = open_source(write("a.tar", "cat", "dog"))
    before = source.keys()
    path = write("a.tar", "cat", "dog", "dog")
    with pytest.raises(BadImage, match="has changed since it was opened; open it again"):
        _ = source.items[0].image
    assert not (open_source(path).keys()[:2] == before).any()
    path.unlink()
    with pytest.raises(BadImage, match="No such file"):
        _ = source.items[0].image


def test_faults_of_all_shards_are_reported_at_once(write, tmp_path: Path):
    write("a.tar", "cat", "")
    write("b.tar", "", "dog")
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "*.tar")
    assert [(os.path.basename(fault.file), fault.path) for fault in caught.value.faults] == [
        ("a.tar", "001.png"),
        ("b.tar", "000.png"),
    ]


def test_files_of_several_kinds_are_a_fault(write, tmp_path: Path):
    write("a.tar", "cat")
    (tmp_path / "b.parquet").touch()
    with pytest.raises(DataError, match="expected files of one kind, found"):
        open_source(tmp_path / "*.[tp]ar*")
    (tmp_path / "c.csv").touch()
    (tmp_path / "d.csv").touch()
    with pytest.raises(DataError, match=r"expected a folder or a file of one of \.csv"):
        open_source(tmp_path / "{c,d}.csv")


def test_every_file_name_is_of_one_kind_alone():
    files = {"x.tar", "x.TAR", "x.parquet", "x.tfrecord", "x.tfrecords-00001-of-00010"}
    files |= {f"x{extension}" for reader in READERS for extension in reader.extensions}
    for name in files:
        assert sum(reader.recognises_file(name) for reader in READERS) == 1, name
    assert not any(reader.recognises_file(f"x{extension}") for reader in READERS for extension in (".tar.gz", ".jpg"))
