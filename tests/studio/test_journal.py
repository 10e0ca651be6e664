"""Every decision is on the disk before it counts, and a kill at any byte loses none that was answered."""

from pathlib import Path

import pytest

from kerasimg.errors import CallError
from kerasimg.studio.journal import Change, Journal


def decided(path: Path) -> Journal:
    journal = Journal(path)
    journal.edit([Change("a", "label", "cat", "dog"), Change("b", "label", None, "dog")])
    journal.edit([Change("a", "label", "dog", "cow")])
    return journal


def test_an_edit_is_undone_and_done_again_as_a_whole(tmp_path: Path):
    journal = decided(tmp_path / "journal")
    assert journal.undo() == [Change("a", "label", "cow", "dog")]
    assert {change.subject for change in journal.undo()} == {"a", "b"}
    assert (journal.value("a", "label"), journal.value("b", "label"), journal.undo()) == ("cat", None, [])
    journal.redo()
    assert (journal.value("a", "label"), journal.undoable, journal.redoable) == ("dog", 1, 1)


def test_a_new_edit_ends_what_can_be_done_again(tmp_path: Path):
    journal = decided(tmp_path / "journal")
    journal.undo()
    journal.edit([Change("b", "label", "dog", "cat")])
    assert journal.redo() == []


def test_an_edit_that_changes_nothing_is_not_written(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    assert journal.edit([Change("a", "label", "cat", "cat")]) == []
    assert not journal.path.exists()


def test_a_journal_cut_at_any_byte_opens_with_the_whole_lines(tmp_path: Path):
    journal = decided(tmp_path / "journal")
    journal.undo()
    content = journal.path.read_bytes()
    for end in range(len(content) + 1):
        (tmp_path / "cut").write_bytes(content[:end])
        opened = Journal(tmp_path / "cut")
        assert opened.version == content[:end].count(b"\n")
        opened.edit([Change("c", "label", None, "cat")])
        assert Journal(tmp_path / "cut").values == opened.values


def test_a_damaged_line_is_named(tmp_path: Path):
    path = decided(tmp_path / "journal").path
    for damage in (b"{}\n", b"not JSON\n", b'{"undo": 9}\n', b'{"edit": [["a"]]}\n', b"[]\n"):
        (tmp_path / "damaged").write_bytes(path.read_bytes() + damage)
        with pytest.raises(CallError, match=r"damaged', line 3: is not as the studio wrote it"):
            Journal(tmp_path / "damaged")


def test_decisions_follow_a_moved_file(tmp_path: Path):
    journal = decided(tmp_path / "journal")
    journal.begin_moves([("a", "cow/a")])
    assert Journal(journal.path).open_moves == [("a", "cow/a")]
    journal.end_moves([("a", "cow/a")])
    again = Journal(journal.path)
    assert (again.value("cow/a", "label"), again.value("a", "label"), again.open_moves) == ("cow", None, [])
    assert again.undo() == [Change("cow/a", "label", "cow", "dog")]


def test_a_decision_that_the_disk_refuses_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = decided(tmp_path / "journal")
    content = journal.path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space"):
            journal.edit([Change("c", "label", None, "dog")])
    assert (journal.path.read_bytes(), journal.value("c", "label")) == (content, None)
    journal.edit([Change("d", "label", None, "dog")])
    assert Journal(journal.path).values == journal.values
