"""The end of the time for a filling: of what it makes an answer, and what stays an error."""

import socket

import pytest
from remote_servers import STREAM_HEAD, ScriptedServer, answer, events, models

from coderv2_local import remote
from coderv2_local.backend import Capabilities, OutOfTime
from coderv2_local.engine_errors import ContextFull, EngineError
from coderv2_local.fim.fill import FillOptions, fill
from coderv2_local.fim.hole import Hole
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.remote import Client, TimeLimits
from coderv2_local.remote.address import parse_address
from coderv2_local.remote.failures import KeyRefused, RemoteError
from coderv2_local.sampling.options import SamplingOptions
from quant.errors import CoderError, InputError

HOLE = Hole("a = 1\n", "\nc = 3\n")
OVER = FillOptions(max_seconds=0.0)
"""The time is over before the model is asked, as where loading took all of it."""
PROPS = answer({"default_generation_settings": {"n_ctx": 4096}, "model_path": "m"})


@pytest.fixture(scope="module")
def without_ids(tmp_path_factory):
    """A model file without ids for infill."""
    path = tmp_path_factory.mktemp("models") / "no_fim.gguf"
    data = find_model("tiny").path.read_bytes()
    path.write_bytes(data.replace(b"ggml.fim_", b"ggml.fyn_").replace("｜fim▁".encode(), "｜fyn▁".encode()))
    return path


def test_a_file_that_cannot_fill_in_says_so_when_the_time_is_over_too(without_ids):
    with LocalBackend(without_ids, LoadOptions(n_ctx=512, n_threads=1)) as backend:
        for options in (FillOptions(), OVER):
            with pytest.raises(InputError, match="no_fim"):
                fill(HOLE, backend, None, options)


def test_so_says_the_command(without_ids, coder, tmp_path):
    (tmp_path / "a.py").write_text("a = 1\n")
    done = coder("fim", "a.py:1", "-m", str(without_ids), "--max-ms", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: no_fim.gguf" in done.stderr


def test_a_context_that_is_too_small_is_said_when_the_time_is_over_too():
    with LocalBackend(find_model("tiny").path, LoadOptions(n_ctx=32, n_threads=1)) as backend:
        for options in (FillOptions(), OVER):
            with pytest.raises(ContextFull):
                fill(Hole("a = 1\n" * 100, ""), backend, None, options)


class Fails:
    """A backend that fails as it is told to."""

    name, n_ctx, capabilities = "scripted", 4096, Capabilities(infill=True)

    def __init__(self, error):
        self.error = error

    def count(self, text):
        return len(text)

    def infill(self, prefix, suffix, options, max_tokens, on_progress=None):
        raise self.error


@pytest.mark.parametrize("kind", [KeyRefused, ContextFull, InputError, RemoteError, EngineError, CoderError])
def test_only_the_end_of_the_time_is_no_error(kind):
    with pytest.raises(kind, match="why"):
        fill(HOLE, Fails(kind("why")), None, OVER)
    filling = fill(HOLE, Fails(OutOfTime("late")), None, OVER)
    assert (filling.text, filling.reason) == ("", "time")
    with pytest.raises(OutOfTime):  # another limit than that of the filling
        fill(HOLE, Fails(OutOfTime("late")), None, FillOptions(max_seconds=60))


def silent_at(path, *said):
    answers = {
        "/v1/models": [models("llamacpp", "m")],
        "/props": [PROPS],
        "/tokenize": [answer({"tokens": [1]})],
        "/infill": [STREAM_HEAD, events({"content": "b", "tokens": [1], "stop": True})],
    }
    return ScriptedServer(answers | {path: [*said, 20.0]})


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPPING = [b" ", 0.1] * 20


@pytest.mark.parametrize(
    "server",
    [
        silent_at("/tokenize"),
        silent_at("/tokenize", answer({"tokens": [1]})[:-4]),
        silent_at("/tokenize", JSON_HEAD + b"Content-Length: 99\r\n\r\n", *DRIPPING),
        silent_at("/tokenize", JSON_HEAD + b"\r\n", *DRIPPING),
        silent_at("/infill"),
        silent_at("/infill", STREAM_HEAD),
        silent_at("/infill", STREAM_HEAD, events({"content": "b", "tokens": [1]})),
    ],
    ids=["request", "body", "slow body", "slow body without length", "stream", "first token", "next token"],
)
def test_a_server_that_is_silent_is_told_apart_from_one_that_fails(server):
    def ask(backend):
        backend.count("a")
        return "".join(backend.infill("a", "b", SamplingOptions(), 9))

    with (
        server.running() as running,
        remote.open(running.address, environment={}) as backend,
        backend.within(0.3),
        pytest.raises(OutOfTime),
    ):
        ask(backend)


def test_a_connection_that_takes_too_long_is_the_end_of_the_time():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # nobody accepts: there is no room for another
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        client = Client(parse_address(f"http://127.0.0.1:{address[1]}"), None, TimeLimits(pauses=()))
        with client.within(0.3), pytest.raises(OutOfTime):
            client.get(f"{client.address.root}/health")
        client.close()
        for each in waiting:
            each.close()


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_refusal_within_the_time_is_no_end_of_it(status):
    answers = {
        "/v1/models": [models("llamacpp", "m")],
        "/props": [PROPS],
        "/tokenize": [answer({"tokens": [1]})],
        "/infill": [answer({"error": {"message": "no"}}, status)],
    }
    with ScriptedServer(answers).running() as running, remote.open(running.address, environment={}) as backend:
        with pytest.raises(CoderError, match=str(status)) as caught:
            fill(HOLE, backend, None, FillOptions(max_seconds=0.4))  # a 503 is tried again after 0.5 s
        assert not isinstance(caught.value, OutOfTime)
