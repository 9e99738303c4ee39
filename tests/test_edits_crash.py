"""`kill -9` at every step of applying and of undoing: no file is torn, and undo brings every byte back."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from edits_room import files_below, no_waiting  # noqa: F401 - a fixture

from coderv2_local.edits import Journal, NothingToUndo, Workspace, apply_edits, interrupted, propose, undo

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

MOST_STEPS = 120
OLDEST = {"a.py": b"a\r\n", "c.py": b"c\n", "other.bin": b"\0\xff"}
BEFORE = {**OLDEST, "a.py": b"a2\r\n"}
AFTER = {
    "a.py": b"A\r\n",
    "n.py": b"n\n",
    "other.bin": b"\0\xff",
    "x/": b"",
    "x/y/": b"",
    "x/y/n.py": b"new\n",
}
ANSWER = (
    "`a.py`\n```python\nA\n```\n"
    "--- a/c.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-c\n\n"
    "`n.py`\n```python\nn\n```\n"
    "`x/y/n.py`\n```python\nnew\n```\n"
)


def make_room(at: Path, *, applied: bool) -> Path:
    """A workspace with one change made, and with a second one made or still to make."""
    project = at / "project"
    project.mkdir(parents=True)
    for name, data in OLDEST.items():
        (project / name).write_bytes(data)
    (at / "answer.md").write_text(ANSWER)
    workspace, journal = Workspace(project), Journal(at / "undo")
    for answer in ["`a.py`\n```python\na2\n```\n", ANSWER][: 1 + applied]:
        apply_edits(propose(answer, workspace), workspace, journal, made_by="chat")
    assert files_below(project) == (AFTER if applied else BEFORE)
    return at


def crash(what: str, rooms: list[Path]) -> int:
    """Do `what` in the rooms, killed at step 0 in the first, 1 in the second …; how many steps there were."""
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "edits_crash_runner.py", what, *map(str, rooms)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def copies(room: Path, base: Path, n: int) -> Iterator[Path]:
    """Copies of a room; the journal names the workspace, so each room's records are moved along."""
    for i in range(n):
        copy = base / f"{i:03d}"
        shutil.copytree(room, copy)
        for record in (copy / "undo").glob("*/record.json"):
            record.write_text(record.read_text().replace(str(room), str(copy)))
        yield copy


def visible(room: Path) -> dict[str, bytes]:
    """The files but for temporary ones."""
    files = files_below(room / "project")
    return {name: data for name, data in files.items() if not name.split("/")[-1].startswith(".")}


def assert_undone(room: Path) -> None:
    """Undo from whatever state: first to before the change, byte for byte and with nothing left over, then further."""
    journal = Journal(room / "undo")
    half = interrupted(journal)
    now = files_below(room / "project")
    if len(journal.changes()) == 2:
        assert bool(half) == (now != AFTER)
        undo(journal)
    assert files_below(room / "project") == BEFORE
    undo(journal)
    assert files_below(room / "project") == OLDEST
    with pytest.raises(NothingToUndo):
        undo(journal)
    assert [p.name for p in journal.folder.iterdir()] == ["lock"]


def test_killed_at_every_step_of_applying(tmp_path):
    rooms = list(copies(make_room(tmp_path / "room", applied=False), tmp_path / "copies", MOST_STEPS))
    steps = crash("apply", rooms)
    assert steps > 60
    states = set()
    for room in rooms[:steps]:
        files = visible(room)
        for name, data in files.items():  # old or new, never torn
            assert data in (BEFORE.get(name), AFTER.get(name)), (room, name)
        states.add((*sorted(files), files["a.py"]))
        assert_undone(room)
    assert len(states) >= 5  # before, after each file, …
    assert visible(rooms[steps]) == AFTER


def test_killed_at_every_step_of_undoing(tmp_path):
    rooms = list(copies(make_room(tmp_path / "room", applied=True), tmp_path / "copies", MOST_STEPS))
    steps = crash("undo", rooms)
    assert steps > 30
    for room in rooms[:steps]:
        for name, data in visible(room).items():
            assert data in (BEFORE.get(name), AFTER.get(name)), (room, name)
        journal = Journal(room / "undo")
        if len(journal.changes()) == 2:
            undo(journal)  # finishes what was begun
        assert files_below(room / "project") == BEFORE
        undo(journal)
        assert files_below(room / "project") == OLDEST


def test_killed_while_applying_and_then_while_undoing(tmp_path):
    """A half made change of which every undo step is interrupted, too."""
    rooms = list(copies(make_room(tmp_path / "room", applied=False), tmp_path / "copies", MOST_STEPS))
    steps = crash("apply", rooms)
    half = [room for room in rooms[:steps] if interrupted(Journal(room / "undo"))]
    assert len(half) >= 10
    room = half[len(half) // 2]
    again = list(copies(room, tmp_path / "again", MOST_STEPS))
    for copy in again[: crash("undo", again)]:
        assert_undone_or_dropped(copy)


def assert_undone_or_dropped(room: Path) -> None:
    journal = Journal(room / "undo")
    interrupted(journal)
    if len(journal.changes()) == 2:
        undo(journal)
    assert files_below(room / "project") == BEFORE


def test_an_interrupted_change_is_reported_and_the_next_edit_does_not_hide_it(tmp_path):
    rooms = list(copies(make_room(tmp_path / "room", applied=False), tmp_path / "copies", MOST_STEPS))
    steps = crash("apply", rooms)
    room = next(room for room in rooms[:steps] if visible(room).get("a.py") == b"A\r\n" and "n.py" not in visible(room))
    journal, workspace = Journal(room / "undo"), Workspace(room / "project")
    [change] = interrupted(journal, root=workspace.root)
    assert [f.path for f in change.files] == ["a.py", "c.py", "n.py", "x/y/n.py"]
    assert interrupted(journal, root=tmp_path) == []
    apply_edits(propose("`new.py`\n```\nx\n```\n", workspace), workspace, journal, made_by="chat")
    undo(journal)
    undo(journal)
    assert files_below(room / "project") == BEFORE
