"""Values that are valid JSON and that no program means: the server answers or refuses them, it does not fail."""

from collections.abc import Iterator

import pytest
from serve_process import HELLO, Served, serving

HUGE = "1" + "0" * 400  # an integer that no float can hold
BODIES = {
    "/v1/chat/completions": '"messages":[{"role":"user","content":"x"}],"stop":["x"]',
    "/v1/completions": '"prompt":"x","stop":["x"]',
    "/completion": '"prompt":"x","stop":["x"]',
    "/infill": '"input_prefix":"x","stop":["x"]',
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/chat/completions", "max_tokens", "%s"),
        ("/v1/chat/completions", "temperature", "%s"),
        ("/v1/chat/completions", "seed", "%s"),
        ("/v1/completions", "logit_bias", '{"5":%s}'),
        ("/completion", "logit_bias", "[[5,%s]]"),
        ("/infill", "n_predict", "%s"),
        ("/infill", "t_max_predict_ms", "%s"),
    ],
)
def test_a_number_of_four_hundred_digits_is_out_of_range(served: Served, path, field, value, sign):
    status, answer = served.post(path, f'{{{BODIES[path]},"{field}":{value % (sign + HUGE)}}}'.encode())
    assert (status, answer["error"]["param"]) == (400, field), answer


@pytest.mark.parametrize("path", ["/infill", "/completion"])
def test_half_a_character_comes_back_as_it_was_sent(served: Served, path):
    body = {"input_prefix": "x", "prompt": "x", "n_predict": 2, "stop": ["\ud800", "\U0001f642"]}
    status, answer = served.post(path, body)
    assert status == 200
    assert answer["generation_settings"]["stop"] == body["stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_can_be_what_is_wrong(served: Served, stream):
    schema = {"type": "object", "properties": {"\ud800": {"type": "foo"}}}
    body = {"messages": HELLO, "max_tokens": 2, "json_schema": schema, "stream": stream}
    status, answer = served.post("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, "json_schema")


def test_text_beyond_ascii_comes_back_as_it_was_sent(served: Served):
    text = "größer 你好 🙂"
    ids = served.post("/tokenize", {"content": text})[1]["tokens"]
    assert served.post("/detokenize", {"tokens": ids})[1] == {"content": text}
