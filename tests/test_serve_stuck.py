"""Clients that do not read what they asked for, or read it slowly."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
import serve_process
from serve_process import EOS, HELLO, Served, in_this_process

from coderv2_local.serving import server
from coderv2_local.serving.state import Limits

TOKENIZE, CHAT = "/tokenize", "/v1/chat/completions"
TEXT = {"content": "x = 1\n" * 5_000, "with_pieces": True}
STREAM = {
    "messages": HELLO, "max_tokens": 300, "logit_bias": {EOS: -100}, "stream": True, "logprobs": True,
    "top_logprobs": 20,
}  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The kernel takes little of an answer, and no client may read nothing for 0.3 seconds."""

    def bind(*address):
        listener = server.bind(*address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        return listener

    monkeypatch.setattr(serve_process, "bind", bind)
    with in_this_process(Limits(stuck_seconds=0.3)) as served:
        yield served


def asked(served: Served, path: str, body: dict, *headers: str) -> socket.socket:
    """A connection with little room for an answer, over which something was asked for."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", served.port))
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *headers, "", ""]
    connection.sendall("\r\n".join(head).encode() + data)
    return connection


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [(CHAT, STREAM, []), (TOKENIZE, TEXT, []), (TOKENIZE, TEXT, ["Connection: close"])],
    ids=["a stream", "a whole answer", "the last answer"],
)
def test_who_never_reads_is_cut_off(served: Served, path, body, headers):
    with asked(served, path, body, *headers) as connection:
        served.wait_for("stuck_connections_total", 1)
        served.wait_until_idle()
        answer = b""
        try:
            while piece := connection.recv(1 << 20):
                answer += piece
        except ConnectionResetError:
            pass
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith((b"0\r\n\r\n", b"}")), "all of it was sent"


def test_who_reads_slowly_gets_all_of_it(served: Served):
    with asked(served, TOKENIZE, TEXT) as connection:
        began, answer, whole = time.monotonic(), b"", 1 << 30
        while len(answer) < whole and (piece := connection.recv(16_384)):
            answer += piece
            whole = answer.index(b"\r\n\r\n") + 4 + int(answer.lower().split(b"content-length: ")[1].split()[0])
            time.sleep(0.02)
    assert len(answer) == whole
    assert time.monotonic() - began > 0.6, "it was no slower than who reads nothing may be"
    assert served.metric("stuck_connections_total") == 0
