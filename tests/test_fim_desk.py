"""Filling in by hand: what is written and taken back there, and what is said where there is nothing."""

import io
from dataclasses import replace

import pytest
from fim_source import SOURCE, source
from rich.console import Console

from cli.fim_desk import Desk
from cli.fim_edits import take_back, write_middle
from cli.fim_repl import fim_repl
from cli.fim_wishes import FimWishes
from coderv2_local.fim.hole import Hole
from coderv2_local.preferences import Preferences

__all__ = ["source"]


@pytest.fixture
def make(tiny):
    def desk(**wishes):
        return Desk(tiny, FimWishes(Preferences(), **wishes), Console(file=io.StringIO(), width=100))

    return desk


def write_elsewhere(path, text=SOURCE):
    """A suggestion that another `coder fim` wrote. Returns what the file holds now."""
    path.write_text(text)
    assert write_middle(path, text, Hole(text, ""), "# theirs\n")
    return path.read_text()


def said(desk):
    return desk.screen.file.getvalue()


@pytest.mark.parametrize("is_open", [True, False])
def test_undo_leaves_alone_what_was_not_accepted_here(make, source, tmp_path, capsys, is_open):
    theirs = write_elsewhere(tmp_path / "b.py")
    desk = make(max_tokens=8)
    if is_open:
        desk.obey(f"open {source}:3")
    desk.obey("u")
    assert "nothing that was accepted here" in capsys.readouterr().err
    assert (tmp_path / "b.py").read_text() == theirs
    assert source.read_text() == SOURCE


def test_undo_goes_back_through_what_was_accepted_here_and_no_further(make, source, tmp_path, capsys):
    other = tmp_path / "b.py"
    theirs = write_elsewhere(other)
    desk = make(max_tokens=8)
    for path in (source, other):
        desk.obey(f"open {path}:3")
        desk.obey("a")
    assert (source.read_text() != SOURCE, other.read_text() != theirs) == (True, True)
    desk.obey("u")
    assert (source.read_text() != SOURCE, other.read_text() == theirs) == (True, True)
    desk.obey("u")
    assert source.read_text() == SOURCE
    assert capsys.readouterr().err == ""
    desk.obey("u")
    assert "nothing that was accepted here" in capsys.readouterr().err
    assert other.read_text() == theirs


def test_undo_goes_back_to_where_the_suggestion_was_asked_for(make, source):
    desk = make(max_tokens=8)
    desk.obey(f"open {source}:3")
    asked = desk.target
    desk.filling = replace(desk.filling, text="a\nb\nc\n")
    desk.obey("a")
    assert desk.target != asked
    desk.obey("u")
    assert desk.target == asked


@pytest.mark.parametrize("is_open", [True, False])
def test_open_alone_asks_for_a_file(make, source, capsys, is_open):
    desk = make(max_tokens=8)
    if is_open:
        desk.obey(f"open {source}:3")
    desk.obey("open")
    assert "open which file?" in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_it_took_breaks_at_words_on_a_terminal_and_nowhere_else(make, is_terminal):
    desk = make()
    desk.screen = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=40)
    line = "7 tokens · ended by: stop · prompt 120 · first token after 0.12 s, then 0.30 s"
    desk._say(line)
    rows = said(desk).splitlines()
    assert " ".join(row.strip() for row in rows) == line
    assert (len(rows) > 1) == is_terminal
    assert len(rows[0]) <= 40 or not is_terminal


def test_what_was_taken_back_elsewhere_is_not_confused_with_what_came_after(make, source, tmp_path, capsys):
    desk = make(max_tokens=8)
    desk.obey(f"open {source}:3")
    desk.obey("a")
    number = desk.accepted[0].number
    take_back()
    theirs = write_elsewhere(tmp_path / "b.py")
    desk.obey("u")
    assert "taken back already" in capsys.readouterr().err
    assert (tmp_path / "b.py").read_text() == theirs
    assert take_back().number == number, "numbers are given again"


def test_a_file_that_changed_since_can_be_undone_later(make, source, capsys):
    desk = make(max_tokens=8)
    desk.obey(f"open {source}:3")
    desk.obey("a")
    accepted = source.read_text()
    source.write_text(accepted + "# mine\n")
    desk.obey("u")
    assert "changed after the edit" in capsys.readouterr().err
    source.write_text(accepted)
    desk.obey("u")
    assert source.read_text() == SOURCE


def test_what_stands_there_already_is_not_written(make, source):
    desk = make(max_tokens=8)
    desk.obey(f"open {source}:3")
    middle = desk.filling.text
    lines = SOURCE.split("\n")
    assert middle
    source.write_text("\n".join([*lines[:2], middle, *lines[3:]]))
    before = source.read_bytes()
    desk.obey(f"open {source}:3-{3 + middle.count(chr(10))}")
    assert desk.filling.text == middle
    desk.obey("a")
    assert "nothing was written: this is what stands there already" in said(desk)
    assert source.read_bytes() == before
    assert desk.accepted == []


def test_a_file_that_cannot_be_opened_leads_back_to_the_chat(tiny, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("there is nothing to fill in")

    monkeypatch.setattr("prompt_toolkit.PromptSession", never)
    fim_repl(tiny, FimWishes(Preferences()), ["nofile:3"], Console(file=io.StringIO()))
    assert "nofile: no such file" in capsys.readouterr().err


def test_no_time_is_not_nothing_to_suggest(make, source):
    desk = make(max_ms=1)
    desk.obey(f"open {source}:3")
    assert not desk.filling.text
    assert "no time was left to suggest anything (--max-ms 1): allow more" in said(desk)
    assert "suggests nothing" not in said(desk)
