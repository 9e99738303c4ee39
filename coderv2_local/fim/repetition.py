"""Runaway repetition: how often lines, or a piece of a line, may be the same before a model is not thought to mean it.

Code repeats itself rightly, too: ``stack.pop()`` three times, rows of zeros, ``NULL`` in a table, rulers. What is short
is allowed to do so more often, and what has no letters much more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MEANINGFUL = 3  # letters a block of lines must have before its repetition means much: `}` repeats rightly
LONGEST_BLOCK = 8  # lines
BLOCK_TIMES = 3  # repetitions of a block of lines …
LONG_BLOCK = 40  # … of at least so many characters, indentation left out; of a shorter one …
SHORT_BLOCK_TIMES = 5  # … this many
NUMBERS_TIMES = 17  # rows of numbers: a table of 16 is a usual one
LONGEST_LOOK = LONGEST_BLOCK * NUMBERS_TIMES
"""Lines of which the last are looked at."""
PIECE_TIMES = 6  # repetitions of a short piece within a line …
PIECE_CHARACTERS = 64  # … that together are at least this long: `NULL` may stand there ten times
LONGEST_PIECE = 40
LONG_RULER = 200  # characters of repeated pieces without letters: wide tables and rulers are shorter
NO_WORD = re.compile(r"(?<!\w)\d[\w.]*|\\(?:x[\da-fA-F]{2}|u[\da-fA-F]{4}|.)")
"""A number or an escape: its letters are none."""
CUT_WORD = re.compile(r"\w*(?=\W)")


def repeated_lines(lines: Sequence[str]) -> int:
    """How many of the last lines only repeat those before them; 0 where that may be right."""
    if len(lines) < BLOCK_TIMES or (not lines[-1] and not lines[-2]):
        return 0  # blank lines are trimmed anyway
    most = min(LONGEST_BLOCK, len(lines) // BLOCK_TIMES)
    if lines[-most:].count(lines[-1]) == most:
        most = 1  # lines that are all the same are no longer block
    for n in range(1, most + 1):
        if lines[-1 - n] != lines[-1]:
            continue
        block = lines[-n:]
        if lines[-2 * n : -n] != block or (n > 1 and block.count(block[0]) == n):
            continue
        times = _times(block)
        if times and n * times <= len(lines) and lines[-n * times :] == [*block] * times:
            return n * (times - 1)
    return 0


def _times(block: Sequence[str]) -> int:
    """How often a block has to stand there to be runaway; 0 where it never is."""
    text = "".join(line.strip() for line in block)
    if sum(map(str.isalpha, NO_WORD.sub("", text))) >= MEANINGFUL:
        return BLOCK_TIMES if len(text) >= LONG_BLOCK else SHORT_BLOCK_TIMES
    return NUMBERS_TIMES if any(map(str.isalnum, text)) else 0


@dataclass(frozen=True)
class Piece:
    """A short piece that a line repeats to its end.

    Attributes:
        first_end: where it comes to its first end.
        has_words: are there letters in it, but for those of numbers?
    """

    first_end: int
    has_words: bool


def repeated_piece(line: str) -> Piece | None:
    """The piece that `line` repeats to its end; None where it does not, or not often enough.

    A ruler, one character repeated, is no such piece.
    """
    for size in range(2, LONGEST_PIECE + 1):
        length = max(PIECE_CHARACTERS, size * PIECE_TIMES)
        if length > len(line):
            return None
        tail = line[-length:]
        if tail[size:] != tail[:-size] or tail == tail[0] * length:
            continue
        cut = CUT_WORD.match(tail)
        has_words = any(map(str.isalpha, NO_WORD.sub("", tail[cut.end() if cut else 0 :])))
        if not has_words:
            tail = line[-max(LONG_RULER, length) :]
            if len(tail) < LONG_RULER or tail[size:] != tail[:-size]:
                return None  # what is repeated in a longer piece has no letters either
        start = len(line) - len(tail)
        while start and line[start - 1] == line[start - 1 + size]:
            start -= 1
        return Piece(start + size, has_words)
    return None
