"""`coder chat` with a running `coder serve`: who answers, what stays the same, and what happens when it ends."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Coder
from serve_process import HELLO, Served, serving
from synthetic_models import LITE, small_model

from cli.repl import close
from coderv2_local import remote
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.sampler import SamplingOptions

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
if os.name != "nt":
    from terminal import Terminal

QUESTION = HELLO[0]["content"]
WORD = "filler"
"""What the random model of these tests says most of the time. It does not stop by itself, and takes seconds."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that the `coder` fixture uses, too."""
    return tmp_path / "home"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.py").write_text("def add(a, b):\n    return a + b\n")
    return folder


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers slowly enough to be interrupted."""
    return small_model(tmp_path_factory.mktemp("models") / "slow.gguf", replace(LITE, n_layers=24))


@pytest.fixture
def open_chat(home, work):
    running = []

    def start(*arguments, **options):
        running.append(Terminal("chat", *arguments, cwd=work, home=home, **{"columns": 100, "rows": 60, **options}))
        return running[-1]

    yield start
    for terminal in running:
        terminal.child.close(force=True)


def events(home: Path) -> list[dict[str, object]]:
    """What the only session holds."""
    (path,) = (home / "sessions").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def has_loaded(chat: Terminal, name: str) -> bool:
    """Does this process hold a model file itself?"""
    return name in Path(f"/proc/{chat.child.pid}/maps").read_text()


def end(served: Served) -> None:
    """As a crash ends it."""
    served.process.kill()
    served.process.wait()


@pytest.mark.parametrize("options", [[], ["--temperature", "0.9", "--seed", "7"], ["--system", "Be brief.", "-n", "9"]])
def test_the_same_answer_as_without_a_server(home: Path, work: Path, coder: Coder, options):
    with serving(home) as served:
        question = ["chat", "-p", QUESTION, "a.py", "--json", *options]
        there = coder(*question, cwd=work)
        answered = served.metric("generated_tokens_total")
        assert answered > 0
        here = coder(*question, "--no-server", cwd=work)
        assert served.metric("generated_tokens_total") == answered
    assert f"answered by the running server at {served.address}; --no-server" in there.stderr
    assert here.stderr == ""
    figures = ("text", "model", "reason", "prompt_tokens", "tokens")
    assert [json.loads(there.stdout)[name] for name in figures] == [json.loads(here.stdout)[name] for name in figures]


@pytest.mark.parametrize("options", [["--ctx", "300"], ["-t", "1"], ["--stock-routing"]])
def test_who_wants_the_model_loaded_otherwise_loads_it(home: Path, coder: Coder, options):
    with serving(home) as served:
        done = coder("chat", "-p", QUESTION, "-n", "4", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert served.metric("generated_tokens_total") == 0


def test_a_server_with_a_key_is_used_by_those_who_have_it(home: Path, coder: Coder, monkeypatch):
    with serving(home, environment={"CODER_SERVE_KEY": "a-long-random-text"}) as served:
        question = ["chat", "-p", QUESTION, "-n", "4"]
        assert coder(*question).stderr == ""
        monkeypatch.setenv("CODER_SERVE_KEY", "a-long-random-text")
        assert f"running server at {served.address}" in coder(*question).stderr
        monkeypatch.setenv("CODER_SERVE_KEY", "another")
        assert coder(*question).stderr == ""


def test_the_conversation_in_the_terminal(open_chat, home: Path, work: Path):
    with serving(home) as served:
        chat = open_chat()
        shown = chat.say("/add a.py")
        assert f"answered by the running server at {served.address}; --no-server loads the model here" in shown
        assert re.search(r"a\.py goes with the next question \(\d+ tokens\)", shown)
        assert "is_even" in chat.say(QUESTION)
        assert not has_loaded(chat, "tiny.gguf")
        shown = chat.say("/tokens")
        used = int(re.search(r"all, laid out +(\d+)", shown)[1])
        assert re.search(
            rf"tiny │ \S+ {used} of {served.get('/props')[1]['default_generation_settings']['n_ctx']}", shown
        )
        shown = chat.say("/stats")
        prompt, tokens = (int(re.search(rf"{name}: (\d+) tokens", shown)[1]) for name in ("prompt", "answer"))
        assert abs(prompt + tokens - used) <= 1, "the answer's first space belongs to the layout"
        chat.say("/set temperature 0.7")
        chat.say("/retry")
        assert [e["do"] for e in events(home)].count("answer") == 2
        chat.ready()
        chat.send("/fim a.py:2\r")
        chat.until("fim a.py:2>")
        before = served.metric("generated_tokens_total")
        chat.send("\r")
        chat.until(lambda text: served.metric("generated_tokens_total") > before)
        chat.send("\x04")
        chat.ready()
        chat.send("\x04")
        assert chat.wait() == 0
        again = open_chat("--resume")
        again.say("Thanks")
        shown = again.say("/stats")
        assert int(re.search(r"(\d+) of them known already", shown)[1]) > used / 2, "the server keeps what is evaluated"


def test_ctrl_c_ends_the_work_on_the_server_and_continue_goes_on(open_chat, home: Path, slow: Path):
    with serving(home, "-m", str(slow)) as served:
        chat = open_chat("-m", str(slow))
        chat.ready()
        chat.send("Go on\r")
        chat.until(WORD)
        chat.child.sendintr()
        chat.until("stopped; /continue goes on")
        served.wait_for("cancelled_total", 1)
        served.wait_until_idle()
        before = events(home)[-1]
        assert (before["do"], before["cut"]) == ("answer", True)
        assert WORD in before["text"]
        chat.say("/set max_tokens 20")
        chat.say("/continue")
        assert [e["do"] for e in events(home)] == ["ask", "answer", "answer"]
        assert not has_loaded(chat, slow.name)


def test_what_is_not_read_to_its_end_is_ended_on_the_server(home: Path, slow: Path):
    with serving(home, "-m", str(slow)) as served, remote.open(served.address) as backend:
        generation = backend.chat([Message("user", "Go on")], SamplingOptions(), 1000)
        next(iter(generation))
        close(generation)  # an interrupt while the screen is drawn leaves it half read
        served.wait_for("cancelled_total", 1)
        assert generation.tokens < 1000


def test_a_full_context_is_compacted(open_chat, home: Path, slow: Path):
    with serving(home, "-m", str(slow), "--ctx", "512") as served:
        chat = open_chat("-m", str(slow), "-n", "60")
        for n in range(4):
            shown = chat.say(f"{n} " * 50)
        assert "The context was full. No longer seen by the model: the oldest turn" in shown
        assert served.metric("requests_running") == 0
        assert "error" not in shown
        assert re.search(r"slow\.gguf │ \S+ \d+ of 512 tokens", shown), "the room is known before the server is asked"


def test_a_server_that_dies_in_an_answer(open_chat, home: Path, slow: Path):
    with serving(home, "-m", str(slow)) as served:
        chat = open_chat("-m", str(slow))
        chat.ready()
        chat.send("Go on\r")
        chat.until(WORD)
        end(served)
        shown = chat.ready()
        assert "in the middle of the answer" in shown
        assert f"the server at {served.address} has ended: opening slow.gguf again" in shown
        assert "/continue goes on with the answer" in shown
        assert "Traceback" not in shown
        assert has_loaded(chat, slow.name)
        before = events(home)[-1]
        assert (before["do"], before["cut"]) == ("answer", True)
        assert WORD in before["text"]
        chat.say("/set max_tokens 20")
        chat.say("/continue")
        assert [e["do"] for e in events(home)] == ["ask", "answer", "answer"]
        assert re.search(r"slow\.gguf │ \S+ \d+ of \d+ tokens", chat.say("And on"))


@pytest.mark.parametrize("while_counting", [True, False])
def test_a_server_that_dies_before_it_answers(open_chat, home: Path, work: Path, slow: Path, while_counting):
    (work / "long.txt").write_text("x y\n" * 200)
    with serving(home, "-m", str(slow)) as served:
        chat = open_chat("-m", str(slow), "-n", "20")
        chat.say("/add long.txt")
        if while_counting:
            served.process.send_signal(signal.SIGSTOP)
        chat.send("Go on\r")
        if while_counting:
            chat.until("> Go on")
        else:
            served.wait_for("requests_running", 1)
        end(served)
        shown = chat.ready()
        assert "has ended: opening slow.gguf again" in shown
        assert [e["do"] for e in events(home)] == ["attach", "ask", "answer"]
        assert has_loaded(chat, slow.name)


def test_a_server_that_ends_between_two_questions_and_another_that_begins(open_chat, home: Path):
    with serving(home) as served:
        chat = open_chat()
        chat.say(QUESTION)
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(20)
    with serving(home) as served:
        shown = chat.say("/files")
        assert f"answered by the running server at {served.address}" in shown
        chat.say(QUESTION)
        assert served.metric("generated_tokens_total") > 0
    shown = chat.say(QUESTION)
    assert shown.count("has ended: opening tiny again") == 2
    assert [e["do"] for e in events(home)] == ["ask", "answer"] * 3
    assert has_loaded(chat, "tiny.gguf")


def test_nothing_is_loaded_to_leave(open_chat, home: Path):
    with serving(home) as served:
        chat = open_chat()
        chat.ready()
        end(served)
        chat.send("/exit\r")
        assert chat.wait() == 0
        assert "opening tiny" not in chat.text()


def test_without_the_file_the_conversation_is_kept(open_chat, home: Path, slow: Path, tmp_path: Path):
    file = tmp_path / "gone.gguf"
    shutil.copy(slow, file)
    with serving(home, "-m", str(file)) as served:
        chat = open_chat("-m", str(file), "-n", "20")
        chat.say("Go on")
        end(served)
        file.unlink()
        shown = chat.say("And on")
        assert "gone.gguf" in shown
        assert "the conversation is kept: /model NAME goes on with another model" in shown
        assert "tiny answers from here on" in chat.say("/model tiny")
        chat.say(QUESTION)
        assert [e["do"] for e in events(home)] == ["ask", "answer"] * 2


def test_options_that_mean_nothing_on_a_server_are_told(open_chat, home: Path):
    chat = open_chat("--ctx", "512", "--no-server")
    chat.ready()
    with serving(home) as served:
        assert "--ctx, --no-server: http:" in chat.say(f"/model {served.address}")
        assert chat.say("/model tiny").count("decides that itself") == 1


def test_tokens_are_counted_and_answers_begin_as_here(home: Path, tiny):
    turns = [
        Message("system", "Be <｜fim▁begin｜> brief."),
        Message("user", "What are <｜fim▁hole｜>, <|EOT|> and <｜end▁of▁sentence｜>?\n"),
        Message("assistant", "<｜fim▁hole｜> is a token.\n"),
        Message("user", "<|EOT|> Grüße, 世界! <｜User｜>"),
    ]
    indented = SamplingOptions(grammar='root ::= "  x = 1" [\\n]')
    with serving(home) as served, remote.open(served.address) as backend:
        for n in range(1, len(turns) + 1):
            assert backend.prompt_length(turns[:n]) == tiny.prompt_length(turns[:n])
        there, here = ("".join(b.chat(turns[-1:], indented, 16)) for b in (backend, tiny))
        assert there == here
        cut = [Message("user", QUESTION), Message("assistant", "```python\ndef is_")]
        there, here = ("".join(b.chat(cut, SamplingOptions(), 8)) for b in (backend, tiny))
        assert there == here
