"""Edits are written whole or not at all, in one step a file, and taken back byte for byte."""

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.edits import (
    Busy,
    EditRefused,
    Journal,
    NothingToUndo,
    Proposal,
    Workspace,
    apply_edits,
    folder,
    interrupted,
    journal,
    propose,
    propose_range,
    undo,
)
from coderv2_local.edits.text_files import decode, digest_of

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs permission bits and links")


def block(path: str, text: str) -> str:
    return f"`{path}`\n````text\n{text}````\n\n"


def files_below(root: Path) -> dict[str, bytes]:
    """Every file below a folder; folders end with a slash."""
    return {str(p.relative_to(root)) + "/" * p.is_dir(): b"" if p.is_dir() else p.read_bytes() for p in root.rglob("*")}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is synced, and when, has a test of its own; the others need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


class Room:
    """A workspace, and a journal beside it."""

    def __init__(self, base: Path) -> None:
        self.root = base / "project"
        self.root.mkdir()
        self.workspace = Workspace(self.root)
        self.journal = Journal(base / "home" / "undo")

    def write(self, **files: "str | bytes") -> None:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (self.root / name.replace("_", ".")).write_bytes(data)

    def apply(self, answer: str) -> None:
        apply_edits(propose(answer, self.workspace), self.workspace, self.journal, made_by="chat")

    def files(self) -> dict[str, bytes]:
        return files_below(self.root)


@pytest.fixture
def room(tmp_path) -> Room:
    return Room(tmp_path)


GONE = "--- a/c.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-c\n"


@pytest.mark.parametrize("handles", [True, False])
def test_apply_and_undo_of_every_kind_together(room, handles, monkeypatch):
    if handles and not folder.HAS_HANDLES:
        pytest.skip("no folder handles on this platform")
    monkeypatch.setattr(folder, "HAS_HANDLES", handles)
    room.write(a_py="a\r\n", b_py="1\n2\n", c_py="c\n", other_py="o\n")
    before = room.files()
    answer = (
        block("a.py", "A\n") + "--- a/b.py\n+++ b/b.py\n@@ -1 +1 @@\n-2\n+3\n\n" + GONE + block("x/y/n.py", "new\n")
    )
    room.apply(answer)
    assert room.files() == {
        "a.py": b"A\r\n",
        "b.py": b"1\n3\n",
        "other.py": b"o\n",
        "x/": b"",
        "x/y/": b"",
        "x/y/n.py": b"new\n",
    }
    change = undo(room.journal)
    assert [f.path for f in change.files] == ["a.py", "b.py", "c.py", "x/y/n.py"]
    assert room.files() == before
    with pytest.raises(NothingToUndo):
        undo(room.journal)


def test_undo_goes_back_step_by_step(room):
    states = [room.files()]
    for text in ("1\n", "2\n", "1\n", "3\n"):
        room.apply(block("a.py", text))
        states.append(room.files())
    for state in reversed(states[:-1]):
        undo(room.journal)
        assert room.files() == state


@settings(deadline=None)  # files
@given(
    data=st.binary(max_size=60) | st.text(max_size=30).map(lambda t: t.encode("utf-16")),
    new=st.binary(max_size=60),
    delete=st.booleans(),
)
def test_any_bytes_come_back(tmp_path_factory, data, new, delete):
    """Also bytes that no answer could be applied to: the journal does not care what they are."""
    room = Room(tmp_path_factory.mktemp("any"))
    room.write(a_py=data)
    proposal = Proposal("a.py", "replace", before=digest_of(data), after=None if delete else new)
    apply_edits([proposal], room.workspace, room.journal, made_by="chat")
    assert room.files() == ({} if delete else {"a.py": new})
    undo(room.journal)
    assert room.files() == {"a.py": data}


@POSIX
def test_mode_is_kept_by_apply_and_by_undo(room):
    room.write(a_py="a\n", c_py="c\n")
    (room.root / "a.py").chmod(0o751)
    (room.root / "c.py").chmod(0o604)
    room.apply(block("a.py", "b\n") + GONE)
    assert stat.S_IMODE((room.root / "a.py").stat().st_mode) == 0o751
    undo(room.journal)
    assert stat.S_IMODE((room.root / "a.py").stat().st_mode) == 0o751
    assert stat.S_IMODE((room.root / "c.py").stat().st_mode) == 0o604
    room.apply(block("n.py", "n\n"))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((room.root / "n.py").stat().st_mode) == 0o666 & ~umask


@POSIX
def test_a_link_inside_the_workspace_stays_a_link(room):
    room.write(a_py="a\n")
    (room.root / "link.py").symlink_to("a.py")
    room.apply(block("link.py", "b\n"))
    assert (room.root / "link.py").is_symlink()
    assert (room.root / "a.py").read_text() == "b\n"


@POSIX
def test_write_protected_files_are_refused_by_name(room):
    room.write(a_py="a\n", b_py="b\n")
    (room.root / "b.py").chmod(0o444)
    with pytest.raises(EditRefused, match=r"b\.py is write-protected"):
        room.apply(block("a.py", "A\n") + block("b.py", "B\n"))
    assert room.files() == {"a.py": b"a\n", "b.py": b"b\n"}


@pytest.mark.parametrize("meanwhile", ["changed", "deleted", "created"])
def test_a_file_that_changed_meanwhile_is_refused_and_nothing_is_lost(room, meanwhile):
    room.write(a_py="a\n", **({} if meanwhile == "created" else {"b_py": "b\n"}))
    proposals = propose(block("a.py", "A\n") + block("b.py", "B\n"), room.workspace)
    if meanwhile == "deleted":
        (room.root / "b.py").unlink()
    else:
        room.write(b_py="mine\n")
    state = room.files()
    with pytest.raises(EditRefused, match=r"b\.py changed after it was read"):
        apply_edits(proposals, room.workspace, room.journal, made_by="chat")
    assert room.files() == state
    with pytest.raises(NothingToUndo):
        undo(room.journal)


@pytest.mark.parametrize("old", ["a\n", None])
def test_a_file_that_changes_at_the_last_moment_is_not_overwritten(room, monkeypatch, old):
    """Somebody saves it, or creates it, while the new bytes are on their way to the disk."""
    if old is not None:
        room.write(a_py=old)
    write = folder.Folder.write

    def meanwhile(self: folder.Folder, name: str, data: bytes, **more: object) -> None:
        write(self, name, data, **more)
        room.write(a_py="mine\n")

    monkeypatch.setattr(folder.Folder, "write", meanwhile)
    with pytest.raises(EditRefused, match=r"a\.py changed after"):
        room.apply(block("a.py", "A\n"))
    assert room.files() == {"a.py": b"mine\n"}


@pytest.mark.parametrize("handles", [True, False])
def test_names_that_are_taken_are_not_written_through(tmp_path, handles, monkeypatch):
    if handles and not folder.HAS_HANDLES:
        pytest.skip("no folder handles on this platform")
    monkeypatch.setattr(folder, "HAS_HANDLES", handles)
    (tmp_path / "old").write_text("old")
    with folder.Folder(tmp_path) as inside:
        with pytest.raises(FileExistsError):
            inside.write("old", b"new")
        inside.write("new", b"new")
        with pytest.raises(FileExistsError):
            inside.create("new", "old")
    assert files_below(tmp_path) == {"old": b"old", "new": b"new"}


def test_a_refused_proposal_or_none_is_not_applied(room):
    with pytest.raises(EditRefused, match=r"\.\./x"):
        room.apply(block("a.py", "a\n") + block("../x", "x\n"))
    with pytest.raises(EditRefused, match="no edit to apply"):
        room.apply("no blocks here")
    assert room.files() == {}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("handles", [True, False])
def test_when_the_third_file_fails_the_first_two_are_put_back(room, monkeypatch, error, handles):
    if handles and not folder.HAS_HANDLES:
        pytest.skip("no folder handles on this platform")
    monkeypatch.setattr(folder, "HAS_HANDLES", handles)
    room.write(a_py="a\n")
    before = room.files()
    write = folder.Folder.write
    written = []

    def failing(self: folder.Folder, name: str, data: bytes, **more: object) -> None:
        if data == b"C\n":
            raise error
        written.append(data)
        write(self, name, data, **more)

    monkeypatch.setattr(folder.Folder, "write", failing)
    with pytest.raises((EditRefused, KeyboardInterrupt)) as raised:
        room.apply(block("a.py", "A\n") + block("new/b.py", "B\n") + block("c.py", "C\n"))
    if isinstance(error, OSError):
        assert "c.py cannot be written: no space left" in str(raised.value)
    assert written[:2] == [b"A\n", b"B\n"]
    assert room.files() == before
    with pytest.raises(NothingToUndo):
        undo(room.journal)


def test_when_putting_back_fails_too_the_record_stays_for_undo(room, monkeypatch):
    room.write(a_py="a\n")
    before = room.files()
    put = folder.Folder.replace

    def once(self: folder.Folder, source: str, target: str) -> None:
        put(self, source, target)
        monkeypatch.setattr(folder.Folder, "write", broken)

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "replace", once)
        with pytest.raises(EditRefused, match="putting back") as raised:
            room.apply(block("a.py", "A\n") + block("b.py", "B\n"))
    assert "undo" in raised.value.hint
    assert (room.root / "a.py").read_text() == "A\n"
    monkeypatch.undo()
    undo(room.journal)
    assert room.files() == before


# -- undo


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


# -- one range of a file that the user named


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_range_is_replaced_and_all_else_keeps_its_bytes(room, codec, marked):
    text = "# é\r\nx = \r\nlast"
    room.write(a_py=text.encode(codec))
    mark = "\ufeff" * (marked and codec != "utf-8")
    at = len(mark) + text.index("\r\nlast")
    workspace, proposal = propose_range(room.root / "a.py", mark + text, at, at, "1\ny = 2")
    apply_edits([proposal], workspace, room.journal, made_by="fim")
    assert (room.root / "a.py").read_bytes() == text.replace("x = ", "x = 1\r\ny = 2").encode(codec)
    assert "+y = 2" in proposal.diff()
    undo(room.journal, made_by="fim")
    assert (room.root / "a.py").read_bytes() == text.encode(codec)


@settings(deadline=None)  # files
@given(st.text(alphabet="ab\r\n é", max_size=20), st.data())
def test_a_range_anywhere(tmp_path_factory, text, data):
    room = Room(tmp_path_factory.mktemp("range"))
    room.write(a_py=text)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    workspace, proposal = propose_range(room.root / "a.py", text, start, end, "NEW")
    assert proposal.after == (text[:start] + "NEW" + text[end:]).encode()
    apply_edits([proposal], workspace, room.journal, made_by="fim")
    undo(room.journal)
    assert room.files() == {"a.py": text.encode()}


def test_ranges_that_are_refused(room, tmp_path):
    path = room.root / "a.py"
    with pytest.raises(EditRefused, match="no such file"):
        propose_range(path, "", 0, 0, "x")
    room.write(a_py="abc\n")
    for start, end in ((-1, 0), (3, 2), (0, 5)):
        with pytest.raises(EditRefused, match="4 characters"):
            propose_range(path, "abc\n", start, end, "x")
    with pytest.raises(EditRefused, match="changed after it was read"):
        propose_range(path, "other\n", 0, 0, "x")
    workspace, proposal = propose_range(path, "abc\n", 0, 1, "x")
    room.write(a_py="mine\n")
    with pytest.raises(EditRefused, match="changed after it was read"):
        apply_edits([proposal], workspace, room.journal, made_by="fim")
    room.write(a_py=b"\x7fELF\0\0")
    with pytest.raises(EditRefused, match=r"a\.py is binary"):
        propose_range(path, "", 0, 0, "x")
    with pytest.raises(EditRefused, match="is a folder"):
        propose_range(room.root, "", 0, 0, "x")
    assert room.files() == {"a.py": b"\x7fELF\0\0"}


@POSIX
def test_a_named_file_may_be_anywhere_also_through_a_link(room, tmp_path):
    (tmp_path / "real.py").write_text("ab\n")
    room.root.joinpath("link.py").symlink_to(tmp_path / "real.py")
    workspace, proposal = propose_range(room.root / "link.py", "ab\n", 1, 1, "-")
    apply_edits([proposal], workspace, room.journal, made_by="fim")
    assert (tmp_path / "real.py").read_text() == "a-b\n"
    assert room.root.joinpath("link.py").is_symlink()


def test_a_range_in_a_mixed_file_takes_the_line_end_of_its_place(room):
    text = "a\r\nb\nc\r\n"
    room.write(a_py=text)
    for at, expected in ((1, "a1\r\n2\r\nb\nc\r\n"), (4, "a\r\nb1\n2\nc\r\n"), (len(text), "a\r\nb\nc\r\n1\r\n2")):
        _, proposal = propose_range(room.root / "a.py", text, at, at, "1\n2")
        assert proposal.new == expected
        assert decode(expected.encode(), "x").text == expected


@pytest.mark.skipif(sys.platform == "win32", reason="root's permissions differ")
def test_an_unreadable_folder_is_refused_by_name(room):
    locked = room.root / "locked"
    locked.mkdir(mode=0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read everything")
    [proposal] = propose(block("locked/a.py", "x\n"), room.workspace)
    assert "locked" in proposal.refusals[0].message
