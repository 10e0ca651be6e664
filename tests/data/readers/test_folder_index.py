import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kerasimg.cache_folder import cache_folder
from kerasimg.data.readers import folder_index
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were listed since the test last looked."""
    calls: list[str] = []
    monkeypatch.setattr(folder_index, "SETTLED_NS", -(10**18))
    scan = folder_index.list_folder
    monkeypatch.setattr(folder_index, "list_folder", lambda path: calls.append(os.path.basename(path)) or scan(path))
    return calls


def ids(source: Source) -> list[str]:
    return [item.id for item in source.items]


def index_file() -> Path:
    return next((cache_folder() / "index").iterdir())


def test_the_second_start_lists_no_folder(folder: Folder, listed: list[str]):
    root = folder("cat/1.png", "cat/black/2.png", "dog/1.png", "dog/note.txt")
    first = open_source(root)
    assert sorted(listed) == ["black", "cat", "dog", "pets"]
    listed.clear()
    second = open_source(root)
    assert listed == []
    assert ids(second) == ids(first) == ["cat/1.png", "cat/black/2.png", "dog/1.png"]
    assert (second.ignored, second.classes) == (1, ("cat", "dog"))
    assert [item.image for item in second.items] == [item.image for item in first.items]


def test_only_folders_that_were_changed_are_listed_again(folder: Folder, listed: list[str]):
    root = folder("cat/1.png", "dog/1.png", "emu/1.png")
    open_source(root)
    listed.clear()
    (root / "dog" / "2.png").touch()
    (root / "emu" / "1.png").unlink()
    (root / "emu" / "3.png").touch()
    assert ids(open_source(root)) == ["cat/1.png", "dog/1.png", "dog/2.png", "emu/3.png"]
    assert sorted(listed) == ["dog", "emu"]
    listed.clear()
    folder("fox/1.png")
    assert ids(open_source(root))[-1] == "fox/1.png"
    assert sorted(listed) == ["fox", "pets"]


def test_a_folder_whose_time_was_turned_back_is_listed_again(folder: Folder, listed: list[str]):
    root = folder("cat/1.png", "dog/1.png")
    before = os.stat(root / "cat").st_mtime_ns
    open_source(root)
    (root / "cat" / "2.png").touch()
    os.utime(root / "cat", ns=(before, before))
    assert ids(open_source(root)) == ["cat/1.png", "cat/2.png", "dog/1.png"]


def test_a_folder_that_was_just_changed_is_not_relied_on(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    open_source(root)
    assert not (cache_folder() / "index").exists()


def test_links_that_lead_to_folders_are_looked_at_every_time(folder: Folder, listed: list[str], tmp_path: Path):
    root = folder("cat/1.png", "dog/1.png")
    (root / "emu").symlink_to(tmp_path / "later")
    assert open_source(root).classes == ("cat", "dog")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "1.png").touch()
    assert open_source(root).classes == ("cat", "dog", "emu")


def test_the_same_tree_by_another_path_has_the_same_index(
    folder: Folder, listed: list[str], monkeypatch: pytest.MonkeyPatch
):
    root = folder("cat/1.png", "dog/1.png")
    open_source(root)
    listed.clear()
    monkeypatch.chdir(root.parent)
    source = open_source("pets")
    assert listed == []
    assert source.items[0].image == os.path.join("pets", "cat", "1.png")


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_or_foreign_index_is_dropped_and_made_again(
    folder: Folder, listed: list[str], content: bytes | None, tmp_path: Path
):
    root = folder("cat/1.png", "dog/1.png")
    open_source(root)
    path = index_file()
    if content is None:  # that of another tree, under this one's name
        other = tmp_path / "other"
        for name in ("ant", "bee"):
            (other / name).mkdir(parents=True)
            (other / name / "9.png").touch()
        open_source(other)
        content = next(one for one in path.parent.iterdir() if one != path).read_bytes()
    path.write_bytes(content)
    listed.clear()
    assert ids(open_source(root)) == ["cat/1.png", "dog/1.png"]
    assert sorted(listed) == ["cat", "dog", "pets"]
    listed.clear()
    open_source(root)
    assert listed == []


def test_no_more_indices_are_kept_than_that(folder: Folder, listed: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_index, "TREES", 2)
    root = folder(*(f"{tree}/{name}/1.png" for tree in "abcd" for name in ("cat", "dog")))
    for tree in "abcd":
        open_source(root / tree)
        time.sleep(0.01)
    assert len(list((cache_folder() / "index").iterdir())) == 2


def test_a_cache_folder_that_cannot_be_written_to_changes_nothing(
    folder: Folder, listed: list[str], monkeypatch: pytest.MonkeyPatch
):
    root = folder("cat/1.png", "dog/1.png")
    monkeypatch.setenv("KERASIMG_CACHE", str(root / "cat" / "1.png"))
    assert ids(open_source(root)) == ids(open_source(root)) == ["cat/1.png", "dog/1.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is closed to an administrator")
def test_a_folder_that_cannot_be_read_is_a_fault(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    (root / "dog").chmod(0)
    with pytest.raises(DataError, match=r"dog: cannot be read \(Permission denied\)"):
        open_source(root)


def test_a_folder_that_vanishes_is_a_fault(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    root = folder("cat/1.png", "dog/1.png")
    scan = folder_index.list_folder

    def vanish(path: str):
        found = scan(path)
        if os.path.basename(path) == "pets":
            (root / "dog" / "1.png").unlink()
            (root / "dog").rmdir()
        return found

    monkeypatch.setattr(folder_index, "list_folder", vanish)
    with pytest.raises(DataError, match=r"dog: cannot be read \(No such file or directory\)"):
        open_source(root)


def test_paths_stand_in_their_order_however_folders_and_files_alternate(folder: Folder, listed: list[str]):
    names = ["cat/a.png", "cat/b/1.png", "cat/c.png", "cat b/1.png", "cat/b!.png", "cat/b/2/1.png", "cat0/1.png"]
    root = folder(*names)
    for _ in range(2):
        source = open_source(root)
        assert ids(source) == sorted(names)
        assert [os.path.relpath(item.image, root) for item in source.items] == sorted(names)
        assert [item.labels[0] for item in source.items] == [name.split("/")[0] for name in sorted(names)]
