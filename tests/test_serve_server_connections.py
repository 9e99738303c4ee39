"""Connections: slow, silent, too many, too large, or with something that is no HTTP on them."""

import json
import resource
import socket
from collections.abc import Iterator

import pytest
from serve_process import LONG, Served, in_this_process, serving, text_of

from coderv2_local.serving.state import Limits

CHAT, INFILL = "/v1/chat/completions", "/infill"
HEAD = b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture
def running(served: Served) -> Iterator[None]:
    """A long answer that runs meanwhile, and is whole in the end."""
    events = served.events(CHAT, LONG)
    next(events)
    yield
    assert len(text_of(events)) > 100


def rest(connection: socket.socket) -> bytes:
    """All that comes until it is closed."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


@pytest.mark.usefixtures("running")
def test_an_oversize_body_is_refused_before_it_is_read(served: Served):
    with served.raw() as connection:
        connection.sendall(HEAD % 99999999999 + b"{")
        assert connection.recv(4000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.usefixtures("running")
def test_who_is_still_sending_an_oversize_body_reads_the_answer_all_the_same(served: Served):
    status, answer = served.post(INFILL, b" " * 15_000_000)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    with served.raw() as connection:
        connection.sendall(b"POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 413 ")
    assert served.post("/nowhere", b" " * 15_000_000)[0] == 404


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"400 Bad Request"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400 Bad Request"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"431 Request Header"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000, b"431 Request Header"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414 "),
        (b"GET /health?" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414 "),
        (b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"400 Bad Request"),
        (b"POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", b"501 Not Implemented"),
        (b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", b"400 Bad Request"),
    ],
    ids=["no host", "TLS", "nonsense", "two hosts", "long header", "endless header", "long path", "long query",
         "negative length", "unknown coding", "version 3", "no chunk"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_counted(served: Served, data, status):
    before = counted(served, status[:3])
    with served.raw() as connection:
        connection.sendall(data)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert counted(served, status[:3]) == before + 1


def counted(served: Served, status: bytes) -> float:
    """Requests so far that were answered with a status."""
    lines = served.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if f'status="{status.decode()}"' in line)


@pytest.mark.usefixtures("running")
def test_who_closes_half_a_connection_is_taken_for_gone(served: Served):
    body = json.dumps(LONG).encode()
    with served.raw() as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
        )
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4000) == b""


def test_slow_senders_are_not_waited_for():
    with in_this_process(Limits(body_seconds=1, head_seconds=1)) as served:
        events = served.events(CHAT, LONG)
        next(events)
        silent, slow_head, slow_body = served.raw(), served.raw(), served.raw()
        slow_head.sendall(b"POST /infill HTTP/1.1\r\nHo")
        slow_body.sendall(b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow_body.recv(4000)
        assert hung_up(silent)
        assert hung_up(slow_head)
        for connection in (silent, slow_head, slow_body):
            connection.close()
        assert len(text_of(events)) > 100


def hung_up(connection: socket.socket) -> bool:
    """Has the server closed it? Waits up to 30 seconds."""
    try:
        return connection.recv(4000) == b""
    except ConnectionResetError:
        return True


def test_bodies_that_never_arrive_keep_nobody_out():
    """More of them than there may be connections: each newcomer takes the place of the one that has waited longest."""
    with in_this_process(Limits(connections=20)) as served:
        slow = []
        for n in range(60):
            slow.append(served.raw())
            slow[-1].sendall(HEAD % 100 + b"{")
            if n % 10 == 0:  # these have arrived
                assert served.get("/health")[0] == 200
        for _ in range(4):
            assert served.post(INFILL, {"n_predict": 2})[0] == 200
        assert served.metric("shed_connections_total") >= 40
        for connection in slow:
            connection.close()


def test_large_bodies_are_bounded_in_all_and_small_ones_get_through():
    with in_this_process(Limits(bodies=3_000_000)) as served:
        slow = [served.raw() for _ in range(2)]
        for connection in slow:
            connection.sendall(HEAD % 2_000_000 + b" " * 1_500_000)
        large = {"input_prefix": "x = 1\n" * 200_000, "n_predict": 2}
        status, answer = served.post(INFILL, large)
        assert (status, answer["error"]["code"]) == (503, "bodies_full")
        assert served.post(INFILL, {"n_predict": 2})[0] == 200
        for connection in slow:
            connection.close()
        assert any(served.post(INFILL, large)[0] == 200 for _ in range(100)), "memory of requests that are gone"


@pytest.mark.parametrize("files", [(256, 4096), (256, 256)], ids=["can be raised", "cannot"])
def test_idle_connections_keep_nobody_out_where_few_files_may_be_open(tmp_path, files):
    """256 files are macOS's default."""
    with serving(tmp_path, files=files) as served:
        idle = [served.raw() for _ in range(300)]
        assert served.post(INFILL, {"n_predict": 2})[0] == 200
        shed = served.metric("shed_connections_total")
        assert shed == 0 if files[1] > 300 else shed >= 100
        for connection in idle:
            connection.close()
    assert "Too many open files" not in "".join(served.log)


def test_ten_thousand_idle_connections_keep_nobody_out(served: Served):
    """As many as this process may open; more than the server keeps in any case."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 500)
    if most < 1000:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + 400, hard))
    events = served.events(CHAT, LONG)
    next(events)
    idle: list[socket.socket] = []
    try:
        for _ in range(most):
            idle.append(served.raw())
        assert served.post(INFILL, {"n_predict": 2})[0] == 200
        assert served.metric("shed_connections_total") >= most - 600
        assert len(text_of(events)) > 100
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
