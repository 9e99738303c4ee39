"""`coder chat -p` with a session: it goes on with that question; and what is for one of both alone."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from quant.errors import CoderError, InputError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def ask(question, *options):
    chosen = ["chat", "-m", "tiny", "-p", question, "-t", "1", "-n", "8", "--ctx", "400", *options]
    done = CliRunner().invoke(app, chosen, input="")
    if done.exception:
        raise done.exception
    assert done.exit_code == 0, done
    return done


def written(home):
    return {p.stem: [json.loads(x) for x in p.read_text().splitlines()] for p in (home / "sessions").glob("*.jsonl")}


def kinds(events):
    return [e["do"] for e in events[1:]]


def test_a_session_is_begun_and_goes_on(home):
    ask("One")
    assert not written(home), "nobody asked for a session"
    first = ask("One", "--session", "talk")
    ask("Two", "--session", "talk", "--system", "Be brief.")
    third = json.loads(ask("Three", "--resume", "--json").stdout)
    (events,) = written(home).values()
    assert kinds(events) == ["ask", "answer", "system", "ask", "answer", "ask", "answer"]
    assert [e["text"] for e in events if e.get("do") == "ask"] == ["One", "Two", "Three"]
    assert events[2]["text"].strip() == first.stdout.strip()
    assert events[-1]["text"] == third["text"]
    assert third["prompt_tokens"] > 40, "the model was shown what was said before"


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--resume"], "no session to resume"), (["-s", "../x"], "no name for a session")],
)
def test_a_session_that_cannot_be(home, options, words):
    with pytest.raises(InputError, match=words):
        ask("One", *options)
    assert not written(home)


def test_json_is_for_one_answer(monkeypatch, home):
    monkeypatch.setattr("cli.chat.one_shot_question", lambda prompt: prompt)
    done = CliRunner().invoke(app, ["chat", "--json"])
    assert isinstance(done.exception, InputError)
    assert "--json is for one answer" in done.exception.message


def test_a_question_too_long_is_told_without_commands_of_the_conversation(home, tmp_path):
    (tmp_path / "long.txt").write_text("word " * 500)
    for question, *files in (("word " * 500,), ("Hi", "long.txt")):
        with pytest.raises(CoderError) as caught:
            ask(question, *files)
        assert "/drop" not in caught.value.hint
        assert "where the model has one" in caught.value.hint
