import subprocess
import sys
from pathlib import Path

import pytest

from kerasimg.errors import CallError
from kerasimg.files import (
    LOCK,
    is_locked,
    lock_folder,
    no_link,
    read_object,
    replacing,
    to_json,
    write_json,
    write_text,
)


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_object(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_written_through_a_link_in_the_folder_of_a_stranger(tmp_path: Path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("mine")
    for name in (".partial-a.json", LOCK, "journal", "history.csv"):
        (folder / name).symlink_to(elsewhere)
    write_json(folder / "a.json", {})
    assert not (folder / "a.json").is_symlink()
    assert is_locked(folder) is False or sys.platform == "win32"
    with lock_folder(folder, "training"):
        assert is_locked(folder)
    for name in ("journal", "history.csv"):
        with pytest.raises(OSError, match="symbolic links"), open(folder / name, "a", opener=no_link):
            pass
    assert elsewhere.read_text() == "mine"


def test_a_missing_folder_is_named_with_the_requested_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone/a\.txt'$"):
        write_text(tmp_path / "gone" / "a.txt", "")


def test_json_is_indented_and_not_escaped(tmp_path: Path):
    assert to_json({"name": "Käse 猫"}) == '{\n  "name": "Käse 猫"\n}'
    write_json(tmp_path / "a.json", ["猫"])
    assert (tmp_path / "a.json").read_bytes() == '[\n  "猫"\n]\n'.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file '{}'"),
        (b"{", "'{}' is damaged (Expecting property name"),
        (b"\xff", "'{}' is damaged ('utf-8' codec"),
        (b"[]", "'{}' is damaged (a JSON object was expected)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CallError) as caught:
        read_object(path)
    assert str(caught.value).startswith(message.format(path))


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path):
    holder = (
        "import sys; from pathlib import Path; from kerasimg.files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1]), 'training'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(CallError, match="another process is training in"), lock_folder(tmp_path, "training"):
            pass
        process.kill()  # its lock ends with it
    with lock_folder(tmp_path, "training"):
        pass
    assert list(tmp_path.iterdir()) == []
