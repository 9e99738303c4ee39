"""Edits are written whole or not at all, in one step a file, and taken back byte for byte."""

import os
import stat

import pytest
from edits_room import POSIX, Room, block, files_below, no_waiting, room_fixture  # noqa: F401 - fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.edits import EditRefused, NothingToUndo, Proposal, apply_edits, folder, propose, undo
from coderv2_local.edits.text_files import digest_of

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
