"""Servers that fail, lie, stall or die: what came is kept, the error is clear, nothing hangs and nothing grows."""

import re
import threading
import time

import pytest
from remote_servers import STREAM_HEAD, ScriptedServer, answer, events, free_port, models, says

from coderv2_local import remote
from coderv2_local.engine import ContextFull
from coderv2_local.prompt.layout import Message
from coderv2_local.remote import RemoteError, TimeLimits
from coderv2_local.sampling.sampler import SamplingOptions
from quant.errors import CoderError, InputError

CHAT = "/v1/chat/completions"
SECRET = "sk-0123456789abcdef"
LIMITS = TimeLimits(connect=5, small=5, first_token=5, between_tokens=5, pauses=(0.01, 0.01), longest_pause=2)
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
ANSWER = events(
    {"choices": [{"delta": {"role": "assistant"}}]}, says("Grüße "), says("世界"), says("", "stop"), USAGE, "[DONE]"
)
TEXT = "Grüße 世界"


@pytest.fixture
def server():
    with ScriptedServer({"/v1/models": [models("someone", "m")]}).running() as running:
        yield running


@pytest.fixture
def connect(server):
    opened = []

    def open_it(limits=LIMITS, environment=None):
        opened.append(remote.open(server.address, limits=limits, environment=environment or {}))
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()


def ask(backend, max_tokens=32):
    return backend.chat([Message("user", "hi")], SamplingOptions(), max_tokens)


def collect(generation):
    """The text that came, and the error that ended it."""
    text = ""
    try:
        for chunk in generation:
            text += chunk
    except CoderError as error:
        return text, error
    return text, None


def chunked(data, size):
    pieces = (data[i : i + size] for i in range(0, len(data), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [(STREAM_HEAD, ANSWER), (CHUNKED_HEAD, chunked(ANSWER, 37)), (STREAM_HEAD, ANSWER.replace(b"\n", b"\r\n"))],
    ids=["until closed", "chunked", "dos line ends"],
)
def test_a_server_that_dies_at_any_byte_of_its_answer(server, connect, head, body):
    backend = connect()
    texts = set()
    for cut in range(len(body) + 1):
        server.answers[CHAT] = [head, body[:cut]]
        text, error = collect(ask(backend))
        assert TEXT.startswith(text)
        came = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", body[:cut]) if head is CHUNKED_HEAD else body[:cut]
        # of chunks that break off only whole events count, of an answer without a length whole lines
        end = b"\n\n" if head is CHUNKED_HEAD else b"\n"
        if b'"finish_reason": "stop"}]}' + end in came.replace(b"\r", b"\n"):
            assert (text, error) == (TEXT, None)
        else:
            assert isinstance(error, RemoteError)
            assert "middle of the answer" in error.message
        texts.add((text, error is None))
    assert texts == {("", False), ("Grüße ", False), (TEXT, False), (TEXT, True)}


def test_an_answer_of_single_bytes_and_keep_alive_comments(server, connect):
    noise = b": keep-alive\n\n" + ANSWER.replace(b"\n\n", b"\n\n: ping\r\n\r\n")
    server.answers[CHAT] = [STREAM_HEAD, *(noise[i : i + 1] for i in range(len(noise)))]
    generation = ask(connect())
    assert collect(generation) == (TEXT, None)
    assert (generation.prompt_tokens, generation.tokens, generation.reason) == (3, 2, "end")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, InputError, "does not accept the request"),
        (401, InputError, "wants a key"),
        (402, RemoteError, "paid"),
        (403, InputError, "does not allow"),
        (404, InputError, "no such page or model"),
        (422, InputError, "does not accept the request"),
        (429, RemoteError, "too many requests"),
        (500, RemoteError, "failed (500)"),
        (502, RemoteError, "failed (502)"),
        (503, RemoteError, "may still be loading"),
        (504, RemoteError, "failed (504)"),
        (204, RemoteError, "failed (204)"),
    ],
)
def test_refusals(server, connect, status, kind, words):
    backend = connect()
    server.answers[CHAT] = [answer({"error": {"message": "because\x1b[31m of\nthis", "type": "x"}}, status)]
    text, error = collect(ask(backend))
    assert text == ""
    assert type(error) in (kind, *kind.__subclasses__())
    assert words in error.message + error.hint
    assert status == 204 or "because[31m of this" in error.message
    assert error.exit_code == (2 if kind is InputError else 1)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "This model's maximum context length is 4096 tokens. However, you asked", "code": 400}},
        {
            "error": {
                "code": 400,
                "message": "request exceeds the available context size",
                "type": "exceed_context_size_error",
            }
        },
        {"object": "error", "message": "longer than the model's context length (99 tokens)", "code": 400},
    ],
)
def test_a_full_context_is_told_apart(server, connect, body):
    backend = connect()
    server.answers[CHAT] = [answer(body, 400)]
    with pytest.raises(ContextFull):
        list(ask(backend))
    server.answers[CHAT] = [STREAM_HEAD, events(body if "error" in body else {"error": body})]
    with pytest.raises(ContextFull):
        list(ask(backend))


def test_a_server_that_is_busy_is_asked_again(server, connect):
    backend = connect()
    busy = answer({"error": "loading"}, 503)
    server.answers[CHAT] = [[busy], [answer(b"", 429, Retry_After="0.01")], [STREAM_HEAD, ANSWER]]
    assert collect(ask(backend)) == (TEXT, None)
    assert server.paths().count(CHAT) == 3


def test_tries_end(server, connect):
    backend = connect()
    server.answers[CHAT] = [answer({"error": "loading"}, 503)]
    assert "not ready (503): loading" in collect(ask(backend))[1].message
    assert server.paths().count(CHAT) == 1 + len(LIMITS.pauses)


def test_no_server_is_waited_for_as_long_as_it_likes(server, connect):
    backend = connect()
    for asked in ("3600", "1e300", "nan"):
        server.answers[CHAT] = [answer({}, 429, Retry_After=asked)]
        server.requests.clear()
        assert "429" in collect(ask(backend))[1].message
        assert server.paths().count(CHAT) == (3 if asked == "nan" else 1)


def test_nothing_is_sent_again_once_an_answer_has_begun(server, connect):
    backend = connect()
    server.answers[CHAT] = [STREAM_HEAD, events(says("one"))]
    text, error = collect(ask(backend))
    assert text == "one"
    assert "middle of the answer" in error.message
    assert server.paths().count(CHAT) == 1


def test_nobody_listens():
    with pytest.raises(RemoteError, match="cannot be reached"):
        remote.open(f"http://127.0.0.1:{free_port()}", limits=LIMITS)


def test_a_server_that_starts_late_is_reached():
    port = free_port()
    late = ScriptedServer({"/v1/models": [models("someone", "m")]})
    result = []
    limits = TimeLimits(pauses=(0.2,) * 50)
    thread = threading.Thread(target=lambda: result.append(remote.open(f"http://127.0.0.1:{port}", limits=limits)))
    thread.start()
    time.sleep(0.3)
    with late.running(port):
        thread.join(20)
    assert result[0].model == "m"
    result[0].close()


def test_redirects_are_named_and_the_key_is_not_sent_on(server, connect):
    with ScriptedServer().running() as other:
        backend = connect(environment={"CODER_API_KEY": SECRET})
        for status in (301, 302, 307, 308):
            server.answers[CHAT] = [answer({}, status, Location=f"{other.address}/v1/chat/completions?{SECRET}")]
            error = collect(ask(backend))[1]
            assert f"sends on to another address: {other.address}" in error.message
            assert SECRET not in error.message
        assert other.requests == []


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (answer(b"<html>Welcome to nginx!</html>", 200, "text/html"), "answers with text/html"),
        (answer(b"data: x", 200, "application/octet-stream"), "answers with application/octet-stream"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "no content type"),
        (answer({"choices": []}), "does not stream"),
        (answer({"error": {"message": "no model"}}), "does not stream its answer: no model"),
        (answer(b"x", 200, "text/event-stream", Content_Encoding="gzip"), "compressed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "connection to"),
        (b"", "connection to"),
        (STREAM_HEAD + b"data: {\n\n", "not valid JSON"),
        (STREAM_HEAD + b"data: " + b"[" * 100_000 + b"\n\n", "not valid JSON"),
        (STREAM_HEAD + b"data: []\n\n", "something unknown"),
        (STREAM_HEAD + b"data: [DONE]\n\n", "middle of the answer"),
        (
            STREAM_HEAD + events({"error": {"message": "out of memory"}}),
            "failed in the middle of the answer: out of memory",
        ),
        (STREAM_HEAD + events(says("", "content_filter")), "filter"),
        (STREAM_HEAD + events(says("", "insufficient_system_resource")), "out of resources"),
        (STREAM_HEAD + events(says("", "abort")), "gave the answer up"),
    ],
)
def test_answers_that_are_none(server, connect, response, words):
    backend = connect()
    server.answers[CHAT] = [response]
    text, error = collect(ask(backend))
    assert text == ""
    assert words in error.message
    assert error.exit_code == 1


@pytest.mark.parametrize(
    "listed",
    [
        answer(b"<html>", 200, "text/html"),
        answer(b"{", 200),
        answer([]),
        answer({"data": []}),
        answer({"data": [{"id": 3}, None]}),
        answer({"error": "no"}, 404),
        answer({"data": [{"id": "m", "meta": 3, "max_model_len": "x"}]}, 500),
    ],
)
def test_something_else_at_the_address(server, connect, listed):
    server.answers["/v1/models"] = [listed]
    with pytest.raises(CoderError):
        connect()


def test_strange_figures_are_not_believed(server, connect):
    odd = {"id": "m", "owned_by": 3, "meta": {"n_ctx": -1, "n_params": True}, "max_model_len": "9"}
    server.answers["/v1/models"] = [answer({"data": [odd]})]
    server.answers["/props"] = [answer({"default_generation_settings": {"n_ctx": "many"}, "chat_template": 3})]
    backend = connect()
    assert backend.n_ctx is None
    server.answers[CHAT] = [
        STREAM_HEAD,
        events({"choices": [None], "usage": 3, "timings": [], "prompt_progress": {"total": "x"}}),
        events({"choices": [{"delta": {"content": 3}, "finish_reason": 5}]}),
    ]
    server.answers["/apply-template"] = [answer({"prompt": "x"})]
    assert collect(ask(backend)) == ("", None)


def test_text_that_could_harm_a_terminal_is_cleaned(server, connect):
    backend = connect()
    surrogate = b'data: {"choices": [{"delta": {"content": "a\\ud83d|\\ud83d\\ude00\\u001b[2J\\u202e\\u0000"}}]}\n\n'
    server.answers[CHAT] = [STREAM_HEAD, surrogate, events(says("", "stop"))]
    text, error = collect(ask(backend))
    assert error is None
    assert text == "a\ufffd|😀[2J"
    text.encode()


def flood(piece, limit=200 << 20):
    def pieces(_):
        for _ in range(limit // len(piece)):
            yield piece

    return pieces


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        (CHAT, [STREAM_HEAD, b"data: ", flood(b"a" * 65536)]),
        (CHAT, [STREAM_HEAD, flood(b"data: aaaaaaaaaaaaaaaa\n" * 4096)]),
        (CHAT, [b"HTTP/1.1 200 OK\r\n", flood(b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1024)]),
        (CHAT, [STREAM_HEAD, flood(events(says("word " * 100)) * 64)]),
        (CHAT, [b"HTTP/1.1 500 X\r\n\r\n", flood(b"a" * 65536)]),
        ("/v1/models", [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", flood(b"[" * 65536)]),
    ],
    ids=["line", "event", "headers", "text", "error", "models"],
)
def test_floods_are_cut_off(server, connect, path, pieces):
    backend = connect() if path == CHAT else None
    server.answers[path] = pieces
    if backend is None:
        with pytest.raises(RemoteError, match="more than 32 MB"):
            connect()
    else:
        generation = ask(backend)
        text, error = collect(generation)
        assert len(text) < 20_000
        assert error is not None or generation.reason == "length"
    assert server.hung_up.wait(10)
    assert server.sent < 60 << 20


SLOW = TimeLimits(connect=5, small=0.4, first_token=0.4, between_tokens=0.4, pauses=())
PINGS = [x for _ in range(100) for x in (b": ping\n\n", 0.05)]
EMPTY = [x for _ in range(100) for x in (events(says("")), 0.05)]


@pytest.mark.parametrize(
    ("pieces", "text", "words"),
    [
        ([20.0], "", "did not answer in time"),
        ([STREAM_HEAD, 20.0], "", "fallen silent"),
        ([STREAM_HEAD, events(says("a")), 20.0], "a", "fallen silent"),
        ([STREAM_HEAD, events(says("a")), *PINGS], "a", "fallen silent"),
        ([STREAM_HEAD, *PINGS], "", "fallen silent"),
        ([STREAM_HEAD, *EMPTY], "", "fallen silent"),
        ([CHUNKED_HEAD, b"5\r\nda", 20.0], "", "fallen silent"),
        ([b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n", 20.0], "", "failed (500)"),
    ],
    ids=[
        "no headers",
        "no token",
        "after a token",
        "only pings",
        "only pings at first",
        "empty events",
        "within a chunk",
        "error body",
    ],
)
def test_silence_ends(server, connect, pieces, text, words):
    backend = connect(SLOW)
    server.answers[CHAT] = pieces
    got, error = collect(ask(backend))
    assert got == text
    assert words in error.message
    assert server.hung_up.wait(10)


def test_a_slow_answer_that_gets_on_is_waited_for(server, connect):
    backend = connect(SLOW)
    steady = [x for i in range(6) for x in (events(says(str(i))), 0.2)]
    server.answers[CHAT] = [STREAM_HEAD, *steady, events(says("", "stop"))]
    assert collect(ask(backend)) == ("012345", None)


def test_a_list_of_models_that_drips(server, connect):
    server.answers["/v1/models"] = [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", *PINGS]
    with pytest.raises(RemoteError, match="did not finish its answer in time"):
        connect(SLOW)


def test_closing_a_generation_hangs_up(server, connect):
    backend = connect()
    server.answers[CHAT] = [STREAM_HEAD, events(says("one")), 20.0]
    generation = ask(backend)
    assert next(generation.chunks) == "one"
    generation.chunks.close()
    assert server.hung_up.wait(10)
    assert generation.reason is None
    server.answers[CHAT] = [STREAM_HEAD, ANSWER]
    assert collect(ask(backend)) == (TEXT, None)
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]


def test_reasoning_is_not_shown_and_counts_as_life(server, connect):
    backend = connect(SLOW)
    thought = {"choices": [{"delta": {"reasoning_content": "hm " * 9}}]}
    server.answers[CHAT] = [STREAM_HEAD, *[x for _ in range(4) for x in (events(thought), 0.2)], ANSWER]
    assert collect(ask(backend)) == (TEXT, None)


def test_an_encrypted_address_of_a_plain_server(server):
    with pytest.raises(RemoteError, match="no encrypted connection") as caught:
        remote.open(server.address.replace("http:", "https:"), limits=LIMITS)
    assert "http://" in caught.value.hint
