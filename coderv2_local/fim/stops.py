"""When a generated middle has said enough: one function a rule.

A middle is read as it grows, each character once. After each line, and within a line at fixed places, the rules are
asked whether the middle is over and where it ends; the first that says so decides, so the answer does not depend on
how the text was cut into chunks. Nothing ends at a comment, a URL or ``//``: what is in comments and strings says
nothing of brackets, and what is in those that run over lines nothing of indentation.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from coderv2_local.fim.brackets import CLOSES
from coderv2_local.fim.duty import before_hole, duty
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.repetition import LONGEST_LOOK, repeated_lines, repeated_piece
from coderv2_local.fim.syntax import PROSE, UNKNOWN

MEANINGFUL = 3  # letters and digits of the line that follows: a `}` stands there rightly twice
LOOK_EVERY = 16  # characters of a line between two looks for a repeated piece
TAB_COLUMNS = 4
COMMENT = re.compile(r"\s*(#|//|/\*|--|;)")
CONTINUES = re.compile(r"\s*(else|elif|elsif|except|catch|finally|case|default|rescue|ensure|when|end|fi|done|esac)\b")
DEFINITION = re.compile(
    r"\s*(?:@\w[\w.]*\s*(?:\(.*)?$|(?:(?:export|default|declare|public|private|protected|internal|static|abstract|async"
    r"|unsafe|inline|virtual|override|final|sealed|partial|open|data|case|pub(?:\([a-z]+\))?)\s+)*"
    r"(?:(?:def|class|func|fn|fun|function|proc|method|macro|trait|impl|protocol)\b\*?\s+[\w(*<]|impl<"
    r"|(?:interface|struct|enum|record|object|module|namespace)\s+\w[^=;]*$))"
)
"""A function or a class begins, or a decorator of one. Most of the words are names of variables in some language."""
LABEL = re.compile(r"\s*(?:(?:case|default)\b|\w[\w ]*:\s*(?:$|//|/\*))")


@dataclass(frozen=True)
class End:
    """Where a middle ends, as an index into it, and the name of the rule that ends it."""

    at: int
    rule: str


@dataclass
class Middle:
    """A middle so far, line by line, and the hole it is for.

    Attributes:
        lines: those that have come to their end.
        starts: where each line starts, the unfinished one too.
        line: the unfinished one.
        is_text: did the last whole line begin within a comment or a string?
    """

    hole: Hole
    lines: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    line: str = ""
    is_text: bool = False


LineRule = Callable[[Middle], int | None]
"""Asked after each line: where the middle should have ended, as an index into it."""


def line_is_over(m: Middle) -> int | None:
    """Where text follows the cursor on its line, the middle ends with that line."""
    return len(m.lines[0]) if m.hole.is_within_line else None


def repeats_what_follows(m: Middle) -> int | None:
    """The middle goes on into the line that stands after the hole anyway."""
    following = m.hole.following_line
    if following is None or _letters(following) < MEANINGFUL:
        return None
    line = m.lines[-1] if len(m.lines) > 1 else m.hole.line_before + m.lines[-1]
    return m.starts[-2] if line.rstrip() == following else None


def leaves_the_block(m: Middle) -> int | None:
    """A line is indented less than the block that the hole is in, and less than what follows the hole.

    Where a definition follows, lines indented like it leave the block, too: they would be another one before it.
    A line that begins with a closing bracket may be: it closes something opened further out. So may a comment, and a
    line that goes on with the statement whose block the middle opened: ``else:``, and, where blocks are in braces, a
    label: ``private:``. Comments and blank lines just before the line that leaves go with it. What is in a string or
    comment that runs over lines is indented as it likes.
    """
    line = m.lines[-1]
    if len(m.lines) == 1 or m.is_text or not line.strip() or line.lstrip()[0] in ")]}" or COMMENT.match(line):
        return None
    least, opened = _block(m)
    if (following := m.hole.following_line) is not None:
        least = min(least, _indentation(following) + bool(DEFINITION.match(following)))
    if _indentation(line) >= least or (opened and CONTINUES.match(line) and _indentation(line) == _own(m)):
        return None
    if LABEL.match(line) and _has_labels(m.hole):
        return None
    n = len(m.lines) - 1
    while n > 1 and COMMENT.match(m.lines[n - 1]) and _indentation(m.lines[n - 1]) < least:
        n -= 1
    return m.starts[n]


def repeats_itself(m: Middle) -> int | None:
    """The same line, or the same few lines, over and over: the first of them are kept."""
    lines = m.lines[-LONGEST_LOOK:]
    if len(lines) == len(m.lines):
        lines = [m.hole.line_before + lines[0], *lines[1:]]
    n = repeated_lines(lines)
    return m.starts[len(m.lines) - n] if n else None


LINE_RULES: dict[str, LineRule] = {
    "line": line_is_over,
    "repeats what follows": repeats_what_follows,
    "leaves the block": leaves_the_block,
    "runs away": repeats_itself,
}
CLOSED_AFTER, BRACKETS_CLOSED, RUNS_AWAY = "closed after the hole", "brackets closed", "runs away"
RULES = (*LINE_RULES, CLOSED_AFTER, BRACKETS_CLOSED)
"""The names of all rules."""


class Watch:
    """Reads a middle as it is generated, and says when it is over.

    Args:
        hole: as :meth:`Hole.near` gives it.
    """

    def __init__(self, hole: Hole) -> None:
        self.middle = Middle(hole)
        self._brackets = before_hole(hole).goes_on()
        self._is_misled = False  # by brackets that do not match: they say nothing any more
        self._looked = 0  # how far the unfinished line has been searched for repeated pieces
        self._is_ruled = False  # by a ruler in a comment or in prose, which may go on to the end of the line

    @property
    def text(self) -> str:
        """What was read, up to the line that ended it."""
        return "\n".join([*self.middle.lines, self.middle.line])

    def feed(self, chunk: str) -> End | None:
        """Read more. Once it has answered, it is not to be asked again."""
        m = self.middle
        *ended, rest = chunk.split("\n")
        for part in ended:
            m.line += part
            if end := self._piece() or self._line_ends("\n"):
                return end
        m.line += rest
        return self._piece()

    def finish(self) -> End | None:
        """The model has ended: the last line is whole now, too."""
        return self._line_ends("")

    def _piece(self) -> End | None:
        """Look for a repeated piece in the line so far."""
        m = self.middle
        while not self._is_ruled and self._looked + LOOK_EVERY <= len(m.line):
            self._looked += LOOK_EVERY
            piece = repeated_piece(m.line[: self._looked])
            if piece and not piece.has_words and self._is_prose():
                self._is_ruled = True
            elif piece:
                return End(m.starts[-1] + piece.first_end, RUNS_AWAY)
        return None

    def _is_prose(self) -> bool:
        """Is the end of the line so far in a comment or in prose?"""
        m, reader = self.middle, self._brackets.goes_on()
        before = "" if m.lines else m.hole.line_before
        reader.read(before + m.line[: self._looked], at=len(before))
        return reader.syntax is PROSE or reader.is_within_comment

    def _line_ends(self, newline: str) -> End | None:
        """The line is whole."""
        m = self.middle
        start, line = m.starts[-1], m.line
        before = "" if m.lines else m.hole.line_before
        m.is_text = self._brackets.is_within_text
        self._brackets.read(before + line + newline, start - len(before), len(before))
        m.lines.append(line)
        m.starts.append(start + len(line) + 1)
        m.line, self._looked, self._is_ruled = "", 0, False
        ends = [End(at, name) for name, rule in LINE_RULES.items() if (at := rule(m)) is not None]
        ends += self._bracket_ends(start, line)
        return min(ends, key=lambda end: end.at, default=None)

    def _bracket_ends(self, start: int, line: str) -> Iterator[End]:
        own, hole = self._brackets, self.middle.hole
        asked = duty(hole) if own.unmatched and not self._is_misled else None
        if asked is None:
            return
        if not start and line.rstrip().endswith(hole.line_after) and hole.line_after.strip("".join(CLOSES)):
            return  # the rest of the hole's line, written twice: it is taken off as a whole
        wanted = len(asked.to_close)
        closed = "".join(CLOSES[bracket] for bracket, _ in own.unmatched)
        too_many = closed[wanted:]
        if too_many and list(too_many) == [bracket for bracket, _ in own.open]:
            # `} else {`: what the line closes too much, it opens again
            del own.unmatched[wanted:], own.open[:]
            closed, too_many = closed[:wanted], ""
        if closed[:wanted] != asked.to_close[: len(closed)]:
            self._is_misled = True
        elif too_many and too_many[0] == asked.closed_after[:1]:
            yield End(own.unmatched[wanted][1], CLOSED_AFTER)
        elif too_many:  # nothing after the hole closes it either
            self._is_misled = True
        # `) -> int:` closes the brackets and opens a block
        elif asked.is_block and len(closed) == wanted and not own.open and not line.rstrip().endswith(":"):
            yield End(start + len(line), BRACKETS_CLOSED)


def end_of(middle: str, hole: Hole) -> End | None:
    """Where a whole middle should end by the rule that ends it first; None where it is right as it is."""
    watch = Watch(hole.near())
    return watch.feed(middle) or watch.finish()


def _block(m: Middle) -> tuple[int, bool]:
    """The indentation of the block that is being filled, and whether the middle has opened that block itself.

    A hole after ``def f():`` opens one: its indentation is that of the first line that follows.
    """
    own = _own(m)
    first = next((line for line in islice(m.lines, 1, None) if line.strip()), None)
    opener = (m.hole.line_before + m.lines[0]).rstrip()
    if first is not None and opener[-1:] in (":", "{", "(", "[") and _indentation(first) > own:
        return _indentation(first), True
    return own, False


def _has_labels(hole: Hole) -> bool:
    """May a line here end in ``:`` without a block of its own? Where the language is not known, the braces tell."""
    before = before_hole(hole)
    is_in_braces = bool(before.open) and before.open[-1][0] == "{"
    return before.syntax.has_labels or (before.syntax is UNKNOWN and is_in_braces)


def _own(m: Middle) -> int:
    return _indentation(m.hole.line_before + m.lines[0])


def _indentation(line: str) -> int:
    """Columns of white space that a line begins with."""
    return len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(TAB_COLUMNS))


def _letters(line: str) -> int:
    return sum(c.isalnum() for c in line)
