import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data.decode import decode
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError
from kerasimg.spec.document import Image

Encoded = Callable[[int], bytes]


def write(path: Path, members: dict[str, bytes | None], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def message(path: Path, task: str = "multiclass") -> str:
    with pytest.raises(DataError) as caught:
        open_source(path, task)
    return str(caught.value).replace(f"{path}: ", "")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_and_labels_of_one_name_belong_together(tmp_path: Path, encoded: Encoded, form: int):
    path = write(
        tmp_path / "pets.tar",
        {
            "./a": None,
            "a/1.cls": b"3\n",
            "a/1.png": encoded(1),
            "a/2.seg.txt": b"other",
            "a/2.JPG": encoded(2),
            "a/2.json": json.dumps({"width": 4, "label": 10}).encode(),
            "a/._2.png": b"left behind",
            "b/2.png": encoded(3),
            "b/2.txt": b" 3",
            "note.txt": b"no image",
        },
        form,
    )
    source = open_source(path)
    assert [(item.id, item.labels) for item in source.items] == [
        ("pets.tar/a/1.png", ("3",)),
        ("pets.tar/a/2.JPG", ("10",)),
        ("pets.tar/b/2.png", ("3",)),
    ]
    assert source.classes == ("3", "10")
    assert [item.image for item in source.items] == [encoded(1), encoded(2), encoded(3)]
    assert decode(source.items[1].image, Image(size=[3, 4]))[0, 0].tolist() == [2, 100, 200]


def test_names_may_be_long_and_not_ascii(tmp_path: Path, encoded: Encoded):
    names = ["ž" * 120 + "/1", "a" * 200 + "/2"]
    members = {f"{name}{end}": content for name in names for end, content in ((".png", encoded(1)), (".cls", b"x"))}
    source = open_source(write(tmp_path / "pets.tar", members), classes=["x"])
    assert [item.id for item in source.items] == [f"pets.tar/{name}.png" for name in names]
    assert source.items[1].image == encoded(1)


def test_several_labels_stand_in_json(tmp_path: Path, encoded: Encoded):
    members = {"1.png": encoded(1), "1.json": b'{"labels": ["red", "round"]}'}
    members |= {"2.png": encoded(2), "2.json": b'{"labels": []}'}
    path = write(tmp_path / "pets.tar", members)
    assert open_source(path, "multilabel").label_ids().tolist() == [[1, 1], [0, 0]]
    assert message(path).splitlines() == [
        "image 0: expected one label, got 2; several per image: --task multilabel",
        "image 1: expected one label, got 0; several per image: --task multilabel",
    ]


def test_all_faults_of_a_shard_are_listed_with_their_members(tmp_path: Path, encoded: Encoded):
    path = write(
        tmp_path / "pets.tar",
        {
            "1.png": encoded(1),
            "2.png": encoded(2),
            "2.jpg": encoded(2),
            "2.cls": b"cat",
            "3.png": encoded(3),
            "3.json": b"[1]",
            "4.png": encoded(4),
            "4.json": b'{"width": 3}',
            "5.png": encoded(4),
            "5.cls": b"\xff",
            "6.png": encoded(4),
            "6.json": b'{"label": 0.5}',
            "7.png": encoded(4),
            "7.cls": b"cat",
            "8.png": encoded(4),
            "8.cls": b"cat",
            "7.PNG": encoded(4),
            "7.json": b'{"label": 1}',
            "9.png": encoded(4),
            "9.json": b'{"label":',
        },
    )
    faults = message(path).splitlines()
    assert faults[:5] == [
        "1.png: expected its label in a file .cls, .json, .txt beside it, found .png",
        "2.png: expected one image, found 2.png, 2.jpg",
        "3.png: 3.json: expected an object with one of label, labels, cls, class",
        "4.png: 4.json: expected one of label, labels, cls, class, found width",
        "5.png: 5.cls: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ]
    assert faults[5:7] == [
        "6.png: 6.json: expected a label, got 0.5",
        "7.PNG: its files are not adjacent, or its name occurs twice",
    ]
    assert faults[7].startswith("9.png: 9.json: Expecting value")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b rest", b"\0" * 1024])
def test_what_is_no_tar_file_is_a_fault(tmp_path: Path, content: bytes):
    path = tmp_path / "pets.tar"
    path.write_bytes(content)
    assert "cannot be read as an uncompressed tar file" in message(path) or message(path) == "holds no images"


def test_a_tar_file_that_is_cut_short_is_a_fault(tmp_path: Path):
    noise = np.random.default_rng(0).bytes(5000)
    path = write(tmp_path / "pets.tar", {"1.cls": b"cat", "1.png": noise})
    path.write_bytes(path.read_bytes()[:4000])
    assert message(path) == "1.png: is cut short: the file ends within it, at byte 4,000"


def test_links_and_devices_in_a_tar_file_are_passed_over(tmp_path: Path, encoded: Encoded):
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in (("1.png", encoded(1)), ("1.cls", b"cat")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [item.id for item in open_source(path, classes=["cat"]).items] == ["pets.tar/1.png"]
