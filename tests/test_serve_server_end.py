"""How `coder serve` ends: who is still answered, what the others are told, and what is left behind."""

import json
import signal
import socket

import pytest
from serve_process import HELLO, LONG, Served, in_this_process, serving, text_of

from coderv2_local.serving import server
from coderv2_local.serving.server import bind
from coderv2_local.serving.server_file import FOLDER

CHAT = "/v1/chat/completions"


def is_refusal(answer: bytes) -> bool:
    """503 as JSON, with the time after which to come again?"""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in head.lower() and is_error(json.loads(body))


def is_error(body: dict) -> bool:
    return body["error"]["code"] == "shutting_down"


def sent(served: Served, body: dict) -> socket.socket:
    """A connection over which a chat was asked for."""
    data = json.dumps(body).encode()
    connection = served.raw()
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until it is closed."""
    answer = b""
    with connection:
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_whoever_waits_is_refused_in_json_and_the_running_answer_is_let_end(tmp_path):
    with serving(tmp_path) as served:
        events = served.events(CHAT, LONG)
        next(events)
        waiting = [sent(served, {**LONG, "stream": n == 0}) for n in range(4)]
        served.wait_for("requests_waiting", 4)
        served.process.send_signal(signal.SIGTERM)
        assert all(is_refusal(rest(connection)) for connection in waiting)
        assert len(text_of(events)) > 100
        assert served.process.wait(30) == 0
    assert "Traceback" not in "".join(served.log)


def test_an_answer_that_takes_too_long_is_refused_after_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0)
    with in_this_process() as served:
        connection = sent(served, {**LONG, "max_tokens": 1900})
        served.wait_for("requests_running", 1)
    assert is_refusal(rest(connection))


def test_a_stream_that_takes_too_long_ends_with_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0)
    with in_this_process() as served:
        connection = sent(served, {**LONG, "max_tokens": 1900, "stream": True})
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    *_, last = [line for line in rest(connection).split(b"\n") if line.startswith(b"data: ")]
    assert is_error(json.loads(last[6:]))


def test_a_request_that_never_arrives_whole_is_refused_in_json_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0)
    monkeypatch.setattr(server, "CUT_SECONDS", 0)
    with in_this_process() as served:
        slow = served.raw()
        slow.sendall(b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert served.get("/health")[0] == 200
    assert is_refusal(rest(slow))


@pytest.fixture
def hangup_heard():
    """What these tests start hears SIGHUP, also where they themselves were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_it_as_sigterm_does(tmp_path, hangup_heard):
    chat = {"messages": [{"role": "user", "content": "Explain sorting. " * 30}], "max_tokens": 4}
    with serving(tmp_path) as served:
        served.post(CHAT, chat)
        served.process.send_signal(signal.SIGHUP)
        assert served.process.wait(30) == 0
        assert not list((tmp_path / FOLDER).iterdir())
    assert served.log[-1] == "ended\n"
    with serving(tmp_path) as served:
        assert served.post(CHAT, chat)[1]["timings"]["prompt_n"] == 1


def test_who_starts_it_deaf_to_a_closed_terminal_keeps_it(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving(tmp_path) as served:
            served.process.send_signal(signal.SIGHUP)
            assert served.post(CHAT, {"messages": HELLO, "max_tokens": 2})[0] == 200
            assert served.process.poll() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_servers_of_one_model_keep_their_own_states(tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"Explain {word}. " * 30}], "max_tokens": 4} for word in "ab"]
    listeners = [bind("127.0.0.1", 0) for _ in chats]
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    with serving(tmp_path, "--port", ports[0]) as one, serving(tmp_path, "--port", ports[1]) as other:
        for served, chat in zip((one, other), chats, strict=True):
            served.post(CHAT, chat)
    for port, chat in zip(ports, chats, strict=True):
        with serving(tmp_path, "--port", port) as served:
            assert served.post(CHAT, chat)[1]["timings"]["prompt_n"] == 1
