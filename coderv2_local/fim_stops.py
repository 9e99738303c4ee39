"""When a generated middle has said enough, and what of it is kept: one function a rule.

A rule looks at the middle so far and answers where it should end (an index into it), or None. The text before and after
the hole is never changed, and no rule looks for comments, URLs or ``//``: they may stand in any middle.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

MEANINGFUL = 3  # letters and digits a line must have before its repetition means anything: `}` repeats rightly
RUNAWAY_LINES = 3  # equal lines in a row
RUNAWAY_TIMES = 6  # repetitions of a short piece within a line …
RUNAWAY_CHARACTERS = 48  # … that together are at least this long; rulers of one character may be longer
RUNAWAY = re.compile(rf"(\S[^\n]{{1,40}}?)\1{{{RUNAWAY_TIMES - 1},}}$")


@dataclass(frozen=True)
class Hole:
    """A text with a place to fill: what stands before and after it."""

    prefix: str
    suffix: str

    @property
    def is_within_line(self) -> bool:
        """Does text follow on the hole's own line? Then only that line is filled."""
        return bool(self.suffix.split("\n", 1)[0].strip())

    @property
    def following_line(self) -> str | None:
        """The first line after the hole that is not blank; None where there is none."""
        rest = self.suffix.split("\n", 1)
        return next((line.rstrip() for line in rest[-1].split("\n") if line.strip()), None) if len(rest) > 1 else None


Rule = Callable[[str, Hole], int | None]


def line_is_over(middle: str, hole: Hole) -> int | None:
    """Where text follows the cursor on its line, the middle ends with that line."""
    at = middle.find("\n")
    return at if hole.is_within_line and at >= 0 else None


def repeats_what_follows(middle: str, hole: Hole) -> int | None:
    """The middle goes on into the line that stands after the hole anyway."""
    following = hole.following_line
    if following is None or _letters(following) < MEANINGFUL:
        return None
    return next((at for at, line in _whole_lines(middle) if at > 0 and line.rstrip() == following), None)


def leaves_the_block(middle: str, hole: Hole) -> int | None:
    """A line is indented less than the block that the hole is in, and less than what follows the hole.

    Lines that begin with a closing bracket may: they close something opened further out.
    """
    own = _indentation(hole.prefix.rsplit("\n", 1)[-1] + middle.split("\n", 1)[0])
    following = hole.following_line
    least = min(own, _indentation(following)) if following is not None else own
    for at, line in _whole_lines(middle):
        if at > 0 and line.strip() and line.lstrip()[0] not in ")]}" and _indentation(line) < least:
            return at
    return None


def runs_away(middle: str, hole: Hole) -> int | None:
    """The same line three times in a row, or the same few characters over and over: the first of them is kept."""
    lines = list(_whole_lines(middle))
    for i in range(len(lines) - RUNAWAY_LINES + 1):
        text = lines[i][1]
        if _letters(text) >= MEANINGFUL and all(line == text for _, line in lines[i : i + RUNAWAY_LINES]):
            return lines[i + 1][0]
    match = RUNAWAY.search(middle[-400:])
    if match and len(match[0]) >= RUNAWAY_CHARACTERS and len(set(match[1])) > 1:
        return max(len(middle) - 400, 0) + match.end(1)
    return None


RULES: dict[str, Rule] = {
    "line": line_is_over,
    "repeats what follows": repeats_what_follows,
    "leaves the block": leaves_the_block,
    "runs away": runs_away,
}


def end_of(middle: str, hole: Hole) -> tuple[int, str] | None:
    """Where the middle should end by the rule that ends it first, and the rule's name; None to go on."""
    ends = [(at, name) for name, rule in RULES.items() if (at := rule(middle, hole)) is not None]
    return min(ends, default=None)


def _whole_lines(text: str) -> list[tuple[int, str]]:
    """(offset, line) of each line that has come to its end."""
    out, at = [], 0
    for line in text.split("\n")[:-1]:
        out.append((at, line))
        at += len(line) + 1
    return out


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _letters(line: str) -> int:
    return sum(c.isalnum() for c in line)
