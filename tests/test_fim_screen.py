"""How a suggestion is shown: in its place, beside what it replaces, coloured, and harmless."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fim_source import SOURCE
from rich.console import Console

from cli.fim_screen import MOST_CHARACTERS, MOST_LINES, in_place
from coderv2_local.fim.hole import Hole


def shown(text, *, colours=False):
    out = io.StringIO()
    system = "standard" if colours else None
    Console(file=out, force_terminal=colours, color_system=system, width=80, highlight=False).print(
        text, soft_wrap=True
    )
    return out.getvalue()


def test_the_lines_around_it_keep_their_numbers():
    hole = Hole("".join(f"a{n}\n" for n in range(1, 9)) + "x = ", " # end\nb\nc\n")
    assert shown(in_place(hole, "1\ny = 2")).split("\n") == [
        " 3   a3", " 4   a4", " 5   a5", " 6   a6", " 7   a7", " 8   a8",
        " 9 + x = 1", "10 + y = 2 # end",
        "11   b", "12   c", "13   ", "",
    ]  # fmt: skip


def test_what_it_replaces_stands_before_it():
    hole = Hole("a\n", "\nd\n")
    assert shown(in_place(hole, "new", replaced="b\nc")).split("\n") == [
        "1   a", "2 - b", "3 - c", "2 + new", "3   d", "4   ", "",
    ]  # fmt: skip
    within = Hole("x = ", "  # end\n")
    assert shown(in_place(within, "2", replaced="1")).split("\n")[:2] == ["1 - x = 1  # end", "1 + x = 2  # end"]


def test_where_nothing_is_suggested_nothing_is_marked():
    lines = shown(in_place(Hole("a\n", "\nd\n"), "", replaced="b\nc")).split("\n")
    assert lines == ["1   a", "2   b", "3   c", "4   d", "5   ", ""]


def test_the_suggestion_is_coloured_as_code_and_what_goes_is_red():
    hole = Hole("def f():\n", "\nx = 1\n")
    text = shown(in_place(hole, '    return "a"  # why', replaced="    pass", path=Path("a.py")), colours=True)
    assert "\x1b[1;32m+ \x1b[0m" in text, "a marked gutter"
    assert "\x1b[35mreturn\x1b[0m" in text
    assert '\x1b[32m"\x1b[0m\x1b[32ma\x1b[0m' in text
    assert "\x1b[3m# why\x1b[0m" in text, "not dim: all else around is"
    assert "\x1b[2;31m- \x1b[0m\x1b[2;31m    pass\x1b[0m" in text
    assert "\x1b[2mx = 1\x1b[0m" in text, "only the suggestion is coloured"


def test_the_language_is_the_files_own_and_begins_before_the_hole():
    commented = Hole("/* a\n", "\n*/\nint x;\n")
    assert "\x1b[3mint y = 1;" in shown(in_place(commented, "int y = 1;", path=Path("a.c")), colours=True)
    plain = shown(in_place(commented, "int y = 1;", path=Path("a.unheard-of")), colours=True)
    assert "\x1b[1;32m+ \x1b[0mint y = 1;" in plain


@pytest.mark.parametrize("name", ["a.py", "a.c", "a.html", "a.php", "a.yml", "a.md", "Makefile", "a.unheard-of"])
def test_no_control_character_reaches_the_terminal(name):
    evil = "\x1b]0;title\x07\x9b31m\u202etxt\r\x08"
    hole = Hole(f"{evil}\n{evil}", f"{evil}\n{evil}\n")
    for colours in (True, False):
        text = shown(in_place(hole, f"a{evil}\n\tb{evil}", replaced=evil, path=Path(name)), colours=colours)
        for c in "\x07\x08\r\x9b\u202e\t":
            assert c not in text
        assert "\x1b]" not in text
    assert "\x1b" not in text


def test_long_lines_and_long_suggestions_are_cut():
    hole = Hole("x" * 900_000, "y" * 900_000 + "\n")
    text = shown(in_place(hole, "middle", path=Path("a.py")))
    assert f"…{'x' * MOST_CHARACTERS}middle{'y' * MOST_CHARACTERS}…" in text
    assert len(text) < 3 * MOST_CHARACTERS
    many = shown(in_place(Hole("", ""), "a\n" * 100, replaced="b\n" * 90))
    assert many.count("+ a") == many.count("- b") == MOST_LINES
    assert f"… {101 - MOST_LINES} more lines" in many
    assert f"… {91 - MOST_LINES} more lines" in many


def test_deep_in_a_long_file_it_is_the_same():
    lines = [f"x_{n} = {n}" for n in range(200_000)]
    hole = Hole("\n".join(lines[:100_000]) + "\n", "\n" + "\n".join(lines[100_000:]))
    text = shown(in_place(hole, "new", path=Path("a.py"))).split("\n")
    assert text[5:8] == ["100000   x_99999 = 99999", "100001 + new", "100002   x_100000 = 100000"]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("place", ["a.py:3", "a.py:5-6"])
def test_on_a_terminal_it_is_shown_in_its_place(tmp_path, place):
    from terminal import Terminal

    (tmp_path / "a.py").write_text(SOURCE)
    home = tmp_path / "home"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CODER_HOME=str(home))
    command = [sys.executable, "-m", "cli", "fim", place, "-n", "30"]
    piped = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout
    assert piped.strip()
    with Terminal("fim", place, "-n", "30", cwd=tmp_path, home=home, columns=120) as terminal:
        assert terminal.wait() == 0
        rows = [line[2:] for line in terminal.lines()]
        first = next(n for n, row in enumerate(rows) if row.startswith("+ "))
        assert rows[0] == "  def add(a, b):"
        assert [row[2:] for row in rows if row.startswith("+ ")] == [line.rstrip() for line in piped.split("\n")]
        removed = ["- def other(a):", "-     return a"] if "-" in place else []
        assert [row for row in rows[:first] if row.startswith("- ")] == removed
        assert "ended by" in terminal.text()
        assert "\x1b[1;32m+ " in terminal.raw
        assert "\x1b[2mdef add(a, b):" in terminal.raw
