"""One range of a file that the user named: replaced with all else untouched, or refused."""

import os
import sys

import pytest
from edits_room import POSIX, Room, block, files_below, no_waiting, room_fixture  # noqa: F401 - fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.edits import EditRefused, apply_edits, propose, propose_range, undo
from coderv2_local.edits.text_files import decode


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_range_is_replaced_and_all_else_keeps_its_bytes(room, codec):
    text = "# é\r\nx = \r\nlast"
    room.write(a_py=text.encode(codec))
    at = text.index("\r\nlast")
    workspace, proposal = propose_range(room.root / "a.py", text, at, at, "1\r\ny = 2")
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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_put_into_a_mixed_file_keeps_its_line_ends(room, end):
    text = "a\r\nb\nc\r\n"
    room.write(a_py=text)
    for at in (1, 4, len(text)):
        _, proposal = propose_range(room.root / "a.py", text, at, at, f"1{end}2")
        assert proposal.new == text[:at] + f"1{end}2" + text[at:]
        assert decode(proposal.after, "x").text == proposal.new


@pytest.mark.skipif(sys.platform == "win32", reason="root's permissions differ")
def test_an_unreadable_folder_is_refused_by_name(room):
    locked = room.root / "locked"
    locked.mkdir(mode=0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read everything")
    [proposal] = propose(block("locked/a.py", "x\n"), room.workspace)
    assert "locked" in proposal.refusals[0].message
