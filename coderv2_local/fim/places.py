"""Finding a place in a text: the next line with a word in it, the next function."""

import re
from collections.abc import Callable, Sequence

from coderv2_local.fim.context import C_FUNCTION

FUNCTION = re.compile(
    r"\s*(?:export\s|default\s|public\s|private\s|protected\s|internal\s|static\s|abstract\s|async\s|pub(?:\([a-z]+\))?\s"
    r"|unsafe\s|inline\s|const\s|virtual\s|override\s|final\s|local\s|suspend\s)*(?:def|fn|func|fun|function|sub|proc)\b"
)


def is_function(line: str) -> bool:
    """Does a function begin on this line? By the words that most languages share."""
    return bool(FUNCTION.match(line) or (line[:1].strip() and C_FUNCTION.match(line)))


def next_line(lines: Sequence[str], here: int, wanted: Callable[[str], bool], *, backwards: bool = False) -> int | None:
    """The number of the next line that is `wanted`, round the end of the text; numbers count from 1."""
    order = list(range(here, len(lines))) + list(range(min(here, len(lines))))
    if backwards:
        order = [n - 1 for n in range(here - 1, 0, -1)] + [n - 1 for n in range(len(lines), here - 1, -1)]
    return next((n + 1 for n in order if wanted(lines[n])), None)
