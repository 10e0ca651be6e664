"""Labels are decisions; files move only on request, and are complete wherever the process was killed."""

import os
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from kerasimg.data.image_files import BadImage
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError
from kerasimg.files import PARTIAL
from kerasimg.studio.library import LEFT_OUT, Conflict, Library, checked_class
from kerasimg.studio.thumbnails import Thumbnails


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png") if "thumbnails" not in path.parts)


def number(library: Library, path: str) -> int:
    found = library.number_of(path)
    assert found is not None
    return found


def test_images_are_numbered_by_name_however_the_file_system_lists_them(library: Library):
    assert list(library.paths) == ["blue/00.png", "red/00.png", "red/01.png", "red/blue.png", "unlabelled/a.png"]


def test_a_thumbnail_is_of_the_image_that_is_there(tmp_path: Path):
    thumbnails, file = Thumbnails(tmp_path / "thumbnails"), tmp_path / "a.bmp"
    seen = []
    for colour in ("red", "blue", "blue"):
        PIL.Image.new("RGB", (8, 8), colour).save(tmp_path / "new.bmp")
        os.utime(tmp_path / "new.bmp", ns=(0, 1))
        time.sleep(0.05)  # the clock of a file system may tick slowly
        (tmp_path / "new.bmp").replace(file)
        seen.append(thumbnails.read(file))
    assert seen[0] != seen[1] == seen[2] == thumbnails.read(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        thumbnails.read(file)


BEFORE = ["blue/00.png", "red/00.png", "red/01.png", "red/blue.png", "unlabelled/a.png"]


def test_a_folder_is_listed_with_the_labels_of_its_folders(library: Library):
    assert [(path, label) for _, path, label in library.rows(library.select())] == [
        *(("blue/00.png", "blue"), ("red/00.png", "red"), ("red/01.png", "red"), ("red/blue.png", "red")),
        ("unlabelled/a.png", None),
    ]
    assert library.classes() == ("blue", "red")


def test_a_label_moves_no_file_until_it_is_asked_for(library: Library, photos: Path):
    library.set_labels([number(library, "red/blue.png")], "blue")
    library.set_labels([number(library, "unlabelled/a.png")], "red")
    assert files(photos) == BEFORE
    assert library.summary()["to_move"] == 2
    assert library.move_files() == 2
    assert files(photos) == ["blue/00.png", "blue/blue.png", "red/00.png", "red/01.png", "red/a.png"]
    assert library.summary()["to_move"] == 0


def test_everything_is_as_it_was_when_the_studio_opens_again(photos: Path):
    with Library(photos) as library:
        library.add_class("grey")
        library.set_labels([number(library, "red/blue.png")], "grey")
        library.undo()
        library.set_labels([number(library, "red/blue.png")], "blue")
    with Library(photos) as again:
        assert again.labels[number(again, "red/blue.png")] == "blue"
        assert again.classes() == ("blue", "grey", "red")
        again.undo()
        assert again.labels[number(again, "red/blue.png")] == "red"


def test_a_second_studio_on_the_folder_is_refused(library: Library, photos: Path):
    with pytest.raises(CallError, match="another process is showing the studio"):
        Library(photos)


def test_a_label_that_another_tab_has_changed_is_a_conflict(library: Library):
    place = number(library, "red/blue.png")
    library.set_labels([place], "blue", ["red"])
    with pytest.raises(Conflict, match=r"red/blue.png: labelled in another tab meanwhile; nothing was changed"):
        library.set_labels([number(library, "red/00.png"), place], "grey", ["red", "red"])
    assert library.labels[number(library, "red/00.png")] == "red"


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("survivors", range(5))
def test_a_kill_at_any_point_of_a_move_loses_and_halves_nothing(
    photos: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
):
    """The process is killed before the first file is renamed, after each one, and before the journal hears of it."""
    rename = Path.rename
    renamed: list[Any] = []

    def kill(path: Path, target: Path) -> Path:
        if len(renamed) == survivors:
            raise Killed
        renamed.append(target)
        return rename(path, target)

    contents = {(photos / name).read_bytes() for name in BEFORE}
    with Library(photos) as library:
        library.set_labels([0, 1, 2, 3, 4], "grey")
        monkeypatch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            library.move_files()
        monkeypatch.setattr(Path, "rename", rename)
    with Library(photos) as again:
        assert again.summary()["to_move"] == 0
        assert set(again.labels) == {"grey"}
        again.undo()
        assert sorted(map(str, again.labels)) == ["None", "blue", "red", "red", "red"]
    assert {path.split("/")[0] for path in files(photos)} == {"grey"}
    assert {(photos / name).read_bytes() for name in files(photos)} == contents


def test_a_file_that_came_to_the_target_meanwhile_is_not_replaced(photos: Path):
    with Library(photos) as library:
        library.journal.begin_moves([("red/00.png", "blue/00.png")])
        content = (photos / "blue/00.png").read_bytes()
    with Library(photos) as again:
        assert (photos / "blue/00.png").read_bytes() == content
        assert again.number_of("red/00.png") is not None
        assert again.journal.open_moves == []


def test_files_of_the_same_name_get_numbers(library: Library, photos: Path):
    library.set_labels([number(library, "red/00.png"), number(library, "red/01.png")], "blue")
    library.move_files()
    assert files(photos) == ["blue/00-2.png", "blue/00.png", "blue/01.png", "red/blue.png", "unlabelled/a.png"]


def test_what_is_left_out_is_moved_aside_and_can_come_back(photos: Path):
    with Library(photos) as library:
        library.set_labels([number(library, "red/00.png")], LEFT_OUT)
        assert "red/00.png" not in library.manifest(photos)
        library.move_files()
        assert (photos / ".kerasimg/left_out/red/00.png").is_file()
    with Library(photos) as again:
        [back] = again.select(LEFT_OUT)
        again.set_labels([back], "blue")
        again.move_files()
    assert (photos / "blue/00-2.png").is_file()


def test_images_stay_in_their_part(images: Any, tmp_path: Path):
    images(tmp_path, {"train/red": 1, "train/blue": 1, "test/red": 1})
    with Library(tmp_path) as library:
        library.set_labels([number(library, "train/red/00.png"), number(library, "test/red/00.png")], "blue")
        library.move_files()
        assert files(tmp_path) == ["test/blue/00.png", "train/blue/00-2.png", "train/blue/00.png"]
        assert "test/blue/00.png,blue,test" in library.manifest(tmp_path)


def test_a_move_does_not_follow_a_link_out_of_the_folder(library: Library, photos: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", photos / "away")
    library.set_labels([0], "away")
    with pytest.raises(CallError, match="is a link that leaves"):
        library.move_files()
    with pytest.raises(CallError, match="is a link that leaves"):
        library.add_image((photos / "red/00.png").read_bytes(), "away")
    os.symlink(tmp_path / "elsewhere/stolen", photos / "red" / PARTIAL.format("new.png"))
    library.add_image((photos / "red/00.png").read_bytes(), "red", "new.png")
    assert not (photos / "red/new.png").is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", ".hidden", "a/b", "a\\b", "/etc", "a\0b", "a\nb", "unlabelled", "x" * 256, "thumbs.db", "a."],
)
def test_a_class_that_cannot_be_a_folder_is_refused(name: str):
    with pytest.raises(CallError, match="class '"):
        checked_class(name)


def test_the_manifest_has_the_labels_for_every_command(library: Library):
    library.set_labels([number(library, "red/blue.png")], "=blue, or not")
    source = open_source(str(library.write_manifest()))
    assert {(item.id, *item.labels) for item in source.items} == {
        *(("../blue/00.png", "blue"), ("../red/00.png", "red"), ("../red/01.png", "red")),
        ("../red/blue.png", "=blue, or not"),
    }
    assert library.number_of("../red/blue.png") == number(library, "red/blue.png")


def test_a_photograph_becomes_an_image_of_a_class_and_undo_leaves_it_out(library: Library, photos: Path):
    content = (photos / "red/00.png").read_bytes()
    places = [library.add_image(content, "green") for _ in range(2)]
    assert len({library.paths[place] for place in places}) == 2
    assert all(library.file(place).read_bytes() == content for place in places)
    library.undo()
    assert [library.labels[place] for place in places] == ["green", LEFT_OUT]
    with pytest.raises(BadImage):
        library.add_image(b"<svg>", "green")


def test_new_and_removed_files_are_seen_when_asked(library: Library, photos: Path):
    (photos / "red/00.png").rename(photos / "blue/new.png")
    assert library.rescan() == 1
    assert [path for _, path, _ in library.rows(library.select("blue"))] == ["blue/00.png", "blue/new.png"]
    assert library.summary()["total"] == 5


def test_a_filter_searches_in_the_path_of_images(library: Library):
    library.set_labels([number(library, "red/blue.png")], "blue")
    assert library.rows(library.select(text="BLUE", status="to_move"))[0][1] == "red/blue.png"
    assert len(library.select(text="BLUE")) == 2
    assert len(library.select(None)) == 1


def test_a_file_that_cannot_be_moved_stays_and_is_planned_again(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "00.png":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    library.set_labels([number(library, path) for path in ("blue/00.png", "red/00.png", "red/01.png")], "grey")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        assert library.move_files() == 1
    assert files(photos) == ["blue/00.png", "grey/01.png", "red/00.png", "red/blue.png", "unlabelled/a.png"]
    assert library.move_files() == 2
    assert library.summary()["to_move"] == 0


def test_a_folder_without_images_is_a_class(photos: Path):
    for name in ("empty", "train/also empty", ".hidden", "red/below a class"):
        (photos / name).mkdir(parents=True)
    with Library(photos) as library:
        assert library.classes() == ("also empty", "blue", "empty", "red")
        (photos / "new").mkdir()
        before = library.version
        library.rescan()
        assert "new" in library.classes()
        assert library.version > before


@pytest.mark.parametrize("name", [".kerasimg", ".kerasimg/journal.jsonl", ".kerasimg/thumbnails/ab"])
def test_nothing_is_written_through_a_link_of_a_strangers_folder(photos: Path, tmp_path: Path, name: str):
    target = tmp_path / "elsewhere"
    if name.endswith("jsonl"):
        target.write_text("")
    else:
        target.mkdir()
    (photos / name).parent.mkdir(parents=True, exist_ok=True)
    (photos / name).symlink_to(target)
    with pytest.raises(CallError, match="is a link that leaves"), Library(photos):
        pass
    assert target.read_text() == "" if target.is_file() else not list(target.iterdir())
