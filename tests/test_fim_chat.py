"""`/fim` in a conversation: which models it uses, with what word, and how to have it all the same."""

import os

import pytest
from named_models import named
from serve_process import serving

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
if os.name != "nt":
    from terminal import Terminal

FULL, LITE = "DeepSeek-Coder-V2-Instruct", "DeepSeek-Coder-V2-Lite-Instruct"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def chat(tmp_path, home):
    (tmp_path / "a.py").write_text('def add(a, b):\n    """Return the sum of a and b."""\n\n')
    running = []

    def start(*arguments):
        running.append(Terminal("chat", *arguments, cwd=tmp_path, home=home, columns=150, rows=50))
        running[-1].ready()
        return running[-1]

    yield start
    for terminal in running:
        terminal.child.close(force=True)


def assert_refused_unless_forced(chat):
    shown = chat.say("/fim a.py:3")
    assert "was not trained to fill in the middle" in shown
    assert "/fim --force" in shown
    assert "lite-base" in shown
    assert "ended by" not in shown
    chat.send("/fim --force a.py:3\r")
    shown = chat.until("fim a.py:3>")
    assert shown.count("was not trained to fill in the middle") == 2
    assert "ended by" in shown or "suggests nothing" in shown
    chat.send("\x04")
    chat.ready()


def test_the_236b_is_refused(chat, tmp_path):
    named(FULL, tmp_path / "big.gguf")
    assert_refused_unless_forced(chat("-m", "big.gguf"))


def test_lite_instruct_is_used_with_a_notice(chat, tmp_path):
    named(LITE, tmp_path / "m.gguf")
    terminal = chat("-m", "m.gguf")
    terminal.send("/fim a.py:3\r")
    shown = terminal.until("fim a.py:3>")
    assert "is an Instruct model" in shown
    assert "filling in with" in shown


def test_tiny_is_used_without_a_word(chat):
    terminal = chat()
    terminal.send("/fim a.py:3\r")
    shown = terminal.until("fim a.py:3>")
    assert "trained" not in shown
    assert "Instruct" not in shown


def test_after_a_change_of_model_the_new_one_is_judged(chat, tmp_path):
    named(FULL, tmp_path / "big.gguf")
    terminal = chat()
    terminal.say("/model big.gguf")
    assert "was not trained to fill in the middle" in terminal.say("/fim a.py:3")


@pytest.mark.parametrize("by_address", [True, False])
def test_a_model_on_a_server_is_judged_by_its_name(chat, tmp_path, home, by_address):
    model = named(FULL, tmp_path / f"{FULL}.gguf")
    with serving(home, "-m", str(model)) as served:
        terminal = chat("-m", served.address if by_address else str(model))
        assert_refused_unless_forced(terminal)
        assert served.metric("generated_tokens_total") > 0


def test_the_settings_hold_there_too(chat, coder):
    assert coder("config", "fim.max_tokens", "2").returncode == 0
    terminal = chat()
    terminal.send("/fim a.py:3\r")
    assert "2 tokens ·" in terminal.until("ended by: length")
