"""Text in rows of a terminal: how wide it is, and where its rows break."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from rich.cells import get_character_cell_size
from rich.style import Style

Run: TypeAlias = tuple[str, Style]

JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"
NOT_FIRST = frozenset("，。！？：；、）】》」』〉〕”’…,.!?:;)]}%")  # no row begins with these
NOT_LAST = frozenset("（【《「『〈〔“‘([{")  # no row ends with these
MAX_CHARACTERS_A_CELL = 8  # combining marks take no cells: a row still ends


def cells(text: str) -> int:
    """Cells of a text, at most: joined emoji count one by one, because not every terminal joins them."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(c: str) -> int:
    return 1 if c == EMOJI_STYLE else get_character_cell_size(c)


def row_starts(text: str, width: int) -> list[int]:
    """Where the rows of one line begin, 0 first: at words where it can be, between wide characters, else anywhere.

    Spaces at the end of a row may reach past `width`: they are to be dropped.
    """
    starts = [0]
    at = start = breakable = 0  # breakable: the last place in this row where a new one may begin
    used = 0
    for at, c in enumerate(text):
        size = _cells(c)
        if at > start and _may_break(text[at - 1], c):
            breakable = at
        too_long = used + size > width or at - start >= width * MAX_CHARACTERS_A_CELL
        if too_long and at > start and c != " " and (size or at - start >= width * MAX_CHARACTERS_A_CELL):
            start = breakable if breakable > start else at
            starts.append(start)
            used = cells(text[start:at])
        used += size
    return starts


def _may_break(before: str, after: str) -> bool:
    if before == " ":
        return after != " "
    if before == JOINER or before in NOT_LAST or after in NOT_FIRST:
        return False
    return (_cells(before) == 2 and _cells(after) > 0 and after != EMOJI_STYLE) or _cells(after) == 2


def fold(text: str, width: int) -> list[str]:
    """Rows of a line, filled to the last cell, nothing dropped."""
    if text.isascii():
        return [text[i : i + width] for i in range(0, max(1, len(text)), width)]
    rows, start, used = [], 0, 0
    for at, c in enumerate(text):
        size = _cells(c)
        if at > start and (used + size > width or at - start >= width * MAX_CHARACTERS_A_CELL):
            rows.append(text[start:at])
            start, used = at, 0
        used += size
    return [*rows, text[start:]]


def wrap_runs(runs: Sequence[Run], width: int) -> list[list[Run]]:
    """Styled text in rows of at most `width` cells; newlines end a row."""
    rows: list[list[Run]] = []
    for line in split_lines(runs):
        text = "".join(part for part, _ in line)
        starts = row_starts(text, max(1, width))
        rows.extend(_cut(line, starts))
    return rows


def split_lines(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs of each line, without its newline; at least one line."""
    line: list[Run] = []
    for text, style in runs:
        first, *others = text.split("\n")
        if first:
            line.append((first, style))
        for other in others:
            yield line
            line = [(other, style)] if other else []
    yield line


def _cut(line: Sequence[Run], starts: Sequence[int]) -> list[list[Run]]:
    """One line's runs as rows that begin at `starts`, spaces dropped from the rows' ends."""
    rows: list[list[Run]] = [[] for _ in starts]
    at = 0
    for text, style in line:
        end = at + len(text)
        row = bisect_right(starts, at) - 1
        while at < end:
            stop = min(end, starts[row + 1]) if row + 1 < len(starts) else end
            rows[row].append((text[len(text) - (end - at) : len(text) - (end - stop)], style))
            at, row = stop, row + 1
    for runs in rows:
        while runs and not runs[-1][0].rstrip(" "):
            runs.pop()
        if runs:
            runs[-1] = (runs[-1][0].rstrip(" "), runs[-1][1])
    return rows
