"""Errors on stderr: lines end between words on a terminal, and stay whole in a pipe."""

import io
import sys

from cli.errors import show_error
from quant.errors import InputError

WORDS = " ".join(["the conversation has more messages than a server takes, and there is more to say about it"] * 2)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream, monkeypatch, **variables):
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        show_error(InputError(WORDS, hint="do it otherwise"))
    return stream.getvalue()


def test_a_terminal_gets_lines_that_end_between_words(monkeypatch):
    text = "".join(part.split("m", 1)[-1] for part in shown(Screen(), monkeypatch).split("\x1b["))
    lines = text.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert " ".join(text.split()) == f"error: {WORDS} hint: do it otherwise"


def test_in_a_pipe_a_line_stays_one(monkeypatch):
    assert shown(io.StringIO(), monkeypatch) == f"error: {WORDS}\nhint: do it otherwise\n"
    forced = shown(io.StringIO(), monkeypatch, FORCE_COLOR="1")
    assert forced.count("\n") == 2
