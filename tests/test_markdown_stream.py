"""Answers on a terminal emulator, however they are cut; plain text where no terminal is."""

import io
import itertools
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from answer_screens import ESCAPES, Terminal, cut, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.markdown_stream import MarkdownStream

ROOT = Path(__file__).parent.parent
ANSWER = '''\
# Reading a file

Use `BufReader` from the **standard library**, *not* a loop of your own; see [the docs](https://doc.rust-lang.org).

1. Open it:
   ```rust
   /* a comment
    * over lines: "x
    */
   fn main() { println!("{}", 1); }
   ```
2. Errors:
   - `NotFound`: the file does not exist, so say which path was tried
     - nested
   - other

10. Ten

| Function | Cost |
|:---------|-----:|
| `lines()` | O(n) |
| 漢字 | 1 |

> **Note**: quoted
> text
>
> - item

使用 `BufReader` 可以逐行读取文件，这样即使文件非常大也不会占用太多内存。如果需要处理错误，请使用 `?` 运算符。

---

```python
def f(x: int) -> str:
    """Doc
    string."""
    return f"{x!r}"  # a comment that is so long that the terminal has to break it into two rows

```

Done: List<int> and a < b && c, snake_case, &amp;.
'''


def test_the_screen_of_an_answer():
    assert (
        shown([ANSWER], 60).text()
        == """\
Reading a file

Use BufReader from the standard library, not a loop of your
own; see the docs (https://doc.rust-lang.org).

1. Open it:
   ```rust
   /* a comment
    * over lines: "x
    */
   fn main() { println!("{}", 1); }
   ```
2. Errors:
   • NotFound: the file does not exist, so say which path
     was tried
     • nested
   • other

10. Ten

Function   Cost
───────────────
lines()    O(n)
漢字          1

▌ Note: quoted
▌ text
▌
▌ • item

使用 BufReader 可以逐行读取文件，这样即使文件非常大也不会占
用太多内存。如果需要处理错误，请使用 ? 运算符。

────────────────────────────────────────

```python
def f(x: int) -> str:
    \"\"\"Doc
    string.\"\"\"
    return f"{x!r}"  # a comment that is so long that the te
rminal has to break it into two rows

```

Done: List<int> and a < b && c, snake_case, &."""
    )


def test_the_screen_is_the_same_when_every_character_comes_alone():
    assert shown(ANSWER).rows() == shown([ANSWER], draw=False).rows()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=40), st.booleans(), st.sampled_from([24, 60, 100]))
def test_how_an_answer_is_cut_does_not_matter(places, draw, columns):
    assert shown(cut(ANSWER, places), columns, draw=draw).rows() == shown([ANSWER], columns, draw=False).rows()


PIECES = [
    "```", "```python\n", "~~~\n", "\n", "\n\n", "- ", "1. ", "12) ", "  ", "    ", "> ", "# ", "| a | b |\n",
    "|---|---|\n", "**b**", "`c`", "_", "*", "[x](y)", "---", "===", "text", " words and more words", "漢字，漢字",
    "🙂", "👩‍👩‍👧", "e\u0301", "❤️",
    '"""', "/*", "*/", "def f():", "\t", "&#27;[31m", "<b>", "\\", "\x1b[2J", "\u202e", "x" * 70,
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.integers(0, 3000), max_size=20))
def test_how_any_markdown_is_cut_does_not_matter(pieces, places):
    text = "".join(pieces)
    assert shown(cut(text, places), 40).rows() == shown([text], 40, draw=False).rows()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_only_known_escape_sequences_are_written_and_no_word_is_lost(pieces):
    text = "".join(pieces)
    terminal = shown([text], 300, 80, draw=False)
    assert "\x1b" not in ESCAPES.sub("", terminal.getvalue())
    assert "\u202e" not in terminal.getvalue()
    for word in ("words", "text", "漢字", "def"):
        assert terminal.text().count(word) == text.count(word), word


def test_finished_rows_are_not_drawn_again():
    terminal = shown(ANSWER.splitlines(keepends=True), 60)
    written = ESCAPES.sub("", terminal.getvalue())
    for finished in ("Reading a file", "10. Ten", "fn main()", "return f", "Open it"):
        assert written.count(finished) == 1, finished


def test_updates_are_spaced_and_all_is_shown_at_the_end(monkeypatch):
    terminal = Terminal()
    now, drawn = [0.0], []
    screen = MarkdownStream(terminal.console, clock=lambda: now[0], effort=lambda: 0.0)
    monkeypatch.setattr(screen._tail, "update", lambda final, tail: drawn.append((now[0], list(final), list(tail))))
    for i in range(200):
        now[0] = i / 200
        screen.feed(f"w{i} ")
    assert len(drawn) <= 20
    screen.close()
    assert "w199" in drawn[-1][1][-1]
    assert drawn[-1][2] == []


def test_slow_drawing_makes_updates_rarer(monkeypatch):
    terminal = Terminal()
    now, spent, drawn = [0.0], itertools.count(step=0.004), []  # each drawing takes 4 ms
    screen = MarkdownStream(terminal.console, clock=lambda: now[0], effort=lambda: next(spent))
    monkeypatch.setattr(screen._tail, "update", lambda final, tail: drawn.append(now[0]))
    for i in range(1000):
        now[0] = i / 100
        screen.feed("w ")
    assert 0.004 * len(drawn) <= 0.0105 * 10
    assert len(drawn) > 20


def test_one_slow_drawing_does_not_freeze_the_screen(monkeypatch):
    terminal = Terminal()
    now, spent, drawn = [0.0], itertools.count(step=1.0), []
    screen = MarkdownStream(terminal.console, clock=lambda: now[0], effort=lambda: next(spent))
    monkeypatch.setattr(screen._tail, "update", lambda final, tail: drawn.append(now[0]))
    for i in range(200):
        now[0] = i / 100
        screen.feed("w ")
    assert len(drawn) >= 4


def test_ctrl_c_leaves_what_came_so_far():
    terminal = Terminal()

    def answer():
        yield "Some **bold"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), MarkdownStream(terminal.console) as screen:
        deque(map(screen.feed, answer()))
    assert terminal.text() == "Some **bold"
    assert terminal.screen.cursor.x == 0
    assert terminal.getvalue().endswith("\x1b[?7h\x1b[?2026l")


# --- where no terminal is ----------------------------------------------------------------------------------------


def test_text_is_passed_on_as_it_is_where_no_terminal_is():
    out = io.StringIO()
    with MarkdownStream(Console(file=out, force_terminal=True)) as screen:  # as FORCE_COLOR does
        for chunk in ("# a\n", "**b", "** [x](y)\x1b[31m"):
            screen.feed(chunk)
    assert out.getvalue() == "# a\n**b** [x](y)[31m\n"


def test_a_dumb_terminal_gets_plain_text(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with MarkdownStream(terminal.console) as screen:
        screen.feed("**a**")
    assert terminal.getvalue() == "**a**\n"


def test_no_color_keeps_the_layout_and_drops_the_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = shown(["**a** `b`\n\n```py\nx = 'y'\n```"])
    assert "a b\n\n```py\nx = 'y'" in terminal.text()
    assert {c[1] for row in terminal.rows() for c in row} == {"default"}
    assert terminal.rows()[0][0] == ("a", "default", True, False)


def test_characters_that_the_encoding_lacks_do_not_stop_the_answer():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with MarkdownStream(Console(file=out)) as screen:
        screen.feed("漢 a")
    assert out.buffer.getvalue() == b"? a\n"


def test_the_module_is_light():
    code = "import sys, cli.markdown_stream; print({'markdown_it', 'pygments', 'rich.markdown'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("markdown", "screen"),
    [
        ("1. a\n   ```py\ndef f():\n    return 1\n   ```\n   b\n",
         "1. a\n   ```py\n   def f():\n       return 1\n   ```\n   b"),
        ("- \n\ntext", "•\n\ntext"),
        ("- a\n-\n- b", "• a\n•\n• b"),
        ("1. a\n  - b\n    1. c\n2. d", "1. a\n   • b\n     1. c\n2. d"),
        ("para\n1986. A year", "para\n1986. A year"),
        ("- a\n  > b\n  c\n\nd", "• a\n  ▌ b\n  ▌ c\n\nd"),
        ("- a\n\n  b\n\nc", "• a\n\n  b\n\nc"),
        ("> a\n\nb", "▌ a\n\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("```\na\n\n\nb\n```", "```\na\n\n\nb\n```"),
        ("````md\n```py\n```\n````\nx", "```md\n```py\n```\n```\nx"),
        ("List<int> <b>x</b> <script>", "List<int> <b>x</b> <script>"),
        ("[a]: http://x\n[a]", "[a]: http://x\n[a]"),
        ("[x](http://y) <http://z> ![i](j.png)", "x (http://y) http://z i (j.png)"),
        ("a\\\nb  \nc\nd", "a\nb\nc\nd"),
        ("word " * 12 + "\nnext", "word " * 11 + "word\nnext"),
        ("x" * 61 + "\nnext " + "y" * 50, "x" * 60 + "\nx next " + "y" * 50),
        ("Title\n===\ntext", "Title\ntext"),
        ("## a `b` ##", "a b"),
        ("#tag", "#tag"),
        ("|a|b|\n|-|-|\n|1|2|", "a   b\n─────\n1   2"),
        ("x:\n|a|b|\n|-|-|\n|1|2|\n\ny", "x:\na   b\n─────\n1   2\n\ny"),
        ("```make\na:\n\tb\n```", "```make\na:\n    b\n```"),
        ("- [ ] a\n- [x] b", "• [ ] a\n• [x] b"),
        ("[red]a[/red] [/]", "[red]a[/red] [/]"),
        ("&lt;a&gt; &#27;[1m &#x202e;b", "<a> \ufffd[1m b"),
    ],
)  # fmt: skip
def test_what_markdown_looks_like(markdown, screen):
    assert shown([markdown], 60, draw=False).text() == screen
    assert shown(markdown, 60).text() == screen


@pytest.mark.parametrize("columns", [1, 2, 5, 12])
def test_a_narrow_terminal_shows_everything(columns):
    letters = shown([ANSWER], columns, draw=False).text().replace("\n", "").replace(" ", "")
    assert "Readingafile" in letters
    assert shown(ANSWER, columns).rows() == shown([ANSWER], columns, draw=False).rows()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, a terminal that breaks rows anew when resized")
def test_resizing_in_the_middle_of_an_answer_loses_nothing(tmp_path):
    script = tmp_path / "answer.py"
    script.write_text(
        "import time\n"
        "from rich.console import Console\n"
        "from cli.markdown_stream import MarkdownStream\n"
        "with MarkdownStream(Console()) as screen:\n"
        "    for i in range(300):\n"
        "        screen.feed(f'w{i} ' if i % 40 else f'w{i}\\n\\n')\n"
        "        time.sleep(0.01)\n"
        "print('the end', flush=True)\n"
        "time.sleep(60)\n"
    )

    def tmux(*arguments):
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=30).stdout

    environment = ["-e", f"PYTHONPATH={ROOT}", "-e", "PYTHONDONTWRITEBYTECODE=1"]
    tmux("new-session", "-d", "-x", "80", "-y", "24", *environment, sys.executable, str(script))
    try:
        text, columns = "", itertools.cycle(["60", "100", "43", "80"])
        deadline = time.monotonic() + 60
        while "the end" not in text and time.monotonic() < deadline:
            tmux("resize-window", "-x", next(columns), "-y", "24")
            time.sleep(0.3)
            text = tmux("capture-pane", "-p", "-J", "-S", "-500")
    finally:
        tmux("kill-server")
    assert "the end" in text
    assert [word for word in (f"w{i}" for i in range(300)) if not re.search(rf"\b{word}\b", text)] == []
