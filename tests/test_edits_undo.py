"""Undo: what it takes back, what it refuses, and the journal that it lives on."""

import stat
from pathlib import Path

import pytest
from edits_room import POSIX, Room, block, files_below, no_waiting, room_fixture  # noqa: F401 - fixtures

from coderv2_local.edits import (
    Busy,
    EditRefused,
    NothingToUndo,
    Workspace,
    apply_edits,
    interrupted,
    journal,
    propose,
    undo,
)


def test_undo_refuses_a_file_that_somebody_changed_and_keeps_the_bytes_reachable(room):
    room.write(a_py="a\n", b_py="b\n")
    room.apply(block("a.py", "A\n") + block("b.py", "B\n"))
    room.write(b_py="mine\n")
    state = room.files()
    with pytest.raises(EditRefused, match=r"b\.py changed after the edit: nothing was undone") as refused:
        undo(room.journal)
    assert room.files() == state
    kept = Path(refused.value.hint.split(" is in ")[1])
    assert kept.read_bytes() == b"b\n"
    (room.root / "b.py").rename(room.root / "mine.py")  # what the hint says
    undo(room.journal)
    assert room.files() == {"a.py": b"a\n", "b.py": b"b\n", "mine.py": b"mine\n"}


def test_undo_of_a_new_file_that_somebody_changed(room):
    room.apply(block("n.py", "n\n"))
    room.write(n_py="mine\n")
    with pytest.raises(EditRefused, match=r"n\.py changed"):
        undo(room.journal)
    assert room.files() == {"n.py": b"mine\n"}


def test_folders_that_were_made_go_only_when_empty(room):
    room.apply(block("x/y/n.py", "n\n"))
    (room.root / "x" / "mine.txt").write_text("")
    undo(room.journal)
    assert set(room.files()) == {"x/", "x/mine.txt"}


def test_undo_by_workspace_and_by_command(room, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    room.apply(block("a.py", "a\n"))
    elsewhere = Workspace(other)
    apply_edits(propose(block("b.py", "b\n"), elsewhere), elsewhere, room.journal, made_by="fim")
    with pytest.raises(NothingToUndo):
        undo(room.journal, root=tmp_path)
    undo(room.journal, made_by="chat")
    assert room.files() == {}
    assert (other / "b.py").exists()
    assert undo(room.journal, root=elsewhere.root).made_by == "fim"
    assert not (other / "b.py").exists()


def test_the_journal_drops_the_oldest(tmp_path):
    room = Room(tmp_path)
    room.journal.max_bytes = 60_000
    room.write(a_py="0" * 20_000)
    for i in range(1, 6):
        room.apply(block("a.py", str(i) * 20_000 + "\n"))
    kept = room.journal.changes()
    assert [c.number for c in kept] == [4, 5]
    undo(room.journal)
    undo(room.journal)
    with pytest.raises(NothingToUndo):
        undo(room.journal)
    assert (room.root / "a.py").read_text().startswith("33")


def test_the_journal_drops_the_oldest_of_too_many(room, monkeypatch):
    monkeypatch.setattr(journal, "MAX_CHANGES", 3)
    for i in range(6):
        room.apply(block("a.py", f"{i}\n"))
    assert [c.number for c in room.journal.changes()] == [4, 5, 6]


def test_a_change_larger_than_the_journal_is_refused(room):
    room.journal.max_bytes = 10
    room.write(a_py="0" * 11)
    with pytest.raises(EditRefused, match="more than the undo journal keeps"):
        room.apply(block("a.py", "1\n"))
    assert room.files() == {"a.py": b"0" * 11}


def test_a_damaged_journal_is_refused_by_name_and_changes_nothing(room):
    room.write(a_py="a\n")
    room.apply(block("a.py", "A\n"))
    kept = room.journal.folder / "000001" / "before-0"
    kept.write_bytes(b"x")
    with pytest.raises(EditRefused, match="before-0 is damaged"):
        undo(room.journal)
    record = room.journal.folder / "000001" / "record.json"
    for text in ("", "[]", '{"version": 99}', '{"version": 1}', '{"version": 1, "root": 1}'):
        record.write_text(text)
        with pytest.raises(EditRefused, match="000001 cannot be read"):
            undo(room.journal)
    assert room.files() == {"a.py": b"A\n"}


def test_a_journal_that_was_tampered_with_leads_nowhere(room, tmp_path):
    room.write(a_py="a\n")
    room.apply(block("a.py", "A\n"))
    (tmp_path / "a.py").write_text("A\n")
    record = room.journal.folder / "000001" / "record.json"
    record.write_text(record.read_text().replace('"path": "a.py"', '"path": "../a.py"'))
    with pytest.raises(EditRefused, match="not a path in the workspace"):
        undo(room.journal)
    assert (tmp_path / "a.py").read_text() == "A\n"


def test_a_journal_that_cannot_be_written_stops_the_edit(room):
    room.journal.folder.parent.mkdir()
    room.journal.folder.write_text("a file where the folder should be")
    room.write(a_py="a\n")
    with pytest.raises(EditRefused, match="undo journal"):
        room.apply(block("a.py", "A\n"))
    assert room.files() == {"a.py": b"a\n"}


@POSIX
def test_only_the_owner_reads_the_journal(room):
    room.write(a_py="a\n")
    room.apply(block("a.py", "A\n"))
    for path in [room.journal.folder, *room.journal.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_one_process_at_a_time(room):
    room.journal.folder.mkdir(parents=True)
    with room.journal.locked():
        with pytest.raises(Busy, match="another coder"):
            room.apply(block("a.py", "a\n"))
        assert interrupted(room.journal) == []
    room.apply(block("a.py", "a\n"))


def test_undo_when_the_workspace_is_gone(room, tmp_path):
    room.apply(block("a.py", "a\n"))
    room.root.rename(tmp_path / "moved")
    with pytest.raises(EditRefused, match="project is not a folder"):
        undo(room.journal)


def test_the_bytes_before_are_on_disk_before_the_file_is_replaced(room, monkeypatch):
    """The order that makes undo possible after a power cut: record synced, then the new bytes, then the name."""
    room.write(a_py="a\n")
    events = []

    def spy(module: object, name: str, label: str) -> None:
        real = getattr(module, name)

        def called(*args: object, **more: object) -> object:
            events.append(label)
            return real(*args, **more)

        monkeypatch.setattr(module, name, called)

    spy(journal, "_sync_folder", "sync folder:")
    spy(journal.os, "fsync", "sync")
    spy(journal.os, "rename", "name record")
    spy(journal.os, "replace", "replace")
    room.apply(block("a.py", "A\n"))
    named, replaced = events.index("name record"), events.index("replace")
    assert events[:named] == ["sync", "sync", "sync folder:", "sync"]  # before-0, record.json, their folder
    assert events[named + 1 : named + 3] == ["sync folder:", "sync"]
    assert named < replaced
    assert events[replaced - 1] == "sync"  # the new bytes
    assert events[replaced + 1] == "sync"  # the new name
