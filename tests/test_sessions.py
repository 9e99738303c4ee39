"""Sessions on disk: appended with every event, read again after a crash, refused by line when damaged."""

import json
import os
import subprocess
import sys
from io import FileIO, StringIO

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.sessions import WIDE, sessions_table
from coderv2_local.sessions.markdown import as_markdown
from coderv2_local.sessions.store import Sessions
from quant.errors import CoderError, InputError

ASK = {"do": "ask", "text": "Write a parser, please", "changed": []}
ANSWER = {"do": "answer", "text": "Sure\ud800 🙂", "cut": False, "vocabulary": "v", "ids": [1, 2]}


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path / "sessions")


OPEN = []


@pytest.fixture(autouse=True)
def close_all():
    yield
    while OPEN:
        OPEN.pop().close()


def begun(sessions, *events):
    session = sessions.new("tiny")
    OPEN.append(session)
    for event in events:
        session.write(event)
    return session


def test_what_is_written_is_read(sessions):
    session = begun(sessions, {"do": "system", "text": "Be brief"}, ASK, ANSWER)
    assert session.name.endswith("-write-a-parser-please")
    session.close()
    again, events, notice = sessions.open(session.name)
    assert events == [{"do": "system", "text": "Be brief"}, ASK, ANSWER]
    assert notice == ""
    again.write({"do": "clear"})
    again.close()
    assert sessions.read(session.name)[-1] == {"do": "clear"}
    assert session.path.stat().st_mode & 0o777 == 0o600
    (info,) = sessions.infos()
    assert (info.model, info.turns, info.first_question) == ("tiny", 1, "Write a parser, please")


def test_without_a_question_there_is_no_file(sessions):
    begun(sessions, {"do": "system", "text": "Be brief"}).close()
    assert sessions.names() == []


def test_equal_questions_get_different_names(sessions):
    first, second = begun(sessions, ASK), begun(sessions, ASK)
    assert second.name == first.name + "-2"
    assert sessions.latest() in (first.name, second.name)


def test_a_crash_in_the_middle_of_a_line_loses_only_that_line(sessions):
    session = begun(sessions, ASK, ANSWER)
    session.close()
    whole = session.path.read_bytes()
    for cut in range(len(whole) - 40, len(whole)):
        session.path.write_bytes(whole[:cut])
        again, events, notice = sessions.open(session.name)
        assert events == [ASK]
        assert "unfinished" in notice
        again.write(ANSWER)
        again.close()
        assert session.path.read_bytes() == whole


def test_every_event_survives_a_kill(sessions):
    program = (
        "import os, signal, sys; from pathlib import Path; from coderv2_local.sessions.store import Sessions\n"
        f"s = Sessions(Path({str(sessions.folder)!r})).new('tiny')\n"
        f"s.write({ASK!r}); s.write({{'do': 'clear'}}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], env=dict(os.environ, PYTHONPATH=str(ROOT)), check=False)
    (name,) = sessions.names()
    session, events, _ = sessions.open(name)  # the lock of the killed process does not stand in the way
    session.close()
    assert events == [ASK, {"do": "clear"}]


def test_one_session_is_written_by_one_process(sessions):
    session = begun(sessions, ASK)
    with pytest.raises(InputError, match="open in another window"):
        sessions.open(session.name)
    session.close()
    sessions.open(session.name)[0].close()


@pytest.mark.parametrize("columns", [80, 90, WIDE])
def test_the_list_shows_the_first_question_whatever_the_model_is_called(sessions, columns):
    address = "http://127.0.0.1:8123"
    session = sessions.new(address)
    OPEN.append(session)
    session.write(ASK)
    out = Console(file=StringIO(), width=columns)
    out.print(sessions_table(sessions, width=columns))
    row = out.file.getvalue().splitlines()[1]
    assert session.name in row
    assert "Write a parser," in row
    assert len(row) <= min(columns, 120), "no spaces to the end of what is no screen"
    assert ("127.0.0.1:8123" in row) == (columns == WIDE)


def test_renaming(sessions):
    session = begun(sessions, ASK)
    other = begun(sessions, ASK)
    with pytest.raises(InputError, match="already"):
        session.rename(other.name)
    session.rename("parser work")
    session.write(ANSWER)
    session.close()
    assert sessions.read("parser work") == [ASK, ANSWER]
    for name in ("../up", "", "a/b", ".hidden", "x" * 101, "nul\0"):
        with pytest.raises(InputError, match="no name for a session"):
            session.rename(name)
        with pytest.raises(InputError, match="no name for a session"):
            sessions.open(name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"do": "run", "command": "ls"}', "no event is called 'run'"),
        ('{"do": "ask", "text": 5, "changed": []}', "its 'text'"),
        ('{"do": "answer", "text": "", "cut": false, "vocabulary": "", "ids": ["x"]}', "ids are no numbers"),
        ('{"do": "ask", "text": "", "changed": [{"name": "a"}]}', "changed file"),
        ("5", "not an object"),
    ],
)
def test_a_damaged_file_is_named_by_its_line_and_left_alone(sessions, line, words):
    session = begun(sessions, ASK)
    session.close()
    lines = session.path.read_text().split("\n")
    session.path.write_text("\n".join([lines[0], line, *lines[1:]]))
    before = session.path.read_bytes()
    with pytest.raises(InputError, match=words):
        sessions.open(session.name)
    assert session.path.read_bytes() == before
    assert next(sessions.infos()).model == "damaged"


def test_a_session_of_a_later_format_is_refused(sessions):
    sessions.folder.mkdir()
    (sessions.folder / "a.jsonl").write_text(json.dumps({"coder_session": 2}) + "\n")
    with pytest.raises(InputError, match="format 2"):
        sessions.open("a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.path.exists("/dev/full") is False, reason="needs /dev/full")
def test_a_full_disk_is_told(sessions, tmp_path):
    session = begun(sessions, ASK)
    session._file.close()
    session._file = FileIO("/dev/full", "w")
    with pytest.raises(CoderError, match="cannot be saved"):
        session.write(ANSWER)


def test_markdown_shows_every_turn(sessions):
    cut = dict(ANSWER, text="One", cut=True)
    text = as_markdown("x", [ASK, cut, dict(ANSWER, text=" two"), {"do": "take_back"}, {"do": "clear"}])
    assert text == (
        "# x\n\n## You\n\nWrite a parser, please\n\n## Answer\n\nOne two\n\n*The answer above was taken back.*\n\n"
        "*The conversation was cleared.*\n"
    )


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50))
def test_any_question_makes_a_file_name(tmp_path_factory, question):
    sessions = Sessions(tmp_path_factory.mktemp("s"))
    session = begun(sessions, dict(ASK, text=question))
    session.close()
    assert sessions.read(session.name)[0]["text"] == question
