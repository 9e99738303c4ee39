"""Where `coder fim` takes its numbers from: options, settings, and what is usual; and what runs the model."""

import json

import pytest
from fim_source import SOURCE
from serve_process import serving

LONG = "".join(f"def function_{n}(a, b):\n    return a + b * {n}\n\n\n" for n in range(120))


@pytest.fixture
def ask(coder, tmp_path):
    """What `coder fim --json` says of a place."""
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "long.py").write_text(LONG)

    def run(place, *options):
        result = coder("fim", place, "--json", *options)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_the_longest_middle(ask, coder):
    assert ask("a.py:3")["tokens"] > 2
    assert coder("config", "fim.max_tokens", "2").returncode == 0
    report = ask("a.py:3")
    assert (report["tokens"], report["reason"]) == (2, "length")
    assert ask("a.py:3", "-n", "1")["tokens"] == 1, "the command line goes before"


def test_the_context(ask, coder):
    usual = ask("long.py:400")["prompt_tokens"]
    assert usual > 512
    assert coder("config", "fim.context", "512").returncode == 0
    small = ask("long.py:400")["prompt_tokens"]
    assert 256 < small <= 512 - 128
    assert ask("long.py:400", "--ctx", "2048")["prompt_tokens"] == usual


def test_the_budgets(ask):
    options = ["long.py:200", "--no-context"]
    usual = ask(*options)
    short = ask(*options, "--prefix-tokens", "100")
    assert usual["prompt_tokens"] - usual["suffix_tokens"] > 500
    assert 25 < short["prompt_tokens"] - short["suffix_tokens"] <= 100 + 8
    less = ask(*options, "--suffix-tokens", "20")
    assert 20 < usual["suffix_tokens"] <= 256
    assert 0 < less["suffix_tokens"] <= 20
    assert usual["prompt_tokens"] - less["prompt_tokens"] == usual["suffix_tokens"] - less["suffix_tokens"]
    none = ask(*options, "--suffix-tokens", "0")
    assert none["suffix_tokens"] == 0


def test_the_times_tell_where_the_time_went(ask):
    from time import monotonic

    began = monotonic()
    report = ask("long.py:400")
    whole = monotonic() - began
    assert 0 < report["first_token_seconds"] <= report["fill_seconds"]
    assert report["load_seconds"] > 0
    assert report["load_seconds"] + report["fill_seconds"] <= whole + 0.002  # each is rounded
    again = ask("long.py:400")
    assert again["reused_tokens"] == again["prompt_tokens"] - 1
    assert again["first_token_seconds"] < report["first_token_seconds"]


def test_a_draw_follows_the_seed(ask):
    warm = ["a.py:3", "--temperature", "1.5"]
    ask(*warm)  # from here on, all find the same evaluated: what was evaluated in a batch differs in the last digits
    first, second = (ask(*warm, "--seed", "1")["text"] for _ in range(2))
    assert first == second
    assert first != ask(*warm, "--seed", "2")["text"]


def test_a_running_server_is_used_unless_told_not_to(ask, tmp_path):
    with serving(tmp_path / "home") as served:
        here = ask("a.py:3", "--no-server")
        assert served.metric("generated_tokens_total") == 0
        there = ask("a.py:3")
        assert served.metric("generated_tokens_total") > 0
    assert here["text"] == there["text"]


def test_two_models_keep_their_states_beside_each_other(coder, ask, tmp_path):
    from named_models import named

    named("DeepSeek-Coder-V2-Lite-Base", tmp_path / "m.gguf")
    for options in ([], ["-m", "m.gguf"]):
        result = coder("fim", "a.py:3", "--json", *options)
        assert (result.returncode, result.stderr) == (0, "")
        assert json.loads(result.stdout)["reused_tokens"] == 0
    for options in ([], ["-m", "m.gguf"]):
        again = ask("a.py:3", *options)
        assert again["reused_tokens"] == again["prompt_tokens"] - 1
