"""Clients that go away before their answer: told apart, in log and counts, from requests that failed."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serve_process import HELLO, LONG, Served, serving

CHAT, COMPLETION = "/v1/chat/completions", "/completion"
ENDLESS = {"prompt": "def f(", "ignore_eos": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home"), "--log") as server:
        yield server


def send(served: Served, path: str, body: Any, missing: int = 0) -> socket.socket:
    """A request on a connection of its own, without the last bytes of its body."""
    connection, data = served.raw(), json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data[: len(data) - missing])
    return connection


def counts(served: Served) -> dict[str, int]:
    """Responses so far by `path status`, but those of whole answers, and of the tests' own questions."""
    lines = [line.split('"') for line in served.get("/metrics")[1].splitlines() if "requests_total{" in line]
    return {f"{path} {status}": int(rest[2:]) for _, path, _, status, rest in lines if status != "200"}


def wait_for_gone(served: Served, path: str, before: dict[str, int]) -> None:
    """Until one more request of `path` counts as 499; nothing else may have changed by then."""
    expected = {**before, f"{path} 499": before.get(f"{path} 499", 0) + 1}
    deadline = time.monotonic() + 30
    while (now := counts(served)) == before:
        assert time.monotonic() < deadline, "it is not counted"
        time.sleep(0.01)
    assert now == expected


@pytest.mark.parametrize(("path", "body"), [(CHAT, LONG), (COMPLETION, ENDLESS)])
def test_who_leaves_a_whole_answer_is_neither_refused_nor_failed(served: Served, path, body):
    before, cancelled = counts(served), served.metric("cancelled_total")
    connection = send(served, path, body)
    served.wait_for("requests_running", 1)
    time.sleep(0.1)  # it is watched from now on
    connection.close()
    wait_for_gone(served, path, before)
    served.wait_for("cancelled_total", cancelled + 1)
    served.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_the_queue_was_not_too_late(served: Served, stream):
    before = counts(served)
    running = served.events(CHAT, LONG)
    next(running)
    connection = send(served, CHAT, {"messages": HELLO, "stream": stream})
    served.wait_for("requests_waiting", 1)
    time.sleep(0.1)
    connection.close()
    wait_for_gone(served, CHAT, before)
    assert sum(1 for _ in running) > 100
    served.wait_until_idle()


def test_who_leaves_before_the_body_is_whole_is_no_fault_of_the_server(served: Served):
    before = counts(served)
    connection = send(served, CHAT, LONG, missing=3)
    time.sleep(0.1)
    connection.close()
    wait_for_gone(served, CHAT, before)
    assert "Traceback" not in "".join(served.log)


def test_the_log_says_so_and_shows_no_method_of_a_stranger_s_own(served: Served):
    with served.raw() as connection:
        connection.sendall(b"X" * 3000 + b" /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(4000).startswith(b"HTTP/1.1 405 ")
    deadline = time.monotonic() + 30
    while "other /health 405 " not in (log := "".join(served.log)):
        assert time.monotonic() < deadline, log
        time.sleep(0.01)
    assert f"POST {CHAT} 499 " in log
    assert "XXX" not in log


def test_a_body_writes_no_lines_of_its_own_into_the_log(tmp_path):
    with serving(tmp_path, "--log-prompts") as served:
        text = "a\nPOST /forged 200 1 ms\r\n\x1b[31m\u202e größer"
        assert served.post("/tokenize", json.dumps({"content": text}, ensure_ascii=False, indent=1).encode())[0] == 200
        assert served.post("/tokenize", b'\n\nPOST /forged 200 1 ms\n{"content":"x"}')[0] == 400
        served.get("/health")
    log = "".join(served.log)
    assert "größer" in log
    assert not [line for line in log.splitlines() if line.split(" ")[-5:-3] == ["POST", "/forged"]], log
    assert not {"\x1b", "\u202e", "\r"} & set(log)
