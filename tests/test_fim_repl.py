"""Filling in by hand, in a real pseudo-terminal: open, move, suggest, accept, next, retry, undo, leave."""

import io
import os
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from fim_source import SOURCE, source
from rich.console import Console
from synthetic_models import LITE, small_model

from cli.fim_desk import Desk
from cli.fim_repl import fim_repl
from cli.fim_wishes import FimWishes
from coderv2_local.fim.places import is_function, next_line
from coderv2_local.preferences import Preferences

if os.name != "nt":
    from terminal import Terminal

__all__ = ["source"]
READY = r"\x1b\[\?2004h"  # the prompt turns on bracketed paste when it takes keys


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model that writes slowly enough to be interrupted, and does not stop by itself."""
    return small_model(tmp_path_factory.mktemp("models") / "slow.gguf", replace(LITE, n_layers=24))


@pytest.fixture
def desk(tiny, source):
    desk = Desk(tiny, FimWishes(Preferences(), max_tokens=32), Console(file=io.StringIO(), width=100))
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
    child.expect(r"3 \x1b\[0m\x1b\[1m\+ ")
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


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_a_suggestion_and_nothing_else(source, slow, tmp_path):
    with Terminal("fim", "-m", str(slow), "-n", "1000", "--temperature", "2", cwd=tmp_path, home=tmp_path) as terminal:
        terminal.until("fim>")
        terminal.send("open a.py:4\r")
        terminal.until("…")
        terminal.child.sendintr()
        assert "ended by" not in terminal.until("stopped")
        terminal.until("fim a.py:4>")
        terminal.send("a\r")
        terminal.until("there is no suggestion to accept")
        terminal.child.sendintr()  # at the prompt: the line is given up
        terminal.send("?\r")
        terminal.until("next: another suggestion")
        terminal.send("q\r")
        assert terminal.wait() == 0
    assert source.read_text() == SOURCE


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_the_options_of_the_command_reach_it(source, tmp_path):
    with Terminal("fim", "-n", "2", "--no-context", cwd=tmp_path, home=tmp_path) as terminal:
        terminal.until("fim>")
        terminal.send("open a.py:3\r")
        assert "2 tokens · ended by: length" in terminal.until("ended by")
    with Terminal("fim", "--context", "nope.py", cwd=tmp_path, home=tmp_path) as terminal:
        assert "nope.py" in terminal.until("error:")
        assert terminal.wait() == 2


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


def test_a_file_changed_by_somebody_else_is_not_written(desk, source, capsys):
    source.write_text(SOURCE + "# theirs\n")
    desk.obey("a")
    said = capsys.readouterr().err
    assert "changed after it was read" in said
    assert "r reads the file again" in said
    assert "run the command" not in said
    assert source.read_text() == SOURCE + "# theirs\n"
    desk.obey("r")
    desk.obey("a")
    assert source.read_text().endswith("# theirs\n")
    assert source.read_text() != SOURCE + "# theirs\n"


def test_lines_to_be_replaced_are_shown(desk):
    desk.obey("1-2")
    assert "1 - def add(a, b):" in shown(desk)
    assert desk.where() == " a.py:1-2"


def test_it_does_what_the_options_say(tiny, source, tmp_path):
    def first_of(**wishes):
        desk = Desk(tiny, FimWishes(Preferences(), **wishes), Console(file=io.StringIO(), width=100))
        desk.obey(f"open {source}:3")
        return desk.filling

    (tmp_path / "lib.py").write_text("def plus(a, b):\n    return a + b\n" * 30)
    usual = first_of(no_context=True)
    assert first_of(max_tokens=2).tokens == 2
    assert first_of(context=[tmp_path / "lib.py"]).prompt_tokens > usual.prompt_tokens + 100
    assert first_of(no_context=True, prefix_tokens=10).prompt_tokens < usual.prompt_tokens
    assert first_of(no_context=True, suffix_tokens=0).suffix_tokens == 0
    timed = first_of(max_ms=1)
    assert (timed.reason, timed.tokens <= 1) == ("time", True)
    warm = [first_of(temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


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
    for words in ("99", "2:500", "/nowhere", "nonsense", "open missing.py", "0", "5-2"):
        desk.obey(words)
        assert desk.target == before
    said = capsys.readouterr().err
    assert said.count("error:") == 7
    assert "line 5 comes after line 2" in said


def test_chat_can_begin_with_a_file(tiny, source, monkeypatch):
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    screen = Console(file=io.StringIO(), width=100)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("q\r")
        fim_repl(tiny, FimWishes(Preferences()), [f"{source}:3"], screen)
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
