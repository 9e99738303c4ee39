"""What requests take of memory: seen before it is taken, and bounded for all of them together."""

import json
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_process import LONG, in_this_process

from coderv2_local.serving import model_api
from coderv2_local.serving.json_answer import to_json
from coderv2_local.serving.json_size import ITEM, MOST, size_of_values
from coderv2_local.serving.model_api import MAX_IDS
from coderv2_local.serving.state import Limits

UNITS = ["[]", "{}", '{"":0}', "[[]]", "999", "1.5", '"ab"', '"你"', '{"":[]}', '{"":{}}', "[999]", '{"\\\\":"\\""}']
WORDS = st.text(st.sampled_from('ab"\\,:[]{} \n'), max_size=6)
JSON = st.recursive(
    st.integers(-9, 999) | st.booleans() | st.none() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


def taken(text: str) -> int:
    """Bytes of memory that the values of a text take."""
    tracemalloc.start()
    try:
        value = json.loads(text)
        return tracemalloc.get_traced_memory()[0] if value is not None else 0
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", UNITS)
def test_the_size_of_values_is_foreseen(unit):
    text = f"[{','.join([unit] * 20_000)}]"
    data = text.encode()
    foreseen = size_of_values(data) + len(data)
    needed = taken(text)
    assert needed <= foreseen <= 6 * needed


def test_an_object_of_many_members_is_foreseen_too():
    text = json.dumps({f"{i:x}": i for i in range(50_000)})
    assert taken(text) <= size_of_values(text.encode()) + len(text)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_what_stands_in_strings_counts_for_nothing(value):
    """The same values with other letters in their strings."""

    def plain(value: object) -> object:
        if isinstance(value, str):
            return "x" * len(value)
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, dict):
            return {f"{n}": plain(v) for n, v in enumerate(value.values())}
        return value

    assert size_of_values(json.dumps(value).encode()) == size_of_values(json.dumps(plain(value)).encode())


def test_a_long_text_of_code_takes_no_more_than_a_word():
    code = 'x = {"a": [1, 2, "b\\\\"], "c": {}}\n' * 100_000
    assert size_of_values(json.dumps({"input_prefix": code}).encode()) < 1000


def test_a_million_token_ids_may_come():
    assert size_of_values(json.dumps({"tokens": [5] * MAX_IDS}).encode()) < MAX_IDS * ITEM + 1000 < MOST


def test_a_request_of_countless_values_is_refused_before_they_are_made():
    with in_this_process() as served:
        for unit in ("[]", '{"":0}', '""'):
            body = b'{"x":[' + b",".join([unit.encode()] * 1_100_000) + b"]}"
            status, answer = served.post("/tokenize", body)
            assert (status, answer["error"]["code"]) == (413, "request_too_large")
            assert "too many values" in answer["error"]["message"]


def test_values_count_towards_what_large_requests_may_take_together():
    body = {**LONG, "metadata": [[]] * 20_000}
    with in_this_process(Limits(bodies=3_000_000)) as served:
        events = served.events("/v1/chat/completions", body)
        next(events)
        status, answer = served.post("/tokenize", {"content": "x", "metadata": [[]] * 20_000})
        assert (status, answer["error"]["code"]) == (503, "bodies_full")
        assert served.post("/tokenize", {"content": "x"})[0] == 200
        for _ in events:
            pass
        served.wait_until_idle()
        assert served.post("/tokenize", {"content": "x", "metadata": [[]] * 20_000})[0] == 200


def test_a_text_of_too_many_tokens_is_refused():
    with in_this_process() as served:
        status, answer = served.post("/tokenize", {"content": "\n!" * (MAX_IDS // 2 + 1)})
        assert (status, answer["error"]["code"]) == (400, "too_many_tokens"), answer


def test_long_answers_are_written_on_threads_and_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch):
    threads = set()

    def noted(value: object) -> bytes:
        threads.add(threading.current_thread().name)
        return to_json(value)

    monkeypatch.setattr(model_api, "to_json", noted)
    text = "größer 你好 🙂 \n!" * 100
    with in_this_process() as served:
        pieces = served.post("/tokenize", {"content": text, "with_pieces": True})[1]["tokens"]
        said = [p["piece"] if isinstance(p["piece"], list) else list(p["piece"].encode()) for p in pieces]
        assert bytes(byte for piece in said for byte in piece).decode() == text
        ids = [piece["id"] for piece in pieces]
        assert served.post("/tokenize", {"content": text, "add_special": True})[1]["tokens"][1:] == ids
        assert served.post("/detokenize", {"tokens": ids})[1]["content"] == text
        assert text in served.post("/apply-template", {"messages": [{"role": "user", "content": text}]})[1]["prompt"]
    assert threads
    assert all(name.startswith("answer-prompt") for name in threads)


def test_ids_that_make_more_text_than_a_request_may_have_are_refused():
    with in_this_process(Limits(body=10_000)) as served:
        (token,) = served.post("/tokenize", {"content": " return"})[1]["tokens"]
        status, answer = served.post("/detokenize", {"tokens": [token] * 1500})
        assert (status, answer["error"]["code"]) == (400, "too_many_tokens"), answer
        assert served.post("/detokenize", {"tokens": [token] * 1000})[1]["content"] == " return" * 1000
