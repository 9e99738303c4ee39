"""What an answer says about one file, before the file is looked at."""

from dataclasses import dataclass

from coderv2_local.edits.hunks import Hunk


@dataclass(frozen=True)
class FileEdit:
    """An edit of one file.

    Attributes:
        path: as the answer names the file; "" where it names none.
        problem, hint: why it cannot be made whatever the file holds, and what to do; "" where it can.
    """

    path: str
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True)
class WholeFile(FileEdit):
    """The whole text of a file, as lines without their ends; `comment` is a first line that was there to name it."""

    lines: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class HunkEdit(FileEdit):
    """Changes in a file; with `creates`, of a file that is not there yet or is empty."""

    hunks: tuple[Hunk, ...] = ()
    creates: bool = False


@dataclass(frozen=True)
class Deletion(FileEdit):
    """The file goes; `lines` is what it is said to hold, empty where nothing is said."""

    lines: tuple[str, ...] = ()
