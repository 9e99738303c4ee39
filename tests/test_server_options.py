"""Options about loading a model here: refused where the user names a server, and stronger than the settings."""

import json

import pytest
from conftest import assert_refused

NOBODY = "http://127.0.0.1:9"
SOURCE = "".join(f"def function_{n}(a, b):\n    return a + b * {n}\n\n\n" for n in range(120))
COMMANDS = {"chat": ["chat", "-p", "Hi"], "fim": ["fim", "a.py:3"], "eval": ["eval", "fim", "a.py", "--holes", "1"]}
LOADING = (["--ctx", "512"], ["--threads", "2"], ["--stock-routing"], ["--no-server"])


@pytest.fixture(autouse=True)
def source(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)


@pytest.mark.parametrize("option", LOADING, ids=lambda option: option[0])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_server_decides_is_refused_by_name(coder, command, option):
    if command == "eval" and option == ["--no-server"]:
        pytest.skip("eval always loads the model")
    result = coder(*COMMANDS[command], "-m", NOBODY, *option)
    assert_refused(result, option[0], "is on a server", "name a file with -m")


def test_all_of_them_are_named_and_a_server_in_the_settings_is_one_too(coder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(f'[servers.office]\nurl = "{NOBODY}"\n')
    result = coder("fim", "a.py:3", "-m", "office", "--no-server", "--ctx", "512")
    assert_refused(result, "--ctx, --no-server decide", "office is on a server")


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_about_files_do_not_keep_a_server_from_answering(coder, tmp_path, command):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("[load]\nthreads = 2\n[fim]\ncontext = 512\n[chat]\ncontext = 512\n")
    result = coder(*COMMANDS[command], "-m", NOBODY, "--ctx", "0")  # which wants nothing of it
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stderr
    assert "is on a server" not in result.stderr


def test_zero_on_the_command_line_goes_before_the_setting(coder):
    def prompt_tokens(*options):
        result = coder("fim", "a.py:400", "--json", "-n", "2", *options)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["prompt_tokens"]

    usual = prompt_tokens()
    assert coder("config", "fim.context", "512").returncode == 0
    assert prompt_tokens() < usual
    assert prompt_tokens("--ctx", "0") == usual


def test_zero_on_the_command_line_goes_before_the_setting_in_chat(coder):
    assert coder("config", "chat.context", "64").returncode == 0
    long = "def f(): pass\n" * 40
    cut = coder("chat", "-p", long, "-n", "2")
    whole = coder("chat", "-p", long, "-n", "2", "--ctx", "0")
    assert cut.returncode != 0
    assert (whole.returncode, whole.stderr) == (0, "")


def test_a_setting_that_is_too_large_is_named_and_not_an_option_that_nobody_typed(coder):
    assert coder("config", "fim.context", "999999").returncode == 0
    assert_refused(coder("fim", "a.py:3"), "fim.context: ", "`coder config fim.context 2048`")
    assert "--ctx 2048" in coder("fim", "a.py:3", "--ctx", "999999").stderr
