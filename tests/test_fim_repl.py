"""Filling in by hand, in a real pseudo-terminal: open, move, suggest, accept, next, retry, undo, leave."""

import io
import os
import sys

import pytest
from conftest import ROOT
from rich.console import Console

from cli.fim_repl import Desk, fim_repl
from coderv2_local.fim.places import is_function, next_line

SOURCE = 'def add(a, b):\n    """Return the sum of a and b."""\n\n\ndef other(a):\n    return a\n'
READY = r"\x1b\[\?2004h"  # the prompt turns on bracketed paste when it takes keys


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def desk(tiny, source):
    desk = Desk(tiny, Console(file=io.StringIO(), width=100), 32)
    desk.obey(f"open {source}:3")
    return desk


def shown(desk):
    return desk.screen.file.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_session_in_a_terminal(source, tmp_path):
    import pexpect

    environment = dict(os.environ, TERM="xterm", NO_COLOR="1", PROMPT_TOOLKIT_NO_CPR="1", PYTHONPATH=str(ROOT))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "cli", "fim", "-t", "1"],
        env=environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 100),
        cwd=str(tmp_path),
    )

    def say(text):
        child.expect(READY)
        child.send(text + "\r")

    child.expect("filling in with tiny")
    say("?")
    child.expect("next: another suggestion")
    say("5")
    child.expect("no file is open")
    say("open missing.py")
    child.expect("no such file")
    say("open a.py:3")
    child.expect("3 \\+ ")
    child.expect("ended by")
    say("99")
    child.expect("no line 99")
    say("/other")
    child.expect("ended by|nothing here")
    say("F")
    child.expect("ended by|nothing here")
    say("3")
    child.expect("ended by")
    say("n")
    child.expect("ended by|nothing here")
    say("r")
    child.expect("ended by")
    say("a")
    child.expect("written to a.py")
    child.expect(READY)
    assert source.read_text() != SOURCE
    child.send("u\r")
    child.expect("as it was before")
    child.expect(READY)
    assert source.read_text() == SOURCE
    child.send("nonsense\r")
    child.expect("no command")
    say("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_accepting_goes_to_the_end_of_what_was_written(desk, source):
    middle = desk.filling.text
    desk.obey("a")
    lines = SOURCE.split("\n")
    assert source.read_text() == "\n".join([*lines[:2], middle, *lines[3:]])
    last = middle.split("\n")[-1]
    assert (desk.target.line, desk.target.column) == (3 + middle.count("\n"), len(last) + 1)
    desk.obey("u")
    assert source.read_text() == SOURCE


def test_another_sample_can_be_repeated(desk):
    first = desk.filling.text
    desk.obey("n")
    second = desk.filling.text
    desk.obey("n")
    desk.obey("r")
    assert desk.filling.text == first
    desk.obey("n")
    assert desk.filling.text == second


def test_a_file_changed_by_somebody_else_is_not_written(desk, source):
    source.write_text(SOURCE + "# theirs\n")
    desk.obey("a")
    assert source.read_text() == SOURCE + "# theirs\n"
    desk.obey("r")
    desk.obey("a")
    assert source.read_text().endswith("# theirs\n")
    assert source.read_text() != SOURCE + "# theirs\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [("+", 4), ("-", 2), ("+99", 7), ("/return", 6), ("/Return", 2), ("f", 5), ("F", 1), ("6:5", 6), ("1-2", 1)],
)
def test_moves(desk, words, line):
    desk.obey(words)
    assert desk.target.line == line


def test_a_search_goes_on_and_round(desk):
    found = []
    for words in ("/a", "/", "/", "/"):
        desk.obey(words)
        found.append(desk.target.line)
    assert found == [5, 6, 1, 2]


def test_an_error_leaves_the_place_as_it_was(desk, capsys):
    before = desk.target
    for words in ("99", "2:500", "/nowhere", "nonsense", "open missing.py", "0"):
        desk.obey(words)
        assert desk.target == before
    assert capsys.readouterr().err.count("error:") == 6


def test_chat_can_begin_with_a_file(tiny, source, monkeypatch):
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    screen = Console(file=io.StringIO(), width=100)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("q\r")
        fim_repl(tiny, [f"{source}:3"], screen)
    assert "3 + " in screen.file.getvalue()
    assert tiny.count("still open") > 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("def f(a):", True),
        ("    async def f(self):", True),
        ("pub(crate) fn main() {", True),
        ("export default function f() {", True),
        ("static int add(int a, int b) {", True),
        ("func (r *R) Read() error {", True),
        ("    return add(a, b)", False),
        ("x = define(1)", False),
    ],
)
def test_functions_are_recognised_in_many_languages(line, expected):
    assert is_function(line) == expected


def test_the_next_line_is_searched_round_the_end():
    lines = ["x", "a", "x", "a"]
    assert [next_line(lines, here, lambda line: line == "a") for here in (1, 2, 3, 4)] == [2, 4, 4, 2]
    backwards = [next_line(lines, here, lambda line: line == "a", backwards=True) for here in (1, 2, 3, 4)]
    assert backwards == [4, 4, 2, 2]
    assert next_line(lines, 1, lambda line: line == "b") is None
