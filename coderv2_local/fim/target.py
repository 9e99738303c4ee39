"""FILE:LINE, FILE:LINE:COL and FILE:A-B: from what is typed to a hole in a text, and back to lines and columns."""

import re
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.fim.hole import Hole
from quant.errors import InputError

TARGET = re.compile(r"(?P<path>.+?):(?P<line>\d{1,9})(?::(?P<column>\d{1,9})|-(?P<last>\d{1,9}))?", re.S)
COUNT_FROM = "lines and columns count from 1"


@dataclass(frozen=True)
class Target:
    """A place in a file; lines and columns count from 1, columns in characters.

    Raises:
        InputError: the last line comes before the first.
    """

    path: Path
    line: int
    column: int | None = None
    last_line: int | None = None

    def __post_init__(self) -> None:
        if self.last_line is not None and self.last_line < self.line:
            raise InputError(
                f"{self}: line {self.line} comes after line {self.last_line}", hint="give the first line first"
            )

    def __str__(self) -> str:
        """As it is typed: FILE:LINE, FILE:LINE:COL or FILE:A-B."""
        column = "" if self.column is None else f":{self.column}"
        last = "" if self.last_line is None else f"-{self.last_line}"
        return f"{self.path}:{self.line}{column}{last}"


def parse_target(text: str) -> Target:
    """Read FILE:LINE[:COL] or FILE:A-B.

    Raises:
        InputError: no line is given, or A is after B.
    """
    match = TARGET.fullmatch(text)
    if not match:
        raise InputError(
            f"{text!r} names no line", hint="give FILE:LINE, FILE:LINE:COL or FILE:A-B, for example main.py:42"
        )
    column, last = match["column"], match["last"]
    return Target(Path(match["path"]), int(match["line"]), int(column) if column else None, int(last) if last else None)


def hole_at(text: str, target: Target) -> Hole:
    """The hole that `target` means in `text`: the end of a line, a place in it, or whole lines to replace.

    A line ends before its ``\\n`` or ``\\r\\n``. Text that ends with a line end has an empty last line.

    Raises:
        InputError: a line or column past the end.
    """
    lines = text.split("\n")
    for line in (target.line, target.last_line):
        if line is not None and not 1 <= line <= len(lines):
            raise InputError(
                f"{target.path} has {_counted(len(lines), 'line')}: there is no line {line}",
                hint=COUNT_FROM * (not line),
            )

    def ends_with_cr(line: int) -> bool:
        return line < len(lines) and lines[line - 1].endswith("\r")

    start = sum(map(len, lines[: target.line - 1])) + target.line - 1
    if target.last_line is not None:
        between = lines[target.line - 1 : target.last_line]
        end = start + sum(map(len, between)) + len(between) - 1 - ends_with_cr(target.last_line)
        return Hole(text[:start], text[end:], target.path.name)
    width = len(lines[target.line - 1]) - ends_with_cr(target.line)
    if target.column is not None and not 1 <= target.column <= width + 1:
        raise InputError(
            f"{target.path}:{target.line} has {_counted(width, 'character')}: there is no column {target.column}",
            hint=COUNT_FROM * (not target.column),
        )
    at = start + (width if target.column is None else target.column - 1)
    return Hole(text[:at], text[at:], target.path.name)


def replaced_range(text: str, hole: Hole) -> tuple[tuple[int, int], tuple[int, int]]:
    """What of `text` the middle replaces: (line, column) of its start and of its end, both counted from 1."""

    def place(before: str) -> tuple[int, int]:
        return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1

    return place(hole.prefix), place(text[: len(text) - len(hole.suffix)])


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
