"""Fields of requests: what would change the answer and cannot be had is refused by name, what is told of it is true."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from serve_process import HELLO, Served, serving

from coderv2_local.local_backend import LocalBackend
from coderv2_local.serving.infill_answer import tokens_of

BEFORE = 'def is_even(n):\n    """Return True if n is even."""\n    return '
AFTER = "\n\n\ndef add(a, b):\n    return a + b\n"
BODIES = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
    "/v1/completions": {"prompt": "def f", "max_tokens": 2},
    "/completion": {"prompt": "def f", "n_predict": 2},
    "/infill": {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 2},
}
REFUSED = {
    "frequency_penalty": (0.5, 0, "use repeat_penalty"),
    "presence_penalty": (-1, 0.0, "use repeat_penalty"),
    "n": (2, 1, "one answer"),
    "best_of": (3, 1, "one answer"),
    "echo": (True, False, "not sent back"),
    "tools": ([{"type": "function", "function": {"name": "f"}}], [], "tools"),
    "tool_choice": ("required", "auto", "tools"),
    "functions": ([{"name": "f"}], [], "functions"),
    "mirostat": (2, 0, "top_k"),
    "typical_p": (0.5, 1.0, "top_k"),
    "top_n_sigma": (1.0, -1, "top_k"),
    "xtc_probability": (0.1, 0, "top_k"),
    "dynatemp_range": (0.5, 0.0, "top_k"),
    "dry_multiplier": (0.8, 0.0, "top_k"),
    "lora": ([{"id": 0, "scale": 1}], [], "adapters"),
    "chat_template": ("{{ messages }}", "", "template"),
    "web_search_options": ({"a": 1}, {}, "web"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_by_its_name_and_nothing_else_is(served: Served, path, name):
    wrong, neutral, why = REFUSED[name]
    status, answer = served.post(path, {**BODIES[path], name: wrong})
    assert status == 400
    assert (answer["error"]["param"], answer["error"]["code"]) == (name, "unsupported_parameter")
    assert answer["error"]["message"].startswith(f"{name}: ")
    assert why in answer["error"]["message"]
    for value in (neutral, None):
        assert served.post(path, {**BODIES[path], name: value})[0] == 200, value


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_n_probs_belongs_to_llama_server_s_own_paths(served: Served, path):
    status, answer = served.post(path, {**BODIES[path], "n_probs": 2})
    assert (status, answer["error"]["param"]) == (400, "n_probs")
    assert "logprobs" in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/completion", "/infill"])
def test_n_probs_gives_the_probabilities_of_what_was_written(served: Served, path):
    body = BODIES[path] | {"n_predict": 5, "n_probs": 3, "rules": False}
    answer = served.post(path, body)[1]
    found = answer["completion_probabilities"]
    assert [one["id"] for one in found] == answer["tokens"]
    assert all(len(one["top_logprobs"]) == 3 for one in found)
    assert all(one["logprob"] == one["top_logprobs"][0]["logprob"] for one in found[:1]), "greedy takes the best"
    assert "".join(one["token"] for one in found) == answer["content"]
    events = list(served.events(path, {k: v for k, v in body.items() if k != "rules"}))
    streamed = [one["id"] for e in events for one in e.get("completion_probabilities", [])]
    assert streamed == answer["tokens"]
    assert "completion_probabilities" not in served.post(path, body | {"n_probs": 0})[1]


def test_ignore_eos_goes_on_to_the_limit(served: Served):
    body = {"messages": HELLO, "max_tokens": 400}
    assert served.post("/v1/chat/completions", body)[1]["choices"][0]["finish_reason"] == "stop"
    answer = served.post("/v1/chat/completions", body | {"ignore_eos": True})[1]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 400


def test_the_word_that_ended_the_answer_is_told(served: Served, tiny: LocalBackend):
    body = {"prompt": "def add(a, b):\n", "n_predict": 30, "temperature": 0}
    text = served.post("/completion", body)[1]["content"]
    stop = text[12:16]
    answer = served.post("/completion", body | {"stop": ["never there", text[13:17], stop]})[1]
    assert answer["content"] == text[: text.index(stop)]
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", stop)
    assert tiny.vocabulary.decode(answer["tokens"]) == answer["content"], "the tokens are those of the text"
    assert served.post("/completion", body)[1]["stopping_word"] == ""


def test_the_tokens_are_those_of_what_the_rules_left(served: Served, tiny: LocalBackend):
    vocabulary = tiny.vocabulary
    text = "return a + b\n\n    # und so weiter: größer 你好"
    ids = vocabulary.encode(text)
    for end in range(len(text) + 1):
        whole, tokens = tokens_of(SimpleNamespace(ids=ids, text=text[:end]), vocabulary)
        assert vocabulary.decode(tokens) == text[:end]
        assert tokens[:whole] == ids[:whole]
    assert tokens_of(SimpleNamespace(ids=ids[:-1], text=vocabulary.decode(ids[:-1])), vocabulary)[1] == ids[:-1]
    assert vocabulary.decode(tokens_of(SimpleNamespace(ids=ids, text="a + b"), vocabulary)[1]) == "a + b"
    answer = served.post("/infill", {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 60})[1]
    assert vocabulary.decode(answer["tokens"]) == answer["content"]


def test_a_prompt_that_was_cut_says_so(served: Served):
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 4}
    assert served.post("/infill", body)[1]["truncated"] is False
    long = "".join(f"value_{i} = compute({i})\n" for i in range(2000))
    for more in ({"input_prefix": long + BEFORE}, {"input_suffix": AFTER + long}):
        assert served.post("/infill", body | more)[1]["truncated"] is True
    events = list(served.events("/infill", body | {"input_prefix": long + BEFORE}))
    assert events[-1]["truncated"] is True


@pytest.mark.parametrize("grammar", ['root ::= (("a"?){1000}){100}', 'root ::= ("a"?){500}', 'root ::= (" "?){30}'])
@pytest.mark.parametrize("path", BODIES)
def test_a_grammar_that_would_never_end_is_refused_and_the_next_infill_is_answered(served: Served, path, grammar):
    status, answer = served.post(path, {**BODIES[path], "grammar": grammar})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "grammar", "invalid_grammar")
    status, answer = served.post("/infill", BODIES["/infill"])
    assert status == 200
    assert answer["tokens_predicted"]


def test_a_schema_that_is_not_understood_has_its_code(served: Served):
    body = {"messages": HELLO, "json_schema": {"type": "string", "pattern": "^(a+)+$"}}
    status, answer = served.post("/v1/chat/completions", body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "json_schema", "invalid_grammar")
