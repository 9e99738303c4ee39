"""The end of an answer on a terminal: rows that may still change, below rows that are final and scroll away."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO
from unicodedata import east_asian_width

from cli.wrapping import fold

# A terminal that knows synchronized output shows what stands between the two at once; others ignore both.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
WRAP, NO_WRAP = "\x1b[?7h", "\x1b[?7l"
ERASE_ROW = "\x1b[K"
# This row and all below it. Erasing from the first row of the screen on would make tmux keep what is erased.
ERASE_ROWS = f"{ERASE_ROW}\x1b[B\x1b[J\x1b[A"
STYLING = re.compile(r"\x1b\[[0-9;]*m")


class LiveTail:
    """Draws rows; those given as final are never touched again.

    Args:
        file: the terminal.
        size: its columns and lines, asked at each update.
        reflows: does it break rows anew when it becomes narrower? See :func:`does_reflow`.
    """

    def __init__(self, file: IO[str], size: Callable[[], tuple[int, int]], *, reflows: bool) -> None:
        self._file = file
        self._size = size
        self._reflows = reflows
        self._drawn = [""]  # rows that may change; the cursor is at the end of the last
        self._columns = 0

    def update(self, final: Sequence[str], tail: Sequence[str]) -> None:
        """Put `final` in place of the old tail, for good, and `tail` below it.

        Args:
            final: lines of any width; the terminal breaks those that are too wide, so that copying them gives the line.
            tail: rows no wider than the terminal. Where there are more than fit, the last ones are shown.
        """
        columns, lines = self._size()
        tail = tail[-max(1, lines - 1) :]
        rows = [*final, *tail] if tail else [*final, ""]
        kept = self._unchanged(rows, len(final)) if columns == self._columns else 0
        if kept == len(rows) == len(self._drawn):
            self._drawn = rows[len(final) :]
            return
        out = [BEGIN]
        if kept == len(self._drawn):
            out.append("\n")
        elif kept == len(self._drawn) - 1 and kept >= len(final) and self._grows(rows[kept]):
            # the usual case: a word more on the last row
            out.append(WRAP + rows[kept][len(self._drawn[kept]) :])
            kept += 1
            out.append("\n" if kept < len(rows) else "")
        else:
            up = self._rows_up(columns) - kept
            out.append(f"\r\x1b[{up}A{ERASE_ROWS}" if up > 0 else f"\r{ERASE_ROW}")
        for number, row in enumerate(rows[kept:], kept):
            out.append(WRAP if number < len(final) or is_certain(row) else NO_WRAP)
            out.append(row)
            out.append("\n" if number < len(rows) - 1 else "")
        out.append(WRAP + END)
        self._write("".join(out))
        self._drawn = rows[len(final) :]
        self._columns = columns

    def _unchanged(self, rows: Sequence[str], n_final: int) -> int:
        """Rows at the top of the tail that can stay. What becomes final is written anew unless its width is certain."""
        for number, (old, new) in enumerate(zip(self._drawn, rows, strict=False)):
            if old != new or (number < n_final and not is_certain(new)):
                return number
        return min(len(self._drawn), len(rows))

    def _grows(self, row: str) -> bool:
        """Can the last row become `row` by writing behind it?"""
        return row.startswith(self._drawn[-1]) and is_certain(row)

    def _rows_up(self, columns: int) -> int:
        """Rows between the cursor and the first row of the tail."""
        if columns < self._columns and self._reflows:
            # one too many would erase what is final, one too few leaves a row standing twice
            return sum(len(fold(STYLING.sub("", row), columns)) if is_certain(row) else 1 for row in self._drawn) - 1
        return len(self._drawn) - 1

    def _write(self, text: str) -> None:
        write_safely(self._file, text)


def is_certain(row: str) -> bool:
    """Do all terminals agree on how wide this row is?

    Where they do not (bullets, lines, joined emoji), a row of the tail is cut at the margin rather than broken, so that
    it takes one row in any case. The others are broken: the size known here may be older than the terminal's.
    """
    return row.isascii() or all(c.isascii() or east_asian_width(c) in "WF" for c in row)


def write_safely(file: IO[str], text: str) -> None:
    """Write and flush; characters that the stream's encoding lacks become ``?``."""
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "replace").decode(encoding))
    file.flush()


def does_reflow(environment: Mapping[str, str] = os.environ) -> bool:
    """Does this terminal break long rows anew when it becomes narrower? Not xterm, GNU screen and the Linux console."""
    term = environment.get("TERM", "")
    if "TMUX" in environment:
        return True
    return not ("XTERM_VERSION" in environment or term == "linux" or term.startswith("screen"))
