"""Unified diffs as models write them: with or without git's headers, wrong counts, lost spaces, no line numbers."""

import re
from dataclasses import dataclass, field

from coderv2_local.edits.blocks import starts_diff
from coderv2_local.edits.file_edits import Deletion, FileEdit, HunkEdit
from coderv2_local.edits.hunks import Hunk

NOWHERE = "/dev/null"
LONGEST_NAME = 1000  # characters; longer than any system allows
HUNK_HEADER = re.compile(r"@@+ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
GIT_HEADER = re.compile(r'diff --git (?P<a>"(?:[^"\\]|\\.)*"|\S+) (?P<b>"(?:[^"\\]|\\.)*"|\S+)')
ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}
BACKUP = (".orig", ".old", ".bak")


@dataclass
class _Hunk:
    header: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    old_marked: bool = False
    new_marked: bool = False

    @property
    def counts(self) -> tuple[int, int] | None:
        match = HUNK_HEADER.match(self.header)
        return (int(match[2] or 1), int(match[4] or 1)) if match else None

    @property
    def written(self) -> tuple[int, int]:
        return sum(op != "+" for op, _ in self.lines), sum(op != "-" for op, _ in self.lines)

    def hunk(self, number: int) -> Hunk:
        match = HUNK_HEADER.match(self.header)
        lines, start = self.lines, None
        if match:
            while lines and lines[-1] == (" ", "") and self.written != self.counts and self._too_long():
                lines.pop()  # blank lines between the diff and what follows it
            if self.written == self.counts:
                start = int(match[1])
        final = False if self.new_marked else True if self.old_marked else None
        return Hunk(tuple(lines), start, final, f"hunk {number}")

    def _too_long(self) -> bool:
        return bool(self.counts) and self.written[0] > (self.counts or (0, 0))[0]


@dataclass
class _FileDiff:
    old: str = ""
    new: str = ""
    named: bool = False  # by --- and +++, which count more than git's header
    created: bool = False
    deleted: bool = False
    problem: str = ""
    hint: str = ""
    hunks: list[_Hunk] = field(default_factory=list)


def parse_diff(lines: tuple[str, ...], default_path: str = "") -> list[FileEdit]:
    """The edits of a diff, one a file.

    Args:
        lines: without line ends.
        default_path: the file that hunks without a header are about; "" for none.
    """
    diffs: list[_FileDiff] = []
    hunk: _Hunk | None = None
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.startswith("diff --git "):
            diffs.append(_FileDiff())
            hunk = None
            if match := GIT_HEADER.match(line):
                diffs[-1].old, diffs[-1].new = _unquoted(match["a"]), _unquoted(match["b"])
        elif starts_diff(lines, i):
            if not diffs or diffs[-1].named or diffs[-1].hunks:
                diffs.append(_FileDiff())
            hunk = None
            diffs[-1].old, diffs[-1].new, diffs[-1].named = _unquoted(line[4:]), _unquoted(lines[i + 1][4:]), True
            i += 1
        elif line.startswith("@@"):
            if not diffs:
                diffs.append(_FileDiff(default_path, default_path))
            hunk = _Hunk(line)
            diffs[-1].hunks.append(hunk)
        elif hunk is not None:
            if line == "-- " and hunk.counts == hunk.written:
                break  # the signature of a patch by mail
            _add(line, hunk)
        elif diffs:
            hunk = _header(line, diffs[-1])
        elif default_path and line.startswith(("+", "-")):
            hunk = _Hunk("")
            diffs.append(_FileDiff(default_path, default_path, hunks=[hunk]))
            _add(line, hunk)
        i += 1
    return [_edit(diff, default_path) for diff in diffs] or [
        FileEdit(default_path, "a diff in the answer names no file", "ask for the diff with its --- and +++ lines")
    ]


def _add(line: str, hunk: _Hunk) -> None:
    if line.startswith("\\"):
        op = hunk.lines[-1][0] if hunk.lines else " "
        hunk.old_marked |= op != "+"
        hunk.new_marked |= op != "-"
    elif line[:1] in ("+", "-", " "):
        hunk.lines.append((line[0], line[1:]))
    else:  # an empty context line, or one whose space was lost
        hunk.lines.append((" ", line))


def _header(line: str, diff: _FileDiff) -> _Hunk | None:
    """Read a line between a diff's names and its first hunk; the hunk, where it begins without a header."""
    if line.startswith("new file"):
        diff.created = True
    elif line.startswith("deleted file"):
        diff.deleted = True
    elif line.startswith(("rename ", "copy ")):
        diff.problem, diff.hint = "renaming and copying files is not done", "do it yourself, then ask again"
    elif line.startswith(("Binary files ", "GIT binary patch")):
        diff.problem, diff.hint = "the diff is binary", "only text files are edited"
    elif line[:1] in ("+", "-", " ") and diff.named:
        hunk = _Hunk("")
        diff.hunks.append(hunk)
        _add(line, hunk)
        return hunk
    return None


def _edit(diff: _FileDiff, default_path: str) -> FileEdit:
    old, new = _without_prefixes(diff.old, diff.new)
    path = new if new != NOWHERE else old
    if path in ("", NOWHERE):
        path = default_path
    if not path:
        return FileEdit("", "a diff in the answer names no file", "ask for the diff with its --- and +++ lines")
    if diff.problem:
        return FileEdit(path, diff.problem, diff.hint)
    if NOWHERE not in (old, new) and old != new and not (old.startswith(new) and old[len(new) :] in BACKUP):
        return FileEdit(path, f"the diff renames {old}: that is not done", "rename it yourself, then ask again")
    hunks = [hunk.hunk(i + 1) for i, hunk in enumerate(diff.hunks)]
    if new == NOWHERE or diff.deleted:
        if any(op == "+" for hunk in hunks for op, _ in hunk.lines):
            return FileEdit(path, "the diff deletes the file and adds lines to it", "ask for another diff")
        return Deletion(path, lines=tuple(line for hunk in hunks for line in hunk.old))
    creates = old == NOWHERE or diff.created
    if not hunks and not creates:
        return FileEdit(path, "the diff changes nothing", "ask for another diff")
    if creates:
        if any(hunk.old for hunk in hunks):
            return FileEdit(path, "the diff creates the file, but shows lines that were there", "ask for another diff")
        final = hunks[-1].final_newline if hunks else None
        lines = tuple(line for hunk in hunks for line in hunk.lines)
        hunks = [Hunk(lines, None, final)] if lines else []
    return HunkEdit(path, hunks=tuple(hunks), creates=creates)


def _without_prefixes(old: str, new: str) -> tuple[str, str]:
    """The names without git's `a/` and `b/`, where both have them."""
    if old.startswith("a/") and new.startswith("b/"):
        return old[2:], new[2:]
    if old == NOWHERE and new.startswith("b/"):
        return old, new[2:]
    if new == NOWHERE and old.startswith("a/"):
        return old[2:], new
    if old.startswith("a/") and old[2:] == new:
        return new, new
    if new.startswith("b/") and new[2:] == old:
        return old, old
    return old, new


def _unquoted(name: str) -> str:
    """A name without its time stamp and git's quotes."""
    name = name[:LONGEST_NAME].split("\t")[0].rstrip()
    if len(name) < 2 or not (name[0] == name[-1] == '"'):
        return re.sub(r"\s+\d{4}-\d\d-\d\d[ T].*$", "", name)

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 8) & 255]) if len(match[1]) == 3 else ESCAPES.get(match[1], match[1])

    return ESCAPE.sub(byte, name[1:-1].encode()).decode("utf-8", "replace")
