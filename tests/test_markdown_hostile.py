"""Hostile answers: shown safely, in linear time."""

import io
import itertools
import re
import sys

import pytest
from answer_screens import ESCAPES
from rich.console import Console

from cli.markdown_stream import LONGEST_LINE, MarkdownStream

HOSTILE = {
    "escape sequences": "\x1b]0;title\x07\x1b]52;c;aGk=\x07\x1b[2J\x1b[31m\x9b31m" * 50,
    "escapes in code": "```\x1b[31m\n\x1b]0;t\x07\x1b[2J\u202e\n```\n    \x1b[2J\n| \x1b[2J |\n|---|\n" * 20,
    "escapes in a long line": "a\x1b[2J" * 5_000,
    "escapes by character reference": "&#27;[31m &#x9b;31m &#x202e;abc [a](&#27;]8;;x) " * 50,
    "links with escapes": "[x](https://e.org/%1b]8;;http://evil%07) [y](<\x1b[31m>) ![z](\x1b[2J)\n\n" * 50,
    "rich markup": "[red]a[/red] [link=http://evil]b[/link] [/] [bold\n\n" * 50,
    "a line without end": "a" * 1_000_000,
    "words without end": "word " * 40_000,
    "wide line": "漢" * 100_000,
    "combining marks": "e" + "\u0301" * 50_000,
    "joiners": "👩\u200d" * 20_000,
    "a long line of code": "```json\n" + "[1, " * 50_000,
    "an unclosed fence": "```python\n" + "x = 'a' # b\n" * 3_000,
    "an unclosed comment": "```c\n/*" + "x = 'a'\n" * 3_000,
    "an unclosed string": '```python\nx = """' + "x = 'a'\n" * 3_000,
    "nested lists": "".join(" " * 2 * i + f"- a{i}\n" for i in range(300)),
    "markers on one line": "- " * 5_000 + "x\n" + "* - " * 5_000 + "y\n",
    "numbers on one line": "1. " * 5_000 + "x",
    "quotes": ">" * 20_000 + " x\n" + "> " * 5_000 + "y\n",
    "deep quotes line by line": "".join(">" * i + " a\n" for i in range(300)),
    "emphasis": "*a **b " * 5_000,
    "brackets": "[" * 20_000 + "](" * 5_000,
    "images": "![" * 10_000,
    "backticks": "".join("`" * (i % 90 + 1) + " " for i in range(3_000)),
    "a table of many rows": "| a | b |\n|---|---|\n" + "| `x` | y |\n" * 5_000,
    "a table of many columns": "|" + " a |" * 500 + "\n|" + "---|" * 500 + "\n|" + " b |" * 500,
    "pipes": "|" * 20_000 + "\n" + "|-" * 10_000,
    "empty lines": "\n" * 50_000,
    "empty items": "-\n" * 10_000,
    "html": "<script>alert(1)</script><b onclick=x>" * 500,
    "rules": "- - -\n" * 3_000,
    "headings": "# " * 5_000 + "\n" + "#" * 5_000,
    "heredocs": "```bash\n" + "cat <<A\n" * 2_000,
    "underlines": "a\n===\n" * 2_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_shown_safely(name):
    text = HOSTILE[name]
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    console = Console(file=terminal, force_terminal=True, width=80, height=24, color_system="standard")
    clock = itertools.count(step=0.001)
    with MarkdownStream(console, clock=lambda: next(clock), effort=lambda: 0.0) as screen:
        for at in range(0, len(text), 37):
            screen.feed(text[at : at + 37])
    written = terminal.getvalue()
    visible = ESCAPES.sub("", written)
    assert "\x1b" not in visible
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", visible)


def test_a_line_without_end_is_not_kept_and_not_read_again():
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    screen = MarkdownStream(Console(file=terminal, force_terminal=True, width=80, height=24))
    for _ in range(1000):
        screen.feed("word 漢字 " * 10)
    assert screen._line_size <= LONGEST_LINE
    screen.close()
    assert terminal.getvalue().count("漢") >= 10_000


@pytest.mark.parametrize(
    ("opening", "unit"),
    [
        ("", "word "), ("", "漢"), ("", "- item\n"), ("", "> quote\n"), ("", "a `b` *c* d\n"), ("", "para\n\n"),
        ("", "["), ("", "*a "), ("", "<"), ("", "| a |\n"), ("| a |\n|---|\n", "| `a` |\n"), ("- - - > ", "a\n"),
        ("```python\n", "x = 1\n"), ("```python\n", "'"), ("```c\n/*\n", "x = 1\n"),
        ("```bash\n", "cat <<A\n"), ("```python\n", "x = 'a\n"),
    ],
)  # fmt: skip
def test_work_grows_linearly_with_the_answer(opening, unit):
    """Counted in calls of functions: three times the text is no more than four times the work."""

    def work(n):
        text = opening + unit * (n // len(unit))
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        console = Console(file=terminal, force_terminal=True, width=80, height=24, color_system="standard")
        clock, calls = itertools.count(step=0.01), [0]

        def count(frame, event, argument):
            calls[0] += 1

        with MarkdownStream(console, clock=lambda: next(clock), effort=lambda: 0.0) as screen:
            screen.feed(text[:100])
            sys.setprofile(count)
            try:
                for at in range(100, len(text), 500):
                    screen.feed(text[at : at + 500])
                screen.close()
            finally:
                sys.setprofile(None)
        return calls[0]

    # both past the sizes up to which a block is held
    assert work(30_000) < 4 * work(10_000)
