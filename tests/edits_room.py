"""A workspace with a journal beside it, for the tests that apply and undo edits."""

import os
from pathlib import Path

import pytest

from coderv2_local.edits import Journal, Workspace, apply_edits, propose

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs permission bits and links")


def block(path: str, text: str) -> str:
    return f"`{path}`\n````text\n{text}````\n\n"


def files_below(root: Path) -> dict[str, bytes]:
    """Every file below a folder; folders end with a slash."""
    return {str(p.relative_to(root)) + "/" * p.is_dir(): b"" if p.is_dir() else p.read_bytes() for p in root.rglob("*")}


@pytest.fixture(scope="module", autouse=True)
def no_waiting():
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


@pytest.fixture(name="room")
def room_fixture(tmp_path) -> Room:
    return Room(tmp_path)
