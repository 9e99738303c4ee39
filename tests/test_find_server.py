"""Which running server is used: the command line may rule one out, what the settings say of loading may not."""

import json
from pathlib import Path

import pytest
from conftest import Coder
from serve_process import serving
from test_models import home

from coderv2_local.models import find_model
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.serving.find_server import find_server

__all__ = ["home"]

COMMANDS = {
    "fim": ("fim", "a.py:1", "-n", "2"),
    "chat": ("chat", "-p", "hi", "-n", "2"),
    "eval": ("eval", "fim", "code.py", "--holes", "1", "-n", "2"),
}


@pytest.fixture
def answers_there(home: Path, coder: Coder, tmp_path: Path):
    """Does a command have its answer from a server, with these settings?"""
    (tmp_path / "a.py").write_text("a = \n")
    (tmp_path / "code.py").write_text("".join(f"def f{n}(a):\n    b = a + {n}\n    return b\n\n\n" for n in range(9)))

    def ask(served, name: str, settings: str, *options: str) -> bool:
        (home / "config.toml").write_text(settings)
        before = served.metric("generated_tokens_total")
        done = coder(*COMMANDS[name], *options)
        assert done.returncode == 0, done.stderr
        return served.metric("generated_tokens_total") > before

    return ask


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_settings_say_of_loading_the_server_was_told_too(home: Path, answers_there, name):
    home.mkdir(exist_ok=True)
    settings = "[load]\nthreads = 1\nbatch = 128\nubatch = 64\n"
    (home / "config.toml").write_text(settings)
    with serving(home) as served:
        assert answers_there(served, name, settings)
        assert not answers_there(served, name, settings, "--threads", "1")


@pytest.mark.parametrize("name", ["fim", "chat"])
def test_a_context_of_the_settings_is_one_that_must_be_had_at_least(home: Path, answers_there, name):
    with serving(home, "--ctx", "1024") as served:
        for size, is_enough in ((0, True), (512, True), (1024, True), (1025, False)):
            assert answers_there(served, name, f"[{name}]\ncontext = {size}\n") is is_enough, size
        assert not answers_there(served, name, f"[{name}]\ncontext = 512\n", "--ctx", "512")
        for size in ("1024", "0"):
            assert answers_there(served, name, f"[{name}]\ncontext = 2000\n", "--ctx", size)


def test_the_first_server_that_has_enough_context_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODER_HOME", str(home))
    tiny = find_model("tiny").path
    with serving(home, "--ctx", "256") as small, serving(home, "--ctx", "1024") as large:
        assert find_server(tiny, least_ctx=300).port == large.port
        assert find_server(tiny, least_ctx=2000) is None
        assert find_server(tiny).port == min(small.port, large.port)
        assert find_server(tiny, LoadWishes(n_ctx=256)).port == small.port
        assert json.loads((home / "servers" / f"{large.port}.json").read_text())["n_ctx"] == 1024
