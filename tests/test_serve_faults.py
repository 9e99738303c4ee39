"""Bad requests, bad clients, strangers: each is answered or shed, and the answer that runs comes to no harm."""

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_process import HELLO, Served, in_this_process, serving

from coderv2_local.serving.openapi import description
from coderv2_local.serving.state import Limits, Serving
from coderv2_local.vocabulary import Vocabulary

CHAT, INFILL = "/v1/chat/completions", "/infill"
QUESTION = {"messages": HELLO, "max_tokens": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (CHAT, b"", 400, None),
        (CHAT, b"{", 400, None),
        (CHAT, b"[]", 400, None),
        (CHAT, b"\xff\xfe", 400, None),
        (CHAT, b"[" * 100_000, 400, None),
        (CHAT, b'{"messages": [], "temperature": NaN}', 400, None),
        (CHAT, b'{"messages": ' + b"9" * 5000 + b"}", 400, None),
        (CHAT, {}, 400, "messages"),
        (CHAT, {"messages": None}, 400, "messages"),
        (CHAT, {"messages": []}, 400, "messages"),
        (CHAT, {"messages": ["x"]}, 400, "messages[0]"),
        (CHAT, {"messages": [{"role": "god", "content": "x"}]}, 400, "messages[0].role"),
        (CHAT, {"messages": [{"role": ["user"], "content": "x"}]}, 400, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        (CHAT, {**QUESTION, "temperature": "hot"}, 400, "temperature"),
        (CHAT, {**QUESTION, "temperature": -1}, 400, "temperature"),
        (CHAT, {**QUESTION, "temperature": True}, 400, "temperature"),
        (CHAT, {**QUESTION, "top_p": 1e999}, 400, None),
        (CHAT, {**QUESTION, "max_tokens": 0}, 400, "max_tokens"),
        (CHAT, {**QUESTION, "max_tokens": 1.5}, 400, "max_tokens"),
        (CHAT, {**QUESTION, "stop": [1]}, 400, "stop"),
        (CHAT, {**QUESTION, "stop": ["x"] * 1000}, 400, "stop"),
        (CHAT, {**QUESTION, "logit_bias": {"999999": 1}}, 400, "logit_bias"),
        (CHAT, {**QUESTION, "logit_bias": {"x": 1}}, 400, "logit_bias"),
        (CHAT, {**QUESTION, "logit_bias": [[1]]}, 400, "logit_bias"),
        (CHAT, {**QUESTION, "grammar": "root ::= ("}, 400, "grammar"),
        (CHAT, {**QUESTION, "response_format": {}}, 400, "response_format"),
        (CHAT, {**QUESTION, "response_format": {"type": "xml"}}, 400, "response_format"),
        (CHAT, {**QUESTION, "response_format": {"type": "json_schema"}}, 400, "response_format"),
        (CHAT, {**QUESTION, "json_schema": {"type": "never"}}, 400, "json_schema"),
        (CHAT, {**QUESTION, "grammar": 'root ::= "a"', "json_schema": {}}, 400, "grammar"),
        (INFILL, {"input_prefix": 1}, 400, "input_prefix"),
        (INFILL, {"input_extra": [{"filename": "x"}]}, 400, "input_extra[0]"),
        (INFILL, {"n_predict": -9}, 400, "n_predict"),
        (INFILL, {"samplers": [1]}, 400, "samplers"),
        (INFILL, {"stream": True, "rules": True}, 400, "rules"),
        (INFILL, {"response_fields": [1]}, 400, "response_fields"),
        ("/v1/completions", {"prompt": [99999999]}, 400, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400, "prompt"),
        ("/v1/completions", {"prompt": []}, 400, "prompt"),
        ("/v1/completions", {"prompt": "x", "echo": True}, 400, "echo"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/tokenize", {}, 400, "content"),
        ("/nowhere", {}, 404, None),
        ("/v1/models", {}, 405, None),
    ],
)
def test_a_malformed_request_gets_an_error_in_openai_s_shape(served: Served, path, body, status, param):
    found, answer = served.post(path, body)
    assert (found, answer["error"]["param"]) == (status, param), answer
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert answer["error"]["message"]


FIELDS = sorted(
    {
        (path, name)
        for path, operations in description()["paths"].items()
        for name in operations.get("post", {})
        .get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
        .get("properties", {})
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_answered_or_refused(served: Served, field, value):
    path, name = field
    sound = {
        CHAT: QUESTION,
        "/chat/completions": QUESTION,
        "/v1/completions": {"prompt": "x", "max_tokens": 2},
        INFILL: {"n_predict": 2},
        "/completion": {"prompt": "x", "n_predict": 2},
        "/tokenize": {"content": "x"},
        "/detokenize": {"tokens": [5]},
        "/apply-template": {"messages": HELLO},
    }[path]
    status, answer = served.post(path, {**sound, "deadline_ms": 2000, name: value})
    assert status in (200, 400, 408), answer
    assert status == 200 or answer["error"]["message"]


def test_text_that_is_half_a_character_does_no_harm(served: Served):
    body = rb'{"messages":[{"role":"user","content":"\ud800 \u0000"}],"max_tokens":2,"stop":["\udfff"]}'
    assert served.post(CHAT, body)[0] == 200


@pytest.mark.parametrize("unit", ["a", " ", "\n", "!", "你"])
def test_a_prompt_of_a_million_characters_is_refused_not_fatal(served: Served, unit):
    assert served.post(CHAT, {"messages": [{"role": "user", "content": unit * 1_000_000}]})[0] == 400
    assert (
        served.post(INFILL, {"input_prefix": unit * 300_000, "input_suffix": unit * 300_000, "n_predict": 1})[0] == 200
    )


def test_what_cannot_fit_is_refused_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch):
    """Encoding takes a second for each million characters."""

    def forbid(*_: object, **__: object) -> None:
        raise AssertionError("a long text is encoded")

    with in_this_process() as served:
        monkeypatch.setattr(Vocabulary, "_encode", forbid)
        text = " " * 4_000_000
        for path, body in (
            (CHAT, {"messages": [{"role": "user", "content": text}]}),
            (CHAT, {"messages": [{"role": "user", "content": " " * 4000}] * 1000}),
            ("/v1/completions", {"prompt": text}),
            ("/completion", {"prompt": text}),
        ):
            status, answer = served.post(path, body)
            assert (status, answer["error"].get("code")) == (400, "context_length_exceeded")


def test_minus_one_is_no_limit(served: Served):
    for path, body in (
        (CHAT, {**QUESTION, "max_tokens": -1}),
        (CHAT, {**QUESTION, "max_completion_tokens": -1}),
        ("/v1/completions", {"prompt": "def f(x):\n", "max_tokens": -1, "stop": ["\n\n"]}),
        ("/completion", {"prompt": "def f(x):\n", "n_predict": -1, "stop": ["\n\n"]}),
    ):
        assert served.post(path, body)[0] == 200
    assert served.post("/v1/completions", {"prompt": "x", "max_tokens": 0})[1]["error"]["param"] == "max_tokens"
    assert served.post("/completion", {"prompt": "x", "n_predict": 0})[1]["tokens_predicted"] == 0


def test_strangers_are_turned_away(served: Served):
    for headers, code in (
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Host": f"evil.example:{served.port}"}, "wrong_host"),
        ({"Host": "127.0.0.1@evil.example"}, "wrong_host"),
        ({"Host": ""}, "wrong_host"),
        ({"Origin": "https://evil.example"}, "wrong_origin"),
        ({"Origin": "null"}, "wrong_origin"),
    ):
        status, answer = served.post(CHAT, QUESTION, **headers)
        assert (status, answer["error"]["code"]) == (403, code), headers
    for headers in ({"Host": "localhost"}, {"Origin": "http://localhost:3000"}, {"Origin": "vscode-webview://1"}):
        assert served.post(CHAT, QUESTION, **headers)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("OPTIONS", CHAT, headers={"Origin": "http://localhost:3000"})
    response = connection.getresponse()
    assert response.status == 405
    assert not [name for name, _ in response.getheaders() if name.lower().startswith("access-control")]
    connection.close()


def test_file_names_in_requests_open_nothing(served: Served, tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("SECRET_VALUE = 12345\n")
    body = {"input_extra": [{"text": "x", "filename": str(secret)}], "input_prefix": "SECRET_", "n_predict": 4}
    status, with_name = served.post(INFILL, body)
    assert status == 200
    secret.unlink()
    assert served.post(INFILL, body)[1]["content"] == with_name["content"]


def test_what_nobody_foresaw_is_an_error_of_the_server_without_its_details(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a detail of the inside")

    def break_it(room: Serving) -> None:
        monkeypatch.setattr(room.backend.engine, "generate", broken)

    with in_this_process(Limits(), break_it) as served:
        for body in (QUESTION, {**QUESTION, "stream": True}):
            status, answer = served.post(CHAT, body)
            assert (status, answer["error"]["code"]) == (500, "internal_error")
            assert "detail" not in str(answer)
        assert served.get("/health")[0] == 200


def test_curl_reads_a_stream(served: Served):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = json.dumps({**QUESTION, "max_tokens": 5, "stream": True})
    done = subprocess.run(
        [curl, "-sSN", served.address + CHAT, "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in done.stdout.split("\n") if line]
    assert done.returncode == 0
    assert len(lines) == 7
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
