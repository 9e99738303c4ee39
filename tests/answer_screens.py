"""A terminal emulator for answers in tests."""

import io
import itertools
import re

import pyte
from rich.console import Console

from cli.markdown_stream import MarkdownStream

ESCAPES = re.compile(r"\x1b\[(\?2026[hl]|\?7[hl]|[0-9;]*m|\d*[ABK]|J)|\r")


class Terminal(io.StringIO):
    """A stream that is a terminal, and remembers how often it was written to."""

    def __init__(self, columns=60, lines=20):
        super().__init__()
        self.console = Console(file=self, force_terminal=True, width=columns, height=lines, color_system="standard")
        self.screen = pyte.HistoryScreen(columns, lines, history=100_000, ratio=0.001)
        self.screen.set_mode(pyte.modes.LNM)  # a terminal driver makes \r\n of \n
        self._emulator = pyte.Stream(self.screen)

    def isatty(self):
        return True

    def write(self, text):
        # pyte drops the rest of a text after a character without width that does not combine
        self._emulator.feed(text.replace("\u200d", "").replace("\ufe0f", ""))
        return super().write(text)

    def rows(self):
        """All rows, those scrolled away first: (character, colour, bold, italic) for each cell."""
        shown = [self.screen.buffer[y] for y in range(self.screen.lines)]
        out = []
        for row in [*self.screen.history.top, *shown]:
            cells_ = [row[x] for x in range(self.screen.columns)]
            out.append([(c.data, c.fg, c.bold, c.italics) for c in cells_])
        while out and all(c[0] in " " for c in out[-1]):
            out.pop()
        return out

    def text(self):
        return "\n".join("".join(c[0] for c in row).rstrip() for row in self.rows())


def shown(chunks, columns=60, lines=20, draw=True):
    """The terminal after an answer that came in these chunks; with `draw`, it was drawn after each of them."""
    terminal = Terminal(columns, lines)
    seconds = itertools.count() if draw else itertools.repeat(0)
    with MarkdownStream(terminal.console, clock=lambda: float(next(seconds)), effort=lambda: 0.0) as screen:
        for chunk in chunks:
            screen.feed(chunk)
    return terminal


def cut(text, places):
    ends = sorted({p % (len(text) + 1) for p in places} | {len(text)})
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
