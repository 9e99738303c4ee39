"""Paths that a model writes: resolved inside the workspace, or refused by name."""

import os
import socket
import sys
from pathlib import Path

import pytest

from coderv2_local.edits import EditRefused, Journal, Workspace, apply_edits, folder, propose, undo
from coderv2_local.edits.workspace import trouble_on_windows

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and pipes")


@pytest.fixture(params=["handles", "paths"])
def workspace(request, tmp_path, monkeypatch) -> Workspace:
    """A workspace with a neighbour, walked by folder handles and, as on Windows, by paths."""
    if request.param == "handles" and not folder.HAS_HANDLES:
        pytest.skip("no folder handles on this platform")
    monkeypatch.setattr(folder, "HAS_HANDLES", request.param == "handles")
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("a = 1\n")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("[core]\n")
    (tmp_path / "secret.txt").write_text("outside\n")
    return Workspace(root)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../secret.txt", "'..'"),
        ("../../.ssh/config", "'..'"),
        ("src/../../secret.txt", "'..'"),
        ("src/../src/a.py", "'..'"),
        ("..\\secret.txt", "'..'"),
        ("src\\..\\..\\secret.txt", "'..'"),
        ("/etc/passwd", "absolute"),
        ("//server/share/x", "absolute"),
        ("\\\\server\\share\\x", "absolute"),
        ("C:\\Windows\\win.ini", "absolute"),
        ("c:/x.py", "absolute"),
        ("C:x.py", "absolute"),
        ("~/.ssh/config", "home"),
        ("~root/.bashrc", "home"),
        ("", "no file name"),
        ("  ", "no file name"),
        (".", "folder"),
        ("./", "folder"),
        ("src/", "folder"),
        ("a\0.py", "no file name"),
        ("a\n.py", "no file name"),
        ("a\x1b[2J.py", "no file name"),
        ("a\u202egp.js", "no file name"),
        ("a\ud800.py", "no file name"),
        (".git/config", ".git"),
        (".git/hooks/pre-commit", ".git"),
        (".GIT/config", ".git"),
        (".git./config", ".git"),
        (".git /config", ".git"),
        ("git~1/config", ".git"),
        (".git::$INDEX_ALLOCATION/config", ".git"),
        ("vendor/lib/.git/config", ".git"),
        (".git", ".git"),
        ("src\\.git\\config", ".git"),
        (".g\u200cit/config", "no file name"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(workspace, name, word):
    with pytest.raises(EditRefused) as refused:
        workspace.resolve(name)
    assert word in refused.value.message
    assert name in refused.value.message or repr(name) in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("src/a.py", "src/a.py"),
        ("./src//a.py", "src/a.py"),
        ("src\\new\\b.py", "src/new/b.py"),
        (".gitignore", ".gitignore"),
        (".github/workflows/ci.yml", ".github/workflows/ci.yml"),
        ("app/[id]/page..tsx", "app/[id]/page..tsx"),
        ("with space/ü.py", "with space/ü.py"),
        ("...", "..."),
    ],
)
def test_names_inside_are_resolved(workspace, name, path):
    assert workspace.resolve(name) == path


@POSIX
def test_links_that_leave_are_refused_and_links_that_stay_are_followed(workspace, tmp_path):
    root = workspace.root
    (root / "out").symlink_to(tmp_path)
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "dangling").symlink_to(tmp_path / "missing.txt")
    (root / "hooks").symlink_to(root / ".git")
    (root / "loop").symlink_to(root / "loop")
    (root / "in").symlink_to("src")
    for name in ("out/secret.txt", "out/new/x.py", "out.txt", "dangling", "hooks/config"):
        with pytest.raises(EditRefused, match=name.replace(".", r"\.")):
            workspace.resolve(name)
    with pytest.raises(EditRefused, match="loop"):
        workspace.read(workspace.resolve("loop"))
    assert workspace.resolve("in/a.py") == "src/a.py"


@POSIX
@pytest.mark.parametrize("swapped", ["src", "src/a.py"])
def test_a_link_that_comes_between_check_and_use_is_not_followed(workspace, tmp_path, swapped):
    """What was a folder, or the file, when the path was checked is a link to the outside when it is written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text("a = 1\n")  # the same bytes: only the link can be the reason
    [proposal] = propose("`src/a.py`\n```python\na = 2\n```\n", workspace)
    assert proposal.can_apply
    (workspace.root / swapped).rename(tmp_path / "aside")
    (workspace.root / swapped).symlink_to(outside if swapped == "src" else outside / "a.py")
    with pytest.raises(EditRefused, match=r"src/a\.py"):
        apply_edits([proposal], workspace, Journal(tmp_path / "undo"), made_by="chat")
    assert (outside / "a.py").read_text() == "a = 1\n"
    assert os.listdir(outside) == ["a.py"]


@POSIX
def test_undo_follows_no_link_either(workspace, tmp_path):
    journal = Journal(tmp_path / "undo")
    apply_edits(propose("`src/a.py`\n```python\na = 2\n```\n", workspace), workspace, journal, made_by="chat")
    outside = tmp_path / "outside"
    (workspace.root / "src").rename(outside)
    (workspace.root / "src").symlink_to(outside)
    with pytest.raises(EditRefused, match="link"):
        undo(journal)
    assert (outside / "a.py").read_text() == "a = 2\n"


@POSIX
def test_what_is_no_file_is_refused_by_name(workspace, monkeypatch):
    root = workspace.root
    os.mkfifo(root / "pipe")
    with pytest.raises(EditRefused, match="pipe is a pipe"):
        workspace.read("pipe")  # and does not wait for a writer
    with pytest.raises(EditRefused, match="src is a folder"):
        workspace.read("src")
    with pytest.raises(EditRefused, match=r"src/a\.py/x"):
        workspace.read("src/a.py/x")
    if sys.platform != "darwin":  # its socket paths are too short for temporary folders
        with socket.socket(socket.AF_UNIX) as unix:
            monkeypatch.chdir(root)
            unix.bind("sock")
        with pytest.raises(EditRefused, match="sock is a socket"):
            workspace.read("sock")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device")
def test_devices_are_refused_before_they_are_opened():
    workspace = Workspace(Path("/dev"))
    with pytest.raises(EditRefused, match="zero is a device"):
        workspace.read("zero")


def test_a_root_must_be_a_folder(tmp_path):
    with pytest.raises(EditRefused, match="not a folder"):
        Workspace(tmp_path / "missing")


def test_names_that_windows_takes_for_something_else():
    for part in ("con", "NUL.txt", "com1.log", "LPT¹", "a.py:stream", "name.", "name ", "a?b"):
        assert trouble_on_windows(part), part
    for part in ("console.py", "com.py", "nullable.rs", ".env", "COM10x"):
        assert not trouble_on_windows(part), part
