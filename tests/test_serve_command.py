"""`coder serve` as a command: what it says, refuses, finds and ends; and who uses a server that runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Coder, assert_refused
from serve_process import HELLO, serving

from coderv2_local import __version__
from coderv2_local.models import find_model
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.serving.find_server import find_server
from coderv2_local.serving.server_file import FOLDER, running_servers

KEY = {"CODER_SERVE_KEY": "a-long-random-text"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that the `coder` fixture uses, too."""
    return tmp_path / "home"


def test_it_says_what_runs_where_and_how_to_end_it(home: Path, coder: Coder):
    with serving(home) as served:
        assert served.log[0] == f"tiny · context 2048 tokens · {served.address}\n"
        assert f"{served.address}/infill" in served.log[1]
        status = coder("serve", "--status")
        assert status.returncode == 0
        assert status.stdout.startswith(f"{served.address}  tiny  context 2048  process {served.process.pid}")
        (entry,) = json.loads(coder("serve", "--status", "--json").stdout)
        assert (entry["address"], entry["version"]) == (served.address, __version__)
        assert (home / FOLDER).stat().st_mode & 0o077 == 0
        stopped = coder("serve", "--stop")
        assert (stopped.returncode, stopped.stderr) == (0, f"ended: {served.address}\n")
        assert served.process.wait(20) == 0
    assert served.log[-1] == "ended\n"
    assert coder("serve", "--status").returncode == 1
    assert_refused(coder("serve", "--stop"), "no server runs")


def test_ctrl_c_ends_it_without_a_traceback(home: Path):
    with serving(home) as served:
        events = served.events("/v1/chat/completions", {"messages": HELLO, "max_tokens": 30})
        next(events)
        served.process.send_signal(signal.SIGINT)
        assert len(list(events)) > 20, "the running answer was not let end"
        assert served.process.wait(20) == 0
    assert "Traceback" not in "".join(served.log)


def test_several_servers_are_told_apart(home: Path, coder: Coder):
    with serving(home) as one, serving(home) as other:
        assert_refused(coder("serve", "--stop"), str(one.port), str(other.port))
        assert coder("serve", "--stop", "--port", one.port).returncode == 0
        assert one.process.wait(20) == 0
        assert other.get("/health")[0] == 200
        assert_refused(coder("serve", "--port", other.port), "cannot listen", str(other.port))


def test_a_server_that_was_killed_is_forgotten(home: Path, coder: Coder):
    with serving(home) as served:
        served.process.kill()
        served.process.wait()
        assert list((home / FOLDER).iterdir())
        assert coder("serve", "--status").returncode == 1
        assert not list((home / FOLDER).iterdir())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"pid": 1}', b"[" * 9000])
def test_a_file_that_names_no_server_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch, content):
    monkeypatch.setenv("CODER_HOME", str(home))
    (home / FOLDER).mkdir(parents=True)
    (home / FOLDER / "8012.json").write_bytes(content)
    assert running_servers() == []


def test_a_process_that_has_a_dead_server_s_number_is_not_ended(home: Path, coder: Coder):
    (home / FOLDER).mkdir(parents=True)
    with serving(home) as served:
        (path,) = (home / FOLDER).iterdir()
        entry = json.loads(path.read_text()) | {"pid": os.getpid()}
        path.write_text(json.dumps(entry))
        assert_refused(coder("serve", "--stop"), "no server runs")
        assert served.get("/health")[0] == 200


def test_other_machines_need_a_key(coder: Coder):
    assert_refused(coder("serve", "--host", "0.0.0.0", "--port", "0"), "0.0.0.0", "API key", "CODER_SERVE_KEY")
    assert_refused(coder("serve", "--key-variable", "NOT_SET_HERE"), "NOT_SET_HERE")
    assert_refused(coder("serve", "--host", "192.0.2.1", "--key-variable", "HOME"), "192.0.2.1")
    assert_refused(coder("serve", "-m", "http://127.0.0.1:1"), "server already")


def test_an_address_that_is_none_is_refused(coder: Coder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODER_SERVE_KEY", KEY["CODER_SERVE_KEY"])
    for host in ("a..b", "nowhere.invalid", "x" * 70):
        assert_refused(coder("serve", "--host", host), host, "no such address")


def test_json_is_for_the_status(coder: Coder):
    assert_refused(coder("serve", "--json"), "--status")


def test_a_key_is_asked_for_everywhere_but_at_health(home: Path):
    with serving(home, "--host", "0.0.0.0", environment=KEY) as served:
        chat = {"messages": HELLO, "max_tokens": 1}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"X-Api-Key": "é"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
                status, answer = served.get(path, **headers)
                assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert served.post("/v1/chat/completions", chat, **headers)[0] == 401
        assert served.get("/health")[0] == 200
        for headers in ({"Authorization": "Bearer a-long-random-text"}, {"X-Api-Key": "a-long-random-text"}):
            assert served.post("/v1/chat/completions", chat, **headers)[0] == 200
            assert served.post("/v1/chat/completions", chat, **headers, Host="my-server.example")[0] == 200
    assert "a-long-random-text" not in "".join(served.log)


@pytest.mark.parametrize(("option", "shows_prompt"), [("--log", False), ("--log-prompts", True)])
def test_the_log_has_prompts_only_where_that_was_asked_for(home: Path, option, shows_prompt):
    with serving(home, option) as served:
        body = {"messages": [{"role": "user", "content": "my secret \x1b[31mplan"}], "max_tokens": 1}
        served.post("/v1/chat/completions", body)
        served.get("/my/secret/path")
    log = "".join(served.log)
    assert "POST /v1/chat/completions 200" in log
    assert "GET other 404" in log
    assert "path" not in log
    assert ("my secret" in log) is shows_prompt
    assert "\x1b" not in log


def test_coder_fim_uses_the_server_of_the_same_model(home: Path, coder: Coder, tmp_path: Path):
    file = tmp_path / "app.py"
    file.write_text('def is_even(n):\n    """Return True if n is even."""\n\n\ndef add(a, b):\n    return a + b\n')
    alone = json.loads(coder("fim", f"{file}:2", "--json").stdout)
    with serving(home) as served:
        answer = json.loads(coder("fim", f"{file}:2", "--json").stdout)
        assert served.metric("prompt_tokens_total") > 0
        assert (answer["text"], answer["reason"]) == (alone["text"], alone["reason"])
        assert json.loads(coder("fim", f"{file}:2", "--json").stdout)["reused_tokens"] > 0
        before = served.metric("prompt_tokens_total")
        assert json.loads(coder("fim", f"{file}:2", "--json", "--threads", "1").stdout)["text"] == alone["text"]
        assert served.metric("prompt_tokens_total") == before, "a user's own settings mean a load of their own"


def test_a_server_that_does_not_answer_is_done_without(home: Path, coder: Coder, tmp_path: Path):
    file = tmp_path / "app.py"
    file.write_text("def is_even(n):\n    return \n")
    with serving(home) as served:
        served.process.send_signal(signal.SIGSTOP)
        (path,) = (home / FOLDER).iterdir()
        entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"port": 1}))  # nobody listens there
        try:
            assert coder("fim", f"{file}:2", "--json").returncode == 0
        finally:
            served.process.send_signal(signal.SIGCONT)


def test_only_a_server_of_the_same_model_version_and_wishes_is_used(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODER_HOME", str(home))
    tiny = find_model("tiny").path
    with serving(home) as served:
        assert find_server(tiny, LoadWishes()).port == served.port
        assert find_server(tiny, LoadWishes(n_ctx=2048)).port == served.port
        assert find_server(tiny, LoadWishes(n_ctx=256)) is None
        assert find_server(tiny, LoadWishes(n_threads=1)) is None
        assert find_server(tiny, LoadWishes(), exact_routing=False) is None
        (path,) = (home / FOLDER).iterdir()
        entry = json.loads(path.read_text())
        for other in ({"version": "0.0.0"}, {"fingerprint": "0" * 64}):
            path.write_text(json.dumps(entry | other))
            assert find_server(tiny, LoadWishes()) is None


def test_help_does_not_load_the_server():
    program = (
        "import sys; sys.argv = ['coder', 'serve', '--help']\n"
        "from cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('uvicorn', 'starlette', 'llama_cpp') if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert "--status" in done.stdout


def test_the_server_is_reached_by_coder_chat_too(home: Path, coder: Coder):
    with serving(home) as served:
        answer = coder("chat", "-p", HELLO[0]["content"], "-n", "20", "--json", "-m", served.address)
        alone = coder("chat", "-p", HELLO[0]["content"], "-n", "20", "--json", "--repeat-penalty", "1")
    assert json.loads(answer.stdout)["tokens"] == 20
    assert json.loads(answer.stdout)["prompt_tokens"] == json.loads(alone.stdout)["prompt_tokens"]
