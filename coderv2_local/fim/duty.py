"""Brackets around a hole: which ones the middle has to close, and which ones the text after the hole closes."""

import re
from dataclasses import dataclass
from functools import lru_cache

from coderv2_local.fim.brackets import CLOSES, Brackets
from coderv2_local.fim.hole import NEAR, Hole
from coderv2_local.fim.syntax import Span, Syntax, syntax_of

MOST_MARKS = 600
"""On each side of a hole: brackets, quotation marks and the like, of which code has 50 to 500 in :data:`NEAR`
characters. What has more is read less far, since the time goes with the marks.
"""
OUTERMOST = re.compile(
    r"^(?:async def|def|class|func|fn|function|interface|struct|enum|trait|impl|type|export|public|static|pub|import"
    r"|module|namespace|package)\b",
    re.M,
)


@dataclass(frozen=True)
class Before:
    """What the text before a hole leaves open: as :class:`Brackets` has it.

    Attributes:
        is_whole: was all of the text before the hole read?
    """

    syntax: Syntax
    open: tuple[tuple[str, int], ...]
    inside: Span | None
    since: int
    awaited: str
    is_whole: bool

    @property
    def is_within_comment(self) -> bool:
        """Is the hole in a comment?"""
        return self.inside is not None and not self.inside.is_string

    def goes_on(self) -> Brackets:
        """A reader for the middle, or for what follows the hole."""
        return Brackets(self.syntax, inside=self.inside, awaited=self.awaited)


@dataclass(frozen=True)
class Duty:
    """What the brackets around a hole ask of a middle.

    Attributes:
        to_close: the brackets that it may close, innermost first.
        closed_after: those that the text after the hole closes, innermost first.
        is_block: the last of `to_close` ends its line, so that closing it ends the block that the hole is in.
    """

    to_close: str
    closed_after: str
    is_block: bool


@lru_cache(maxsize=4)  # asked for by the stops and by the trims
def before_hole(hole: Hole) -> Before:
    """The brackets before a :meth:`near <Hole.near>` hole, and what it is in.

    Of a prefix that is cut, what stands before the first definition at the left edge is left out: it may begin in a
    comment or a string.
    """
    syntax = syntax_of(hole.name, hole.prefix + hole.suffix)
    before, at = Brackets(syntax), 0
    while _marks(syntax, hole.prefix[at:]) > MOST_MARKS:
        at = (at + len(hole.prefix) + 1) // 2
    is_whole = not at and len(hole.prefix) < NEAR
    definition = None if is_whole else OUTERMOST.search(hole.prefix, at)
    before.read(hole.prefix, at=definition.start() if definition else at)
    return Before(syntax, tuple(before.open), before.inside, before.since, before.awaited, is_whole)


@lru_cache(maxsize=4)  # asked again for each line that closes a bracket
def duty(hole: Hole) -> Duty | None:
    """What is asked of the middle of a :meth:`near <Hole.near>` hole; None where the brackets do not say.

    That is where the hole is in a string that it does not have to close itself, or where what is open before it does
    not match what is closed after it.
    """
    before = before_hole(hole)
    after = before.goes_on()
    if before.inside and before.inside.is_string:
        if hole.is_within_line or before.since < len(hole.prefix) - len(hole.line_before):
            return None
        after.inside = None
    end = len(hole.suffix)
    while _marks(before.syntax, hole.suffix[:end]) > MOST_MARKS:
        end //= 2
    after.read(hole.line_before + hole.suffix[:end], at=len(hole.line_before))
    opened = [bracket for bracket, _ in reversed(before.open)]
    closed = [CLOSES[bracket] for bracket, _ in after.unmatched]
    n = _left_open(opened, closed, is_whole=before.is_whole and end == len(hole.suffix) < NEAR)
    if n is None:
        return None
    if not n:
        return Duty("", "".join(closed), False)
    at = before.open[-n][1] + 1
    ends_line = not hole.prefix[at:].split("\n", 1)[0].strip()
    return Duty("".join(opened[:n]), "".join(closed), ends_line)


def _marks(syntax: Syntax, text: str) -> int:
    """How many characters of `text` a mark can begin with, all but line ends."""
    data = text.encode("ascii", "replace")
    return len(data) - len(data.translate(None, syntax.mark_characters))


def _left_open(opened: list[str], closed: list[str], *, is_whole: bool) -> int | None:
    """How many of the innermost open brackets nothing after the hole closes."""
    if not closed:
        return len(opened)
    if is_whole:
        n = len(opened) - len(closed)
        return n if n >= 0 and opened[n:] == closed else None
    for n in range(len(opened) + 1):  # of what is beyond the neighbourhood nothing is known
        if all(a == b for a, b in zip(opened[n:], closed, strict=False)):
            return n
    return None
