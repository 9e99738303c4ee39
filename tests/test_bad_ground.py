"""What a conversation stands on gives way: the model's file is cut under it, what was kept of it is damaged."""

import json
import os
import shutil
import signal

import pytest

from coderv2_local.models import find_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
if os.name != "nt":
    from terminal import Terminal

REQUEST = "Write a Python function `is_even`: Return True if a number is even"
UNUSABLE = "what was evaluated before cannot be used and is evaluated again: the saved state is damaged"


@pytest.fixture
def home(tmp_path):
    """The folder that the `coder` fixture uses, too."""
    return tmp_path / "home"


def damage_states(home, count):
    """Change a byte in the middle of every state that is kept."""
    found = list((home / "states").glob("*.state"))
    assert len(found) == count
    for path in found:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def test_a_question_is_on_disk_before_the_model_s_file_is_touched(tmp_path, home):
    """The mapped file becomes shorter: the system ends the process, in the middle of the first answer."""
    path = tmp_path / "cut.gguf"
    shutil.copy(find_model("tiny").path, path)
    with Terminal("chat", "-t", "1", "-m", str(path), "--no-server", cwd=tmp_path, home=home) as chat:
        chat.ready()
        os.truncate(path, 500_000)
        chat.send(REQUEST + "\r")
        assert chat.wait() == -signal.SIGBUS
    (session,) = (home / "sessions").glob("*.jsonl")
    _, *events = map(json.loads, session.read_text().splitlines())
    assert [(e["do"], e["text"]) for e in events] == [("ask", REQUEST)]
    with Terminal("chat", "-t", "1", "-m", "tiny", "--resume", cwd=tmp_path, home=home) as again:
        shown = again.ready()
        assert "this question has no answer yet" in shown
        assert "is_even" in again.say("/continue").replace(REQUEST, "")


def test_a_resumed_chat_tells_of_a_damaged_state_and_goes_on(tmp_path, home):
    with Terminal("chat", "-t", "1", columns=120, cwd=tmp_path, home=home) as chat:
        chat.say(REQUEST)
        chat.send("\x04")
        assert chat.wait() == 0
    damage_states(home, 1)
    with Terminal("chat", "-t", "1", "--resume", columns=120, cwd=tmp_path, home=home) as again:
        shown = again.ready()
        assert UNUSABLE in shown
        assert "1 turn in context" in shown
        again.say("Thanks")
    (session,) = (home / "sessions").glob("*.jsonl")
    assert [json.loads(line)["do"] for line in session.read_text().splitlines()[1:]] == ["ask", "answer"] * 2


def test_infill_tells_of_a_damaged_state_and_goes_on(coder, tmp_path, home):
    (tmp_path / "a.py").write_text('def add(a, b):\n    """Return the sum of a and b."""\n\n\ndef other(a):\n')
    first = coder("fim", "a.py:3", "--no-server")
    damage_states(home, 1)
    second = coder("fim", "a.py:3", "--no-server")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr == ""
    assert UNUSABLE in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert second.stdout == first.stdout
    assert first.stdout.strip()
