"""`coder chat` as a user sees it: the real program in a pseudo-terminal, on the embedded model."""

import json
import os
import re
import signal

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
if os.name != "nt":
    from terminal import Terminal

REQUEST = "Write a Python function `is_even`: Return True if a number is even"
ENDLESS = "Write a Python function `main`: Run the whole program with many options"
"""Without a repetition penalty the answer does not end by itself."""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.py").write_text("def add(a, b):\n    return a + b\n")
    return folder


@pytest.fixture
def open_chat(home, work):
    running = []

    def start(*arguments, **options):
        running.append(Terminal("chat", "-t", "1", *arguments, cwd=work, home=home, **options))
        return running[-1]

    yield start
    for terminal in running:
        terminal.child.close(force=True)


def sessions(home):
    return sorted((home / "sessions").glob("*.jsonl"))


def test_every_command(open_chat, home, work):
    from cli.chat_commands import COMMANDS

    chat = open_chat(rows=60)
    shown = chat.say("/help")
    for name in COMMANDS:
        assert f"/{name}" in shown
    said = {"help"}

    def say(line, *words):
        said.add(line[1:].split()[0])
        shown = chat.say(line)
        for word in words:
            assert word in shown, shown

    say("/files", "no files")
    say("/add a.py missing.py", "a.py goes with the next question", "missing.py: no such file")
    say("/files", "a.py", "goes with the next question")
    assert "is_even" in chat.say(REQUEST)
    say("/tokens", "a.py", "all, laid out", "held free for an answer")
    say("/stats", "tok/s", "answer:")
    say("/set temperature 0.7", "temperature = 0.7")
    say("/retry")
    say("/set", "temperature = 0.7", "max_tokens")
    say("/set temperature 99", "must be between 0 and 10")
    say("/set colour 1", "/set takes one of")
    say("/system Be brief.", "system prompt is set")
    say("/diff", "no edit")
    say("/apply", "no edit")
    say("/undo", "no edit to undo")
    say("/drop a.py", "no longer shown")
    say("/copy")
    say("/model", "tiny")
    say("/model nobody", "no model named 'nobody'")
    say("/save my talk", "one name")
    say("/save talk", "called talk")
    say("/save talk.md", "written to")
    assert "## You" in (work / "talk.md").read_text()
    say("/sessions", "talk *")
    say("/load talk", "the session you are in")
    say("/clear", "forgotten")
    say("/continue", "nothing to go on with")
    say("/nonsense", "no command /nonsense")
    said.discard("nonsense")
    chat.ready()
    chat.send("/exit\r")
    assert chat.wait() == 0
    assert [p.stem for p in sessions(home)] == ["talk"]
    assert set(COMMANDS) - said == {
        "edit",
        "fim",
        "exit",
    }  # these have tests of their own, here and in test_chat_answers


def test_the_screen_at_fixed_width(open_chat):
    chat = open_chat(columns=70, rows=24)
    chat.say(REQUEST)
    lines = [line for line in chat.lines() if line.strip()]
    assert lines[0] == "tiny · context 2048 tokens · /help for commands, Ctrl-D to leave"
    assert lines[1] == "tiny is a toy for trying things out: small Python functions, often"
    assert any(line.startswith(f"> {REQUEST[:40]}") for line in lines)
    assert any("def is_even" in line for line in lines)
    assert re.fullmatch(r" tiny │ [▓░]{10} \d+ of \d+ tokens \(\d+%\) │ [\d.]+ tok/s", lines[-1])


def test_ctrl_c_keeps_what_came_and_continue_goes_on(open_chat, home):
    chat = open_chat("--repeat-penalty", "1", "-n", "300")
    chat.ready()
    chat.send(ENDLESS + "\r")
    chat.until("def")
    chat.child.sendintr()
    chat.until("stopped; /continue goes on")
    chat.ready()
    (path,) = sessions(home)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert events[-1]["do"] == "answer"
    assert events[-1]["cut"] is True
    assert "def" in events[-1]["text"]
    chat.say("/continue")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["do"] for e in events[1:]] == ["ask", "answer", "answer"]
    assert events[-1]["cut"] is False


def test_a_conversation_goes_on_after_a_kill(open_chat, home, work):
    chat = open_chat()
    chat.say(REQUEST)
    chat.child.kill(signal.SIGKILL)
    chat.wait()
    again = open_chat("--resume")
    shown = again.ready()
    assert "1 turn in context" in shown
    assert "is_even" in shown
    again.say("Thanks")
    (path,) = sessions(home)
    assert [json.loads(line)["do"] for line in path.read_text().splitlines()[1:]] == ["ask", "answer"] * 2


def test_a_resumed_conversation_is_not_evaluated_again(open_chat):
    chat = open_chat()
    chat.say(REQUEST)
    chat.send("\x04")
    chat.wait()
    assert "saved as" in chat.text()
    again = open_chat("--resume")
    again.say("Thanks")
    shown = again.say("/stats")
    prompt, known = map(int, re.search(r"prompt: (\d+) tokens, (\d+) of them known", shown).groups())
    assert prompt > known > prompt / 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume"], "no session to resume"),
        (["--session", "../x"], "no name for a session"),
        (["-m", "nobody"], "no model named"),
        (["missing.py"], "missing.py: no such file"),
        (["--temperature", "99"], "between 0 and 10"),
    ],
)
def test_a_start_that_cannot_be(open_chat, arguments, words):
    chat = open_chat(*arguments)
    assert chat.wait() == 2
    assert words in chat.text()
    assert "Traceback" not in chat.text()


def test_filling_in_from_the_conversation_and_back(open_chat):
    chat = open_chat()
    chat.ready()
    chat.send("/fim a.py:2\r")
    chat.until("fim a.py:2>")
    chat.send("\x04")
    assert "is_even" in chat.say(REQUEST)


def test_ctrl_g_opens_what_was_typed_in_the_editor(open_chat, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf " and more" >> "$1"\n')
    editor.chmod(0o755)
    chat = open_chat(EDITOR=str(editor), VISUAL=str(editor))
    chat.ready()
    chat.send("typed\x07")
    chat.until("typed and more")
