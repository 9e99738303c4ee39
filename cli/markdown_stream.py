"""An answer on the screen while it arrives: finished blocks stand still, the block in progress is drawn again.

On a terminal, Markdown is laid out and code is coloured; with NO_COLOR it is laid out without colours. Where stdout is
no terminal, or one that cannot move its cursor (TERM=dumb), the text is passed on as it is.
"""

import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from cli.live_tail import LiveTail, does_reflow, write_safely
from coderv2_local.stream import printable

if TYPE_CHECKING:
    from cli.markdown_blocks import BlockScanner
    from cli.markdown_rows import RowRenderer

UPDATE_SECONDS = 0.05  # at most 20 updates a second …
SHARE_OF_TIME = 0.01  # … and no more of them than this share of one core can draw …
LONGEST_WAIT = 0.5  # … but two a second in any case: the first drawing in a language loads its lexer
LONGEST_LINE = 8_000  # characters; a longer line is shown as it comes, without being looked at
NARROWEST = 4  # columns; on fewer a wide character or a bullet may not fit, and only what is final is shown
UNDECIDED = re.compile(r"\s*([-=*_+>#`~|]{1,4}|\d{1,9}[.)]?)\s*$")  # how a line may begin that may become anything


class MarkdownStream:
    """Shows text as it arrives::

        with MarkdownStream(console) as screen:
            for chunk in generation:
                screen.feed(chunk)

    Leaving the block, also by Ctrl-C, shows all that was fed and ends the line. What was fed decides what is shown; how
    it was cut into chunks does not.

    Args:
        console: rich's console of the stream to write to.
        clock: seconds, to space the updates.
        effort: CPU seconds spent by this thread, to bound them.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        effort: Callable[[], float] = time.thread_time,
    ) -> None:
        self._console = console
        self._clock = clock
        self._effort = effort
        self._is_plain = not console.file.isatty() or console.is_dumb_terminal or console.legacy_windows
        self._is_closed = False
        self._ends_line = True
        self._line: list[str] = []  # the line in progress, in pieces
        self._line_size = 0
        self._is_long_line = False
        self._final: list[str] = []  # rows that are final and not yet on the screen
        self._next_update = 0.0
        self._scanner: BlockScanner
        self._renderer: RowRenderer
        if not self._is_plain:
            from cli import markdown_blocks, markdown_rows

            self._scanner = markdown_blocks.BlockScanner()
            self._renderer = markdown_rows.RowRenderer(console)
            self._tail = LiveTail(console.file, self._size, reflows=does_reflow())

    def feed(self, text: str) -> None:
        """Take the next piece of the answer, cut anywhere between characters."""
        text = printable(text)
        if not text:
            return
        if self._is_plain:
            write_safely(self._console.file, text)
            self._ends_line = text.endswith("\n")
            return
        first, *others = text.split("\n")
        self._add(first)
        for piece in others:
            self._end_line()
            self._add(piece)
        now = self._clock()
        if now >= self._next_update:
            began = self._effort()
            self._draw()
            wait = (self._effort() - began) / SHARE_OF_TIME
            self._next_update = now + min(max(UPDATE_SECONDS, wait), LONGEST_WAIT)

    def close(self) -> None:
        """Show what is left, for good. Nothing happens the second time."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_plain:
            if not self._ends_line:
                write_safely(self._console.file, "\n")
            return
        if self._line_size:
            self._end_line()
        width = self._width
        self._final += self._renderer.rows(self._scanner.finish(), width) + self._renderer.finish(width)
        self._tail.update(self._final, [])
        self._final = []

    def __enter__(self) -> "MarkdownStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _size(self) -> tuple[int, int]:
        size = self._console.size
        return size.width, size.height

    @property
    def _width(self) -> int:
        return self._console.size.width

    def _add(self, piece: str) -> None:
        """A piece of the line in progress."""
        if not piece:
            return
        self._line.append(piece)
        self._line_size += len(piece)
        if self._line_size > LONGEST_LINE or self._is_long_line:
            self._fold_long_line()

    def _fold_long_line(self) -> None:
        """Show the full rows of a line that is too long to be laid out; keep what may still grow."""
        from cli.wrapping import fold

        width = self._width
        if not self._is_long_line:
            self._final += self._renderer.rows(self._scanner.interrupt(), width) + self._renderer.finish(width)
            self._is_long_line = True
        *rows, rest = fold("".join(self._line).expandtabs(1), width)
        self._final += rows
        self._line, self._line_size = [rest], len(rest)

    def _end_line(self) -> None:
        line = "".join(self._line)
        self._line, self._line_size = [], 0
        if self._is_long_line:
            self._final.append(line)
            self._is_long_line = False
        else:
            self._final += self._renderer.rows(self._scanner.line(line), self._width)

    def _draw(self) -> None:
        """Show what is final, and below it what the rest would be if the answer ended here."""
        final, self._final = self._final, []
        self._tail.update(final, self._preview())

    def _preview(self) -> list[str]:
        line = "".join(self._line)
        width = self._width
        if width < NARROWEST:
            return []
        if self._is_long_line:
            return [line]
        scanner, renderer = self._scanner.copy(), self._renderer.copy()
        blocks = []
        if line and (scanner.is_in_code or not UNDECIDED.match(line)):
            blocks += scanner.line(line)
        return renderer.rows([*blocks, *scanner.finish()], width, folded=True) + renderer.finish(width, folded=True)
