"""Real servers as backends: the same answers as this machine gives."""

import json

import numpy as np
import pytest
from conftest import assert_refused
from remote_servers import (
    llama_cpp_python_server,
    llama_server,
)

from coderv2_local import remote
from coderv2_local.engine import ContextFull
from coderv2_local.prompt.layout import Message, chat_prompt
from coderv2_local.sampling.sampler import SamplingOptions
from quant.errors import InputError

GREEDY = SamplingOptions()
QUESTIONS = [
    "Write a Python function `is_even`: Return True if a number is even",
    "Write a Python function `add`: Add two numbers",
    "Grüße, 世界! <｜fim▁hole｜>",
]
CHAT = "/v1/chat/completions"
SECRET = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def real_llama_server():
    with llama_server() as address:
        yield address


@pytest.fixture(scope="module")
def real_llama_cpp_python_server():
    with llama_cpp_python_server() as address:
        yield address


def ask(backend, text="hi", **options):
    return backend.chat([Message("user", text)], SamplingOptions(**options), 32)


def assert_same_answer(there, here, tiny, messages):
    """The same text; or the same up to a token where the engine here found two nearly equal.

    llama.cpp computes single tokens and batches in different ways (on the CPU flash attention adds up in F16 for single
    tokens), so two versions of it can take different ones of two such tokens.
    """
    text, ids = "".join(here), here.ids
    other = "".join(there)
    if other == text:
        return
    same = next(i for i in range(min(len(text), len(other))) if text[i] != other[i])
    shared = next(n for n in range(len(ids)) if len(tiny.vocabulary.decode(ids[: n + 1]).removeprefix(" ")) > same)
    logits = tiny.engine.evaluate(chat_prompt(messages, tiny.format, tiny.vocabulary) + ids[:shared])
    second, first = np.sort(logits)[-2:]
    assert first - second < 0.5, f"{text[:same]!r} goes on differently: {text[same:]!r}, {other[same:]!r}"


def test_llama_server_answers_as_the_engine_here_does(real_llama_server, tiny):
    with remote.open(real_llama_server) as backend:
        assert (backend.name, backend.n_ctx) == ("tiny.gguf", tiny.n_ctx)
        for question in QUESTIONS[:2]:
            here, there = (
                b.chat([Message("system", "Be brief."), Message("user", question)], GREEDY, 48) for b in (tiny, backend)
            )
            text = "".join(here)
            assert len(text) > 20
            assert "".join(there) == text
            assert there.reason == here.reason
            assert there.prompt_tokens == here.prompt_tokens
            assert there.tokens - here.tokens in (0, 1)  # it counts the end token


def test_a_second_turn_is_laid_out_the_same(real_llama_server, tiny):
    turns = [Message("user", QUESTIONS[1]), Message("assistant", "def add(a, b): ..."), Message("user", QUESTIONS[0])]
    with remote.open(real_llama_server + "/v1") as backend:
        assert backend.prompt_length(turns) == tiny.prompt_length(turns)
        assert_same_answer(backend.chat(turns, GREEDY, 32), tiny.chat(turns, GREEDY, 32), tiny, turns)


def test_llama_server_fills_in_as_the_engine_here_does(real_llama_server, tiny):
    with remote.open(real_llama_server) as backend:
        for prefix, suffix in (("def add(a, b):\n    return ", "\n"), ("# <｜fim▁hole｜>\nx = ", "\nprint(x)\n")):
            here, there = (b.infill(prefix, suffix, GREEDY, 24) for b in (tiny, backend))
            text = "".join(here)
            assert text
            assert "".join(there) == text
            assert there.prompt_tokens == here.prompt_tokens


def test_llama_server_counts_as_the_engine_here_does(real_llama_server, tiny):
    with remote.open(real_llama_server) as backend:
        for text in (*QUESTIONS, "", "\n\n  x"):
            assert backend.count(text) == tiny.count(text)


def test_llama_server_reports_its_progress_and_what_it_reused(real_llama_server):
    seen = []
    long = [Message("user", "a = 1\n" * 80)]
    with remote.open(real_llama_server) as backend:
        "".join(backend.chat(long, GREEDY, 4, lambda done, total: seen.append((done, total))))
        again = backend.chat(long, GREEDY, 4)
        "".join(again)
    assert seen
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 100
    assert again.reused_tokens > 100


def test_llama_server_holds_answers_to_a_schema_and_stops_at_a_text(real_llama_server):
    with remote.open(real_llama_server) as backend:
        schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        text = "".join(backend.chat([Message("user", "n")], SamplingOptions(json_schema=schema), 64))
        assert isinstance(json.loads(text)["n"], int)
        whole = "".join(backend.chat([Message("user", QUESTIONS[0])], GREEDY, 32))
        stopped = backend.chat([Message("user", QUESTIONS[0])], SamplingOptions(stop=["is_even"]), 32)
        assert "".join(stopped) == whole[: whole.index("is_even")]


def test_too_long_a_conversation_is_refused_before_it_is_sent(real_llama_server, tiny):
    with remote.open(real_llama_server) as backend, pytest.raises(ContextFull, match="no room"):
        backend.chat([Message("user", "x = 1\n" * tiny.n_ctx)], GREEDY, 32)


def test_an_answer_can_be_cut_short_and_another_follow(real_llama_server):
    with remote.open(real_llama_server) as backend:
        for _ in range(5):
            generation = backend.chat([Message("user", QUESTIONS[0])], GREEDY, 200)
            next(iter(generation))
            generation.chunks.close()
        assert "def" in "".join(backend.chat([Message("user", QUESTIONS[0])], GREEDY, 32))


def test_llama_cpp_python_server_answers_as_the_engine_here_does(real_llama_cpp_python_server, tiny):
    with remote.open(real_llama_cpp_python_server) as backend:
        assert backend.count(QUESTIONS[0]) == tiny.count(QUESTIONS[0])
        for options in (GREEDY, SamplingOptions(repeat_penalty=1.2)):
            turns = [Message("user", QUESTIONS[0])]
            assert_same_answer(backend.chat(turns, options, 48), tiny.chat(turns, options, 48), tiny, turns)
        with pytest.raises(InputError, match="wrong ones"):
            backend.infill("a", "b", GREEDY, 8)


def test_a_real_server_that_wants_a_key():
    with llama_server(SECRET) as address:
        with pytest.raises(InputError, match="wants a key"):
            remote.open(address, environment={})
        with pytest.raises(InputError, match="does not accept the key in CODER_API_KEY") as caught:
            remote.open(address, environment={"CODER_API_KEY": "wrong-key"})
        assert "wrong-key" not in str(caught.value)
        with remote.open(address, "MINE", environment={"MINE": SECRET + "\n"}) as backend:
            assert "".join(ask(backend, QUESTIONS[0]))


def test_the_commands_with_a_server(real_llama_server, coder, tmp_path):
    asked = coder("chat", "-p", QUESTIONS[0], "-m", real_llama_server, "--temperature", 0, "-n", 12)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("```python\ndef is_even")
    (tmp_path / "app.py").write_text("def add(a, b):\n    return \n\nprint(add(1, 2))\n")
    filled = coder("fim", "app.py:2", "-m", real_llama_server, "--json")
    assert filled.returncode == 0, filled.stderr
    assert json.loads(filled.stdout)["tokens"] > 0
    assert_refused(coder("chat", "-p", "x", "-m", real_llama_server + "#other"), "no model 'other'")
    assert_refused(coder("chat", "-p", "x", "-m", f"http://me:{SECRET}@localhost"), "a user name or a password")
