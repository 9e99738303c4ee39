"""Brackets around a hole: which ones the middle has to close, and which ones the text after the hole closes."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from coderv2_local.fim.hole import NEAR, Hole

CLOSES = {")": "(", "]": "[", "}": "{"}
MARK = re.compile(r"""\\.|\"{3}|'{3}|["'()\[\]{}]""", re.S)
STRING_END = {
    '"': re.compile(r'(?:[^"\\\n]|\\.)*("|\n)?', re.S),
    "'": re.compile(r"(?:[^'\\\n]|\\.)*('|\n)?", re.S),
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*(""")?', re.S),
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*(''')?", re.S),
}


@dataclass
class Brackets:
    """Reads text piece by piece and keeps what is open. Brackets within quotes do not count.

    It knows no language: a quotation mark that is not closed on its line is an apostrophe, unless it is a triple one or
    the text ends there, and comments are read as code. Where that misleads it, the brackets on both sides of a hole do
    not match, and no rule is drawn from them.

    Attributes:
        open: brackets that wait for their closing one, outermost first, each with the offset it stands at.
        quote: the quotation mark that is open.
        unmatched: closing brackets, with their offsets, that nothing here had opened.
    """

    open: list[tuple[str, int]] = field(default_factory=list)
    quote: str = ""
    unmatched: list[tuple[str, int]] = field(default_factory=list)

    def read(self, text: str, offset: int = 0) -> None:
        """Read `text`, whose first character stands at `offset`. Pass whole lines: no mark may be split over calls."""
        at = 0
        while at < len(text):
            if self.quote:
                match = STRING_END[self.quote].match(text, at)
                if not match or not match[1]:
                    return  # open to the end
                at = at if match[1] == "\n" else match.end()
                self.quote = ""
                continue
            match = MARK.search(text, at)
            if match is None:
                return
            mark, at = match[0], match.end()
            if mark[0] in "\"'":
                self.quote = mark
            elif mark in "([{":
                self.open.append((mark, offset + at - 1))
            elif mark in CLOSES:
                if self.open and self.open[-1][0] == CLOSES[mark]:
                    self.open.pop()
                else:
                    self.unmatched.append((mark, offset + at - 1))


@dataclass(frozen=True)
class Duty:
    """What the brackets around a hole ask of a middle.

    Attributes:
        to_close: the brackets that it may close, innermost first; what follows the hole closes the others.
        is_block: the last of them ends its line, so that closing it ends the block that the hole is in.
    """

    to_close: str
    is_block: bool


@lru_cache(maxsize=4)  # asked again for each line that closes a bracket, and by the trims
def duty(hole: Hole) -> Duty | None:
    """What is asked of the middle of a :meth:`near <Hole.near>` hole; None where the brackets do not say.

    That is where the hole is in a string, or where what is open before it does not match what is closed after it.
    """
    before, after = Brackets(), Brackets()
    before.read(hole.prefix)
    after.read(hole.suffix)
    if before.quote:
        return None
    opened = [bracket for bracket, _ in reversed(before.open)]
    closed = [CLOSES[bracket] for bracket, _ in after.unmatched]
    n = _left_open(opened, closed, is_whole=len(hole.prefix) < NEAR and len(hole.suffix) < NEAR)
    if n is None:
        return None
    if not n:
        return Duty("", False)
    at = before.open[-n][1] + 1
    ends_line = not hole.prefix[at:].split("\n", 1)[0].strip()
    return Duty("".join(opened[:n]), ends_line)


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
