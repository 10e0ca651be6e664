"""The manifest without the bad images: what it leaves out, and that it is data to train on."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.audit.data_check import check_data
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError


def photo(seed: int) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize((40, 40), PIL.Image.Resampling.BICUBIC)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Parts with a leak, a conflict, a duplicate, a copy and a broken file."""
    number = 0
    for part, count in (("train", 20), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / part / label
            folder.mkdir(parents=True)
            for place in range(count):
                photo(number).save(folder / f"{place:02}.png")
                number += 1
    train, test = tmp_path / "pets" / "train", tmp_path / "pets" / "test"
    photo(0).save(test / "cat" / "leak.png")  # is train/cat/00
    photo(1).save(train / "dog" / "conflict.png")  # is train/cat/01
    photo(2).save(train / "cat" / "twice.png")  # is train/cat/02
    photo(3).resize((32, 32)).save(test / "cat" / "copy.png")  # of train/cat/03
    (train / "dog" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path / "pets"


def test_it_leaves_out_what_is_bad_and_keeps_the_parts(bad: Path, tmp_path: Path):
    before = sorted((path, path.stat().st_mtime_ns) for path in bad.rglob("*"))
    checked = check_data(bad)
    lists = tmp_path / "lists"
    lists.mkdir()
    assert checked.write_fix_list(lists / "fixed.csv") == 53 - 5
    with open(lists / "fixed.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    listed = {row["path"] for row in rows}
    every = {f"../pets/{item.id}" for item in checked.source.items}
    assert every - listed == {
        "../pets/train/cat/00.png",
        "../pets/train/cat/01.png",
        "../pets/train/dog/conflict.png",
        "../pets/train/cat/twice.png",
        "../pets/train/dog/broken.png",
    }
    assert {row["split"] for row in rows if "/test/" in row["path"]} == {"test"}
    assert sorted((path, path.stat().st_mtime_ns) for path in bad.rglob("*")) == before


def test_what_it_lists_has_nothing_left_to_mend(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_data("pets").write_fix_list("fixed.csv")
    again = check_data("fixed.csv")
    assert again.ok
    assert [one.kind for one in again.findings] == ["near_leak"]
    monkeypatch.chdir(bad)
    assert len(open_source(tmp_path / "fixed.csv")) == 48


def test_of_near_copies_one_is_kept_where_that_is_asked_for(bad: Path, tmp_path: Path):
    checked = check_data(bad)
    assert checked.write_fix_list(tmp_path / "fixed.csv", near=True) == 53 - 6
    names = {checked.source.items[index].id: kind for index, kind in checked.left_out(near=True).items()}
    assert names["train/cat/03.png"] == "near_leak"
    assert check_data(tmp_path / "fixed.csv").findings == ()


def test_what_a_manifest_says_besides_is_kept(bad: Path, tmp_path: Path):
    rows = [
        {"path": f"pets/train/cat/{place:02}.png", "labels": ["a|b", "c"] if place % 2 else ["c"], "site": "north"}
        for place in range(10)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    checked = check_data(tmp_path / "in.jsonl", task="multilabel")
    checked.write_fix_list(tmp_path / "out.jsonl")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    with pytest.raises(CallError, match=r"'a\|b' holds a '\|'"):
        checked.write_fix_list(tmp_path / "out.csv")


def test_what_cannot_be_listed_is_said(bad: Path, tmp_path: Path):
    with pytest.raises(CallError, match=r"ends in \.csv or \.jsonl"):
        check_data(bad).write_fix_list(tmp_path / "fixed.txt")
    arrays = (np.stack([np.asarray(photo(seed)) for seed in range(40)]), np.arange(40) % 2)
    with pytest.raises(CallError, match="not files of their own"):
        check_data(arrays).write_fix_list(tmp_path / "fixed.csv")
    os.rename(bad, tmp_path / "pets2")
    (tmp_path / "in.csv").write_text("path,label\npets2/train/cat/00.png,cat\npets2/train/dog/00.png,dog\n")
    with pytest.raises(CallError, match="is the data itself"):
        check_data(tmp_path / "in.csv").write_fix_list(tmp_path / "in.csv")
